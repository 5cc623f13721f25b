"""The manifest: one row per raw image with everything that can be known of it, and no judgement.

A file that cannot be read, or whose annotation contradicts it, keeps its row and says why in `fault`.
Memory: one image at a time, plus some 100 bytes per row (with near-repeats some 300) while the rows are put in order.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from vigil.config import DataSection
from vigil.errors import DataError
from vigil.files import digest_bytes
from vigil.images.fine_detail import AGAINST, FARTHEST, REFERENCES, Details, fine_detail, limit_of_likeness
from vigil.images.near_repeats import (
    WORDS,
    Groups,
    Positions,
    Squares,
    grey_square,
    hash_of_square,
    near_pairs,
    nearest_pairs,
    perceptual_hash,
    views_of_one_bag,
)
from vigil.images.readers import ImageRow, read_rows
from vigil.images.readers.sixray import bag_number
from vigil.images.source import decode_image, read_encoded, resolve_below
from vigil.progress import track
from vigil.records import MANIFEST, NORMAL, Box
from vigil.seeding import numpy_generator

_log = logging.getLogger(__name__)

MAX_DECODED_PIXELS = 100_000_000
"""Larger images are not decoded (decompression bombs); their fault says so."""
MASK_MODES = ("1", "L")
_COMPARED = ("L", "RGB")  # modes that the contract can accept; Pillow does not turn all others into grey
# VOC counts from 1 and some tools from 0; a box that reaches over the edge by that much is clipped, not refused.
_BOX_TOLERANCE_PX = 1
_ROWS_PER_BATCH, _ROWS_PER_CHUNK = 1_000, 10_000  # while images are read; while they are put in order
_SPOOL = "rows.arrow"
_SQUARE_SIDE = 64
_MOST_PAIRS = 500_000  # the nearest by hash; confirming as many takes a minute
_PAIRS_AT_ONCE, _READ_AT_ONCE = 1024, 128
# The audit reads its limit off other pictures (those in training, preprocessed) than the manifest; what it could call a
# near-duplicate must be in one group, and one pair more in a group costs nothing.
_MARGIN = 1.5
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts RGB to L


def build_manifest(data: DataSection, max_pixels: int = MAX_DECODED_PIXELS) -> pa.Table:
    """The manifest in memory; see `manifest_parts`."""
    with tempfile.TemporaryDirectory() as folder:
        return pa.concat_tables(
            [MANIFEST.schema.empty_table(), *manifest_parts(data, Path(folder), max_pixels)]
        ).combine_chunks()


def manifest_parts(data: DataSection, scratch: Path, max_pixels: int = MAX_DECODED_PIXELS) -> Iterator[pa.Table]:
    """Yields the manifest of a raw data set (`records.MANIFEST`) by `image_id`; every image is decoded completely.

    Exact copies share a group, whatever the reader says, so that no split can hold both. So do near-repeats: in SIXray
    those by perceptual hash, and two views of one bag (`near_repeats`); in the other imported sets those that the
    leakage audit would call near-duplicates (`fine_detail`), as `data.near_repeats` says. Generated sets know their
    groups. A group is named after its first image.

    Args:
        data: Where the data set lies, and how it is read.
        scratch: Folder for files that hold the rows, and 4 kB per image where near-repeats are sought, while the rows
            are put in order; they are gone at the end.
        max_pixels: Images and masks with more pixels are a fault, not decoded.

    Raises:
        DataError: The data set's layout is broken (see `read_rows`), or two images have the same id.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    spool = scratch / _SPOOL
    rule = "sixray" if data.name == "sixray" else getattr(data, "near_repeats", "never")
    try:
        with tempfile.TemporaryFile(dir=scratch) as squares:
            links = _Links(rule, squares)
            with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_file(sink, MANIFEST.schema) as writer:
                for rows in _batched(_examined(data, max_pixels, links), _ROWS_PER_BATCH):
                    writer.write_batch(pa.RecordBatch.from_pylist(list(rows), MANIFEST.schema))
            with pa.memory_map(str(spool)) as source:
                yield from _in_order(pa.ipc.open_file(source).read_all(), links)
    finally:
        spool.unlink(missing_ok=True)


@dataclass(slots=True)
class _Links:
    """What connects images with one another, in the order of the reader; 32 bytes per image, with near-repeats 74."""

    rule: str
    """`sixray`, or a value of `data.near_repeats`."""
    squares: IO[bytes]
    """A file of the grey squares of all images, 4 kB each, where the rule compares fine detail."""
    groups: bytearray = field(default_factory=bytearray)
    """A hash of the reader's group, 16 bytes each."""
    contents: bytearray = field(default_factory=bytearray)
    """The first 16 bytes of the SHA-256; of an unreadable file a number that no other has."""
    hashes: bytearray = field(default_factory=bytearray)
    """Perceptual hashes, zeros for an image that cannot be compared, where the rule asks for them."""
    widths: array[int] = field(default_factory=lambda: array("i"))
    """SIXray: raw pixels, -1 for an image that cannot be compared."""
    bags: array[int] = field(default_factory=lambda: array("q"))
    """SIXray: the numbers of the names, -1 where there is none."""
    letters: bytearray = field(default_factory=bytearray)
    official: bytearray = field(default_factory=bytearray)
    """Where the rule compares fine detail: 2 for official test images, 1 for other official ones, else 0."""
    labels: bytearray = field(default_factory=bytearray)
    """The same: the label, 255 for an image that cannot be compared."""

    @property
    def compares_detail(self) -> bool:
        """Whether near-repeats are confirmed by their fine detail."""
        return self.rule in ("within_official_splits", "everywhere")

    def add(self, place: int, row: ImageRow, sha256: str, image: Image.Image | None) -> None:
        """Takes down the image that the reader gave as number `place`."""
        pictured = image if image is not None and image.mode in _COMPARED else None
        self.groups += hashlib.blake2b(row.group.encode(), digest_size=16).digest()
        self.contents += place.to_bytes(16) if image is None else bytes.fromhex(sha256[:32])
        if self.compares_detail:
            square = None if pictured is None else grey_square(pictured)
            self.hashes += bytes(8 * WORDS) if square is None else hash_of_square(square).tobytes()
            self.official.append(0 if row.official_split is None else 2 if row.official_split == "test" else 1)
            self.labels.append(255 if square is None else row.label)
            self.squares.write(bytes(_SQUARE_SIDE**2) if square is None else square.tobytes())
        if self.rule == "sixray":
            self.hashes += bytes(8 * WORDS) if pictured is None else perceptual_hash(pictured).tobytes()
            self.widths.append(-1 if pictured is None else pictured.width)
            letter, number = bag_number(PurePosixPath(row.path).stem) or ("?", -1)
            self.bags.append(number)
            self.letters += letter.encode()

    def firsts(self, order: Positions) -> Positions:
        """For each image, in `order`, the first one in it that chains of links connect it with."""
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        groups = Groups(len(order))
        for content in (self.groups, self.contents):
            keys = np.frombuffer(content, dtype=np.uint64).reshape(-1, 2)
            by_key = np.lexsort((keys[:, 1], keys[:, 0]))
            same = (keys[by_key[1:]] == keys[by_key[:-1]]).all(axis=1)
            groups.join(rank[by_key[:-1][same]], rank[by_key[1:][same]])
        if self.compares_detail:
            self._join_near_repeats(rank, groups)
        if self.rule == "sixray":
            widths, bags = np.frombuffer(self.widths, np.int32), np.frombuffer(self.bags, np.int64)
            readable = np.flatnonzero(widths >= 0)
            hashes = np.frombuffer(self.hashes, dtype=np.uint64).reshape(-1, WORDS)[readable]
            for one, other in near_pairs(hashes):
                groups.join(rank[readable[one]], rank[readable[other]])
            letters = np.frombuffer(self.letters, np.uint8)
            for letter in b"NP":
                numbers = np.where(letters == letter, bags, -1)
                by_number = np.argsort(numbers, kind="stable")
                one, other = views_of_one_bag(numbers[by_number], widths[by_number].astype(np.int64))
                groups.join(rank[by_number[one]], rank[by_number[other]])
        return groups.firsts()

    def _join_near_repeats(self, rank: Positions, groups: Groups) -> None:
        """Joins what the audit would call near-duplicates, with a margin.

        The limit is read off pictures of different groups, so it rises as groups grow, until nothing more is joined.
        Where most images have a copy, the copies pass for what is usual, here as in the audit.
        """
        labels = np.frombuffer(self.labels, np.uint8)
        official = np.frombuffer(self.official, np.uint8)
        comparable = np.flatnonzero(labels != 255)
        one, other = nearest_pairs(np.frombuffer(self.hashes, np.uint64).reshape(-1, WORDS)[comparable], _MOST_PAIRS)
        if len(one) == _MOST_PAIRS:
            _log.warning("near-repeats: only the %d pairs with the nearest hashes are compared", _MOST_PAIRS)
        one, other = comparable[one], comparable[other]
        if self.rule == "within_official_splits":
            together = official[one] == official[other]
            one, other = one[together], other[together]
        distance = self._detail_distances(one, other)
        close = distance <= _MARGIN * FARTHEST
        one, other, distance = one[close], other[close], distance[close]

        # As in the audit, normal images of training are what the limit is read off.
        usual = np.flatnonzero((labels == NORMAL) & (official != 2))
        random = numpy_generator(0, "near-repeats")
        if len(usual) > AGAINST:
            usual = np.sort(random.choice(usual, AGAINST, replace=False))
        references = random.permutation(len(usual))[:REFERENCES].tolist()
        details = self._details(usual)
        joined = np.zeros(len(one), np.bool_)
        while True:
            limit = _MARGIN * limit_of_likeness(details, references, groups.firsts()[rank[usual]])
            more = ~joined & (distance <= limit)
            if not more.any():
                break
            groups.join(rank[one[more]], rank[other[more]])
            joined |= more
        if joined.any():
            _log.info("near-repeats: %d pairs are grouped, alike at a distance up to %.4f", joined.sum(), limit)

    def _detail_distances(self, one: Positions, other: Positions) -> npt.NDArray[np.float64]:
        """1 - the correlation of the fine detail of `one[k]` and `other[k]`."""
        order = np.argsort(one, kind="stable")
        found = np.empty(len(one))
        starts = range(0, len(one), _PAIRS_AT_ONCE)
        for start in track(starts, "near-repeats, detail", len(starts), "blocks"):
            part = order[start : start + _PAIRS_AT_ONCE]
            places, where = np.unique(np.concatenate([one[part], other[part]]), return_inverse=True)
            details = self._details(places)
            found[part] = 1 - np.einsum("pk,pk->p", details[where[: len(part)]], details[where[len(part) :]])
        return found

    def _details(self, places: Positions) -> Details:
        """The fine detail of the images at ascending `places`, [len(places), K]."""
        parts = np.split(places, range(_READ_AT_ONCE, len(places), _READ_AT_ONCE))
        return np.concatenate([fine_detail(self._read(part)) for part in parts])

    def _read(self, places: Positions) -> Squares:
        squares = np.empty((len(places), _SQUARE_SIDE, _SQUARE_SIDE), np.uint8)
        for square, place in zip(squares, places.tolist(), strict=True):
            self.squares.seek(place * _SQUARE_SIDE**2)
            square[:] = np.frombuffer(self.squares.read(_SQUARE_SIDE**2), np.uint8).reshape(square.shape)
        return squares


def _examined(data: DataSection, max_pixels: int, links: _Links) -> Iterator[dict[str, Any]]:
    """The row of every image, in the order of the reader, with the reader's group."""
    total = sum(1 for _ in read_rows(data))
    for place, row in enumerate(track(read_rows(data), "manifest", total, "images")):
        values, image = _examine(Path(data.root), row, max_pixels)
        links.add(place, row, values["sha256"], image)
        yield values


def _batched(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


def _in_order(table: pa.Table, links: _Links) -> Iterator[pa.Table]:
    """The rows by image_id, with one group for all images that `links` connects.

    `table` is mapped from a file, and only slices of it are copied: readers give rows in long runs that are in order.
    """
    ids = table["image_id"]
    order = pc.sort_indices(table, sort_keys=[("image_id", "ascending")]).to_numpy().astype(np.int64)
    first_of = links.firsts(order)

    position = table.schema.get_field_index("group")
    before = None
    for start in range(0, len(order), _ROWS_PER_CHUNK):
        places = order[start : start + _ROWS_PER_CHUNK]
        breaks = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        runs = [table.slice(int(places[a]), b - a) for a, b in pairwise(breaks)]
        part = pa.concat_tables(runs).combine_chunks()
        own = part["image_id"].to_pylist()
        for a, b in pairwise([before, *own]):
            if a == b:
                raise DataError(f"image_id: {b} occurs more than once; give each image a name of its own")
        before = own[-1]
        groups = [
            image_id if first == number else ids[int(order[first])].as_py()
            for number, (image_id, first) in enumerate(
                zip(own, first_of[start : start + len(own)].tolist(), strict=True), start
            )
        ]
        yield part.set_column(position, MANIFEST.schema.field("group"), pa.array(groups, pa.string()))


def _examine(root: Path, row: ImageRow, max_pixels: int) -> tuple[dict[str, Any], Image.Image | None]:
    """The manifest row of one image, and the image if it could be decoded."""
    values: dict[str, Any] = {
        "image_id": row.image_id,
        "path": row.path,
        "offset": row.offset,
        "bytes": row.length,
        "sha256": digest_bytes(b""),
        "width": None,
        "height": None,
        "mode": None,
        "brightness": None,
        "label": row.label,
        "kind": row.kind,
        "group": row.group,
        "official_split": row.official_split,
        "mask_path": None if row.empty_mask else row.mask_path,
        "mask_pixels": None,
        "boxes": [],
        "fault": row.fault,
        "fault_of": None if row.fault is None else "annotation",
    }
    try:
        content = read_encoded(root, row.path, row.offset, row.length)
        values["sha256"] = digest_bytes(content)
        image = decode_image(content, row.image_id, max_pixels=max_pixels)
    except DataError as error:
        values.update(fault=str(error), fault_of="image")
        return values, None
    values.update(width=image.width, height=image.height, mode=image.mode, brightness=brightness(image))
    what = "annotation"
    try:
        _check_annotated_size(row, image.size)
        what = "box"
        values["boxes"] = [box._asdict() for box in _checked_boxes(row, image.size)]
        what = "mask"
        marked = _marked_pixels(root, row, image.size, max_pixels)
        values["mask_pixels"] = None if row.empty_mask else marked
    except DataError as error:
        if row.fault is None:
            values.update(fault=str(error), fault_of=what)
    return values, image


def brightness(image: Image.Image) -> float | None:
    """The mean luma of an image of mode L or RGB, 0 to 255 (BT.601); None for any other mode."""
    weights = {"L": (1.0,), "RGB": _LUMA}.get(image.mode)
    if weights is None:
        return None
    counts = np.array(image.histogram(), dtype=np.float64).reshape(len(weights), 256)
    return float(np.dot(weights, counts @ np.arange(256.0)) / (image.width * image.height))


def _check_annotated_size(row: ImageRow, size: tuple[int, int]) -> None:
    """Raises DataError if the annotation is of an image of another size."""
    if row.annotated_size is not None and row.annotated_size != size:
        found = "x".join(map(str, row.annotated_size))
        raise DataError(f"{row.image_id}: the annotation is for {found} pixels, the image has {size[0]}x{size[1]}")


def _checked_boxes(row: ImageRow, size: tuple[int, int]) -> Iterator[Box]:
    """The boxes of a row, clipped by at most a pixel.

    Raises:
        DataError: A box is empty or lies outside.
    """
    width, height = size
    for box in row.boxes:
        kind, x0, y0, x1, y1 = box
        if not (x0 < x1 and y0 < y1):
            raise DataError(f"{row.image_id}: the box {kind} ({x0}, {y0})-({x1}, {y1}) is empty")
        if min(x0, y0) < -_BOX_TOLERANCE_PX or x1 > width + _BOX_TOLERANCE_PX or y1 > height + _BOX_TOLERANCE_PX:
            raise DataError(
                f"{row.image_id}: the box {kind} ({x0}, {y0})-({x1}, {y1}) reaches outside the image ({width}x{height})"
            )
        yield Box(kind, max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))


def _marked_pixels(root: Path, row: ImageRow, size: tuple[int, int], max_pixels: int) -> int | None:
    """How many pixels of the row's mask are not zero; None without a mask. What an empty one means, the contract says.

    Raises:
        DataError: The mask is missing, unreadable, or of another size or mode, or marks something on a normal image.
    """
    if row.mask_path is None:
        return None
    path = resolve_below(root, row.mask_path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{row.image_id}: its mask {row.mask_path} is missing ({error.strerror})") from error
    mask = decode_image(content, f"{row.image_id}: its mask {row.mask_path}", max_pixels=max_pixels)
    if mask.size != size:
        raise DataError(
            f"{row.image_id}: its mask {row.mask_path} is {mask.width}x{mask.height}, the image {size[0]}x{size[1]}"
        )
    if mask.mode not in MASK_MODES:
        raise DataError(
            f"{row.image_id}: its mask {row.mask_path} has the mode {mask.mode}, expected one of "
            f"{', '.join(MASK_MODES)}; save it as 8-bit grey, 0 where the image is normal"
        )
    marked = size[0] * size[1] - mask.histogram()[0]
    if marked and row.label == NORMAL:
        raise DataError(f"{row.image_id}: its mask {row.mask_path} marks something although the image is normal")
    return marked
