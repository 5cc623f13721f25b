"""The manifest: one row per raw image with everything that can be known of it, and no judgement.

A file that cannot be read, or whose annotation contradicts it, keeps its row and says why in `fault`.
Memory: one image at a time, plus about 1 kB per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from vigil.config import DataSection
from vigil.errors import DataError
from vigil.files import digest_bytes
from vigil.images.near_repeats import WORDS, Groups, Hashes, Positions, near_pairs, perceptual_hash, views_of_one_bag
from vigil.images.readers import ImageRow, read_rows
from vigil.images.readers.sixray import bag_number
from vigil.images.source import decode_image, read_encoded, resolve_below
from vigil.progress import track
from vigil.records import MANIFEST, NORMAL, Box

MAX_DECODED_PIXELS = 100_000_000
"""Larger images are not decoded (decompression bombs); their fault says so."""
MASK_MODES = ("1", "L")
# VOC counts from 1 and some tools from 0; a box that reaches over the edge by that much is clipped, not refused.
_BOX_TOLERANCE_PX = 1
_ROWS_PER_CHUNK = 10_000


def build_manifest(data: DataSection, max_pixels: int = MAX_DECODED_PIXELS) -> pa.Table:
    """The manifest of a raw data set (`records.MANIFEST`), sorted by `image_id`; every image is decoded completely.

    Exact copies share a group, and in SIXray so do near-repeats and two views of one bag (`near_repeats`), whatever
    the reader says, so that no split can hold both. A group is named after its first image.

    Args:
        data: Where the data set lies, and how it is read.
        max_pixels: Images and masks with more pixels are a fault, not decoded.

    Raises:
        DataError: The data set's layout is broken (see `read_rows`), or two images have the same id.
    """
    total = sum(1 for _ in read_rows(data))
    chunks: list[pa.RecordBatch] = []
    pending: list[dict[str, Any]] = []
    hashes = bytearray() if data.name == "sixray" else None  # one per row, zeros for an unreadable image
    for row in track(read_rows(data), "manifest", total, "images"):
        values, image = _examine(Path(data.root), row, max_pixels)
        if hashes is not None:
            hashes += perceptual_hash(image).tobytes() if image is not None else bytes(8 * WORDS)
        pending.append(values)
        if len(pending) == _ROWS_PER_CHUNK:
            chunks.append(pa.RecordBatch.from_pylist(pending, MANIFEST.schema))
            pending.clear()
    chunks.append(pa.RecordBatch.from_pylist(pending, MANIFEST.schema))
    table = pa.Table.from_batches(chunks)
    order = pc.sort_indices(table, sort_keys=[("image_id", "ascending")])
    sorted_hashes = None
    if hashes is not None:
        sorted_hashes = np.frombuffer(bytes(hashes), dtype=np.uint64).reshape(-1, WORDS)[order.to_numpy()]
    return _with_joined_groups(table.take(order), sorted_hashes)


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
        "label": row.label,
        "kind": row.kind,
        "group": row.group,
        "official_split": row.official_split,
        "mask_path": None if row.empty_mask else row.mask_path,
        "boxes": [],
        "fault": row.fault,
    }
    try:
        content = read_encoded(root, row.path, row.offset, row.length)
        values["sha256"] = digest_bytes(content)
        image = decode_image(content, row.image_id, max_pixels=max_pixels)
    except DataError as error:
        values["fault"] = str(error)
        return values, None
    values.update(width=image.width, height=image.height, mode=image.mode)
    try:
        values["boxes"] = [box._asdict() for box in _checked_boxes(row, image.size)]
        _check_mask(root, row, image.size, max_pixels)
    except DataError as error:
        values["fault"] = row.fault or str(error)
    return values, image


def _checked_boxes(row: ImageRow, size: tuple[int, int]) -> Iterator[Box]:
    """The boxes of a row, clipped by at most a pixel.

    Raises:
        DataError: The annotation is of an image of another size, or a box is empty or lies outside.
    """
    width, height = size
    if row.annotated_size is not None and row.annotated_size != size:
        found = "x".join(map(str, row.annotated_size))
        raise DataError(f"{row.image_id}: the annotation is for {found} pixels, the image has {width}x{height}")
    for box in row.boxes:
        kind, x0, y0, x1, y1 = box
        if not (x0 < x1 and y0 < y1):
            raise DataError(f"{row.image_id}: the box {kind} ({x0}, {y0})-({x1}, {y1}) is empty")
        if min(x0, y0) < -_BOX_TOLERANCE_PX or x1 > width + _BOX_TOLERANCE_PX or y1 > height + _BOX_TOLERANCE_PX:
            raise DataError(
                f"{row.image_id}: the box {kind} ({x0}, {y0})-({x1}, {y1}) reaches outside the image ({width}x{height})"
            )
        yield Box(kind, max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))


def _check_mask(root: Path, row: ImageRow, size: tuple[int, int], max_pixels: int) -> None:
    """Raises DataError if the row names a mask that is missing, unreadable, of another size, or wrongly (not) empty."""
    if row.mask_path is None:
        return
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
    empty = mask.getbbox() is None
    if row.empty_mask and not empty:
        what = "the image is normal" if row.label == NORMAL else "data.empty_masks lists it as empty"
        raise DataError(f"{row.image_id}: its mask {row.mask_path} marks something although {what}")
    if empty and not row.empty_mask:
        raise DataError(f"{row.image_id}: its mask {row.mask_path} is empty (all zero) although the image is anomalous")


def _with_joined_groups(table: pa.Table, hashes: Hashes | None) -> pa.Table:
    """`table`, sorted by image_id, with one group for all images that the reader, their bytes or hashes connect.

    `hashes` [N, 4], in the table's order, are SIXray's; None for other sets.
    """
    ids = table.column("image_id").combine_chunks()
    repeated = pc.filter(ids[1:], pc.equal(ids[1:], ids[:-1])) if len(ids) else ids
    if len(repeated):
        raise DataError(f"image_id: {len(repeated)} ids occur more than once, first {repeated[0]}")
    groups = Groups(len(ids))
    readable = np.flatnonzero(table.column("width").is_valid().to_numpy())
    for column, rows in (("group", np.arange(len(ids))), ("sha256", readable)):
        codes = table.column(column).combine_chunks().take(pa.array(rows)).dictionary_encode().indices.to_numpy()
        _, first = np.unique(codes, return_index=True)
        groups.join(rows[first[codes]], rows)
    if hashes is not None:
        for one, other in near_pairs(hashes[readable]):
            groups.join(readable[one], readable[other])
        for one, other in _bag_views(table):
            groups.join(one, other)
    names = ids.take(pa.array(groups.firsts()))
    return table.set_column(table.schema.get_field_index("group"), MANIFEST.schema.field("group"), names)


def _bag_views(table: pa.Table) -> Iterator[tuple[Positions, Positions]]:
    """Rows that are two views of one bag by their names' numbers and their widths, for each letter (SIXray)."""
    named = [bag_number(PurePosixPath(path).stem) for path in table.column("path").to_pylist()]
    widths = table.column("width").fill_null(-1).to_numpy()
    for letter in ("N", "P"):
        numbers = np.array([bag[1] if bag and bag[0] == letter else -1 for bag in named], dtype=np.int64)
        order = np.argsort(numbers, kind="stable")
        one, other = views_of_one_bag(numbers[order], widths[order])
        yield order[one], order[other]
