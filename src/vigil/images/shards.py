"""Patches at rest: memory-mapped shards in buckets, and the index of their rows.

A split's folder holds, for every bucket that is not empty,

    bucket-0007.npy         uint8 [N, P, P, C]  the patches: images by id, each image's grid, then regions of interest
    bucket-0007.mask.npy    uint8 [N, P, P]     1 inside a mask or box, else 0 (calibration and test only)
    bucket-0007.json        what the bucket was made from, what it holds, the checksums of the files above, and its own

and `index.parquet` (records.PATCH_INDEX, by bucket and row), which is written last: where it lies, the folder is
whole. All of it is a function of images, tables and settings alone, never of history, time or worker count.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib import format as npy

from vigil.config import PatchSection
from vigil.errors import DataError
from vigil.files import canonical_json, digest_bytes, digest_json, read_json, write_text, written_aside
from vigil.images.patches import Positions, central_pixels, centred_positions, components, cut, grid_positions, pad
from vigil.images.preprocessing import preprocess, preprocess_mask, rasterise, scale_boxes
from vigil.images.source import decode_image, read_encoded, resolve_below
from vigil.progress import Progress
from vigil.records import ANOMALOUS, NORMAL, PATCH_INDEX, Box

FORMAT_VERSION = 2
INDEX_NAME = "index.parquet"
_ROW_COLUMNS = ["image_id", "path", "offset", "bytes", "sha256", "width", "height", "label", "kind", "group"]
_ROW_COLUMNS += ["mask_path", "boxes"]
_CHUNK_PATCHES = 64
_OPEN_MAPS = 64

Pixels = npt.NDArray[np.uint8]


def bucket_of(image_id: str, buckets: int) -> int:
    """The bucket of an image: a hash of its id, so that no other image can move it."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") % buckets


def _file(folder: Path, bucket: int, suffix: str) -> Path:
    return folder / f"bucket-{bucket:04d}{suffix}"


# ------------------------------------------------------------------------------------------------------------ writing


@dataclass(frozen=True, slots=True)
class ExtractionCounts:
    """What one extraction did. Every image of the split is either processed or reused, every bucket written or kept."""

    images_processed: int
    """Decoded and cut."""
    images_reused: int
    """Taken over unread from the shards that were there before."""
    buckets_written: int
    buckets_kept: int
    patches: int


@dataclass(frozen=True, slots=True)
class BucketJob:
    """All that one bucket is made from; can be sent to another process."""

    bucket: int
    split: str
    rows: list[dict[str, Any]]
    root: Path
    patch: PatchSection
    folder: Path


@dataclass(frozen=True, slots=True)
class BucketResult:
    """What became of a `BucketJob`."""

    bucket: int
    images_processed: int
    images_reused: int
    written: bool
    patches: int


def extract_split(
    split: str, manifest: pa.Table, splits: pa.Table, root: Path, patch: PatchSection, folder: Path
) -> ExtractionCounts:
    """Cuts the patches of all images of `split` into shards below `folder`.

    Works bucket by bucket in `patch.workers` processes. A bucket on disk that was made from the same images, labels,
    masks, boxes and settings is kept; from any other, the images that did not change are copied. So a run that was
    killed is continued by the next one, an added image costs one image and one bucket, and the bytes on disk are
    always those of a single run from nothing. Stale buckets and leftovers of killed runs are removed.

    Regions of interest (one patch around each mask component or box) are cut in the test split only. An image's
    anomalous region is its mask where it has one, else its boxes; `patch_labels` says which patches are anomalous. The
    padding reflects the region with the image. Where an anomalous image has no region, its patches are anomalous with
    overlap 0 and masks of zeros.

    Args:
        split: "train", "calibration" or "test".
        manifest: records.MANIFEST with at least the images of the split.
        splits: records.SPLIT_TABLE.
        root: Folder of the raw data set.
        patch: Preprocessing and grid.
        folder: Of the split's shards.

    Raises:
        DataError: The split is empty or names an image that the manifest lacks or faults; an image or a mask is not
            readable, changed since the manifest was made, breaks a rule of preprocessing, or yields no patch; an
            image is labelled normal but has an anomalous region.
    """
    rows = _rows_of_split(split, manifest, splits)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    bucket_of_row = np.array([bucket_of(image_id, patch.buckets) for image_id in rows["image_id"].to_pylist()])
    order = np.argsort(bucket_of_row, kind="stable")
    found, starts = np.unique(bucket_of_row[order], return_index=True)
    buckets, rows_of_bucket = found.tolist(), np.split(order, starts[1:])
    _remove_leftovers(folder, set(buckets))

    jobs = (
        BucketJob(bucket, split, rows.take(members).to_pylist(), Path(root), patch, folder)
        for bucket, members in zip(buckets, rows_of_bucket, strict=True)
    )
    progress = Progress(f"patch {split}", rows.num_rows, "images")
    results = []
    for result in _run(jobs, min(patch.workers, len(buckets))):
        results.append(result)
        progress.advance(result.images_processed + result.images_reused)
    counts = ExtractionCounts(
        images_processed=sum(r.images_processed for r in results),
        images_reused=sum(r.images_reused for r in results),
        buckets_written=sum(r.written for r in results),
        buckets_kept=sum(not r.written for r in results),
        patches=sum(r.patches for r in results),
    )
    PATCH_INDEX.write_parts(folder / INDEX_NAME, (_index_part(folder, b, patch) for b in buckets))
    progress.close(f"{counts.patches} patches, {counts.images_reused} images reused")
    return counts


def _rows_of_split(split: str, manifest: pa.Table, splits: pa.Table) -> pa.Table:
    """The manifest's rows of the split's images, by image id, with the split table's label, kind and group."""
    chosen = splits.filter(pc.equal(splits["split"], split)).sort_by("image_id")
    ids = chosen["image_id"]
    if not len(ids):
        raise DataError(f"split '{split}' holds no image; give it some by the fractions in the split section")
    if pc.count_distinct(ids).as_py() < len(ids):
        raise DataError(f"split '{split}' names an image twice; run `dvc repro` to rebuild data/splits.parquet")
    position = pc.index_in(ids, value_set=manifest["image_id"])
    if position.null_count:
        lost = ids.filter(pc.is_null(position)).slice(0, 3).to_pylist()
        raise DataError(f"split '{split}': {position.null_count} image(s) are not in the manifest, e.g. {lost}")
    rows = manifest.take(position)
    faulty = rows.filter(pc.is_valid(rows["fault"]))
    if faulty.num_rows:
        example = faulty.slice(0, 1).to_pylist()[0]
        raise DataError(
            f"split '{split}': {faulty.num_rows} image(s) carry a fault, e.g. {example['image_id']}: "
            f"{example['fault']}; repair them or set validate.quarantine"
        )
    for name in ("label", "kind", "group"):
        rows = rows.set_column(rows.column_names.index(name), name, chosen[name])
    return rows.select(_ROW_COLUMNS)


def _remove_leftovers(folder: Path, buckets: set[int]) -> None:
    """Removes the index (until the run ends, the folder is not whole), stale buckets and files of killed runs."""
    (folder / INDEX_NAME).unlink(missing_ok=True)
    wanted = {_file(folder, b, suffix).name for b in buckets for suffix in (".npy", ".mask.npy", ".json")}
    for path in folder.iterdir():
        stale = path.name.startswith("bucket-") and path.name not in wanted
        if stale or (path.name.startswith(".") and ".aside-" in path.name):
            path.unlink()


def _run(jobs: Iterable[BucketJob], workers: int) -> Iterator[BucketResult]:
    """The results of all jobs, in the order in which they end; few jobs at a time are in memory."""
    if workers == 1:
        yield from map(write_bucket, jobs)
        return
    pending: set[Future[BucketResult]] = set()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        for job in jobs:
            pending.add(pool.submit(write_bucket, job))
            if len(pending) > workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process of the patch stage ended without a result (killed, or out of memory). Finished buckets "
            "are kept: run again, with fewer patch.workers if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone, so that a killed run leaves no process that goes on writing."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_bucket(job: BucketJob) -> BucketResult:
    """Brings one bucket's files to what `job` asks for; touches nothing where they are that already."""
    settings = _settings(job.split, job.patch)
    sources = [_source_digest(row, job.root, settings) for row in job.rows]
    made_from = [
        [row["image_id"], source, row["label"], row["kind"], row["group"]]
        for row, source in zip(job.rows, sources, strict=True)
    ]
    digest = digest_json([settings, job.patch.anomalous_overlap, made_from])
    before = _whole_record(job.folder, job.bucket)
    if before is not None and before["digest"] == digest:
        return BucketResult(job.bucket, 0, len(job.rows), False, before["patches"])

    reusable, old = {}, {}
    if before is not None:
        reusable = {entry["source"]: entry for entry in before["images"]}
        old = {s: np.load(_file(job.folder, job.bucket, s), mmap_mode="r") for s in before["files"]}
    size = job.patch.patch_size_px
    shapes: dict[str, tuple[int, ...]] = {".npy": (size, size, job.patch.channels)}
    if settings["masks"]:
        shapes[".mask.npy"] = (size, size)
    files = {suffix: _file(job.folder, job.bucket, suffix) for suffix in shapes}
    processed, entries = 0, []
    with ExitStack() as stack:
        new = {s: stack.enter_context(_shard_written(files[s], shape)) for s, shape in shapes.items()}
        for row, source in zip(job.rows, sources, strict=True):
            first_row = new[".npy"].rows
            if (entry := reusable.get(source)) is not None:
                _copy(old, new, entry)
            else:
                entry = _process(row, job, new)
                processed += 1
            entry = entry | {"first_row": first_row, "rows": new[".npy"].rows - first_row, "source": source}
            entries.append(entry | {name: row[name] for name in ("image_id", "label", "kind", "group")})
            if entry["smallest_part_px"] and row["label"] == NORMAL:
                raise DataError(
                    f"{row['image_id']}: labelled normal, but its mask or boxes mark an anomaly; correct one of them"
                )
    patches = new[".npy"].rows
    record = {
        "format": FORMAT_VERSION,
        "bucket": job.bucket,
        "digest": digest,
        "settings": settings,
        "patches": patches,
        "files": {s: {"rows": writer.rows, "crc32": writer.crc32} for s, writer in new.items()},
        "images": entries,
    }
    record["seal"] = digest_json(record)
    write_text(_file(job.folder, job.bucket, ".json"), canonical_json(record) + "\n")
    if not settings["masks"]:
        _file(job.folder, job.bucket, ".mask.npy").unlink(missing_ok=True)
    return BucketResult(job.bucket, processed, len(job.rows) - processed, True, patches)


def _settings(split: str, patch: PatchSection) -> dict[str, Any]:
    """Everything but the images that decides a shard's bytes."""
    fields = {"channels", "shorter_side_px", "patch_size_px", "stride_px", "edge"}
    return {
        "format": FORMAT_VERSION,
        "pillow": PIL.__version__,  # decodes and resizes
        "masks": split != "train",
        "regions_of_interest": patch.regions_of_interest and split == "test",
        **patch.model_dump(mode="json", include=fields),
    }


def _source_digest(row: dict[str, Any], root: Path, settings: dict[str, Any]) -> str:
    """Of everything that decides the image's rows in the shards."""
    mask = None if row["mask_path"] is None else digest_bytes(_read_mask(row["mask_path"], root))
    return digest_json([settings, row["sha256"], mask, [list(_box(b)) for b in row["boxes"]]])


def _read_mask(path: str, root: Path) -> bytes:
    full = resolve_below(root, path)
    return read_encoded(root, path, None, full.stat().st_size if full.is_file() else 0)


def _box(value: dict[str, Any]) -> Box:
    return Box(**value)


def _read_record(folder: Path, bucket: int) -> dict[str, Any]:
    """The record of a bucket, as it was written.

    Raises:
        DataError: It is missing, of another format, or was changed after it was written.
    """
    path = _file(folder, bucket, ".json")
    record = read_json(path)
    whole = isinstance(record, dict) and record.get("format") == FORMAT_VERSION
    if not whole or record.pop("seal", None) != digest_json(record):
        raise DataError(f"{path}: damaged, or written by another version. Delete {folder} and run `dvc repro`")
    return dict(record)


def _whole_record(folder: Path, bucket: int) -> dict[str, Any] | None:
    """The record of a bucket whose files are what it says; None where any is missing, damaged or of another format."""
    try:
        record = _read_record(folder, bucket)
        for suffix, file in record["files"].items():
            path = _file(folder, bucket, suffix)
            if _shape(path)[0] != file["rows"] or _rows_crc32(path) != file["crc32"]:
                return None
    except (DataError, OSError):
        return None
    return record


class _ShardWriter:
    """Appends rows to a `.npy` file whose length is known at the end only.

    NumPy's header keeps room for the first axis to grow, so the header's length does not depend on the row count.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...]) -> None:
        self.rows = 0
        self.crc32 = 0
        self._file, self._shape = file, shape
        self._start = self._write_header()

    def _write_header(self) -> int:
        self._file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.rows, *self._shape)}
        npy.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, rows: Pixels) -> None:
        content = np.ascontiguousarray(rows).data
        self._file.write(content)
        self.rows += len(rows)
        self.crc32 = zlib.crc32(content, self.crc32)

    def finish(self) -> None:
        assert self._write_header() == self._start, "the .npy header changed its length"


@contextmanager
def _shard_written(path: Path, shape: tuple[int, ...]) -> Iterator[_ShardWriter]:
    """Yields a writer of a shard of rows of `shape`; on success the shard replaces `path`."""
    with written_aside(path) as new, new.open("wb") as file:
        writer = _ShardWriter(file, shape)
        yield writer
        writer.finish()


def _copy(old: dict[str, Pixels], new: dict[str, _ShardWriter], entry: dict[str, Any]) -> None:
    first, last = entry["first_row"], entry["first_row"] + entry["rows"]
    for suffix, writer in new.items():
        for start in range(first, last, _CHUNK_PATCHES):
            writer.append(old[suffix][start : min(start + _CHUNK_PATCHES, last)])


class _Region(NamedTuple):
    """Where an image is anomalous, in scaled pixels."""

    mask: npt.NDArray[np.bool_]
    centres: Positions  # [N, 2] (y, x), one per mask component or box
    smallest_part_px: int


def _process(row: dict[str, Any], job: BucketJob, new: dict[str, _ShardWriter]) -> dict[str, Any]:
    """Decodes one image, appends its patches to the shards, and returns its entry of the bucket's record."""
    patch = job.patch
    pixels, region = _load(row, job.root, patch)
    height, width = pixels.shape[:2]
    positions = grid_positions(height, width, patch)
    if not len(positions):
        raise DataError(
            f"{row['image_id']}: {width}x{height} px after preprocessing is smaller than patch_size_px "
            f"({patch.patch_size_px}) and edge is 'drop', so no patch would be cut; set edge to 'reflect'"
        )
    interest = np.empty((0, 2), dtype=np.int64)
    if region is not None and patch.regions_of_interest and job.split == "test":
        interest = centred_positions(region.centres, height, width, patch)
    positions = np.concatenate([positions, interest])

    padded, padded_mask = pad(pixels, patch), None if region is None else pad(region.mask, patch).view(np.uint8)
    inside: list[int] = []
    for start in range(0, len(positions), _CHUNK_PATCHES):
        chunk = positions[start : start + _CHUNK_PATCHES]
        new[".npy"].append(cut(padded, chunk, patch))
        masks = np.zeros((len(chunk), patch.patch_size_px, patch.patch_size_px), dtype=np.uint8)
        if padded_mask is not None:
            masks = cut(padded_mask, chunk, patch)
            inside += masks.sum(axis=(1, 2), dtype=np.int64).tolist()
        if ".mask.npy" in new:
            new[".mask.npy"].append(masks)
    return {
        "height": height,
        "width": width,
        "interest": interest.tolist(),
        "inside_px": inside,
        "smallest_part_px": 0 if region is None else region.smallest_part_px,
    }


def _load(row: dict[str, Any], root: Path, patch: PatchSection) -> tuple[Pixels, _Region | None]:
    """Scaled pixels of an image and, where mask or boxes say so, its anomalous region."""
    if not (row["height"] and row["width"]):
        raise DataError(f"{row['image_id']}: the manifest names no size; run `dvc repro` to rebuild it")
    raw_size = (row["height"], row["width"])
    max_pixels = row["height"] * row["width"]
    content = read_encoded(root, row["path"], row["offset"], row["bytes"])
    if digest_bytes(content) != row["sha256"]:
        raise DataError(f"{row['image_id']}: the file changed since the manifest was made; run `dvc repro`")
    image = decode_image(content, row["image_id"], max_pixels=max_pixels)
    try:
        pixels = preprocess(image, patch)
        if row["mask_path"] is not None:
            mask_content = _read_mask(row["mask_path"], root)
            mask_image = decode_image(mask_content, row["mask_path"], max_pixels=max_pixels)
            mask = preprocess_mask(mask_image, raw_size, patch)
            areas = components(mask)[1]
            return pixels, _Region(mask, central_pixels(mask), int(areas.min())) if len(areas) else None
        boxes = scale_boxes([_box(b) for b in row["boxes"]], raw_size, patch)
    except DataError as error:
        raise DataError(f"{row['image_id']}: {error}") from error
    if not boxes:
        return pixels, None
    centres = np.array([[(b.y0 + b.y1) // 2, (b.x0 + b.x1) // 2] for b in boxes], dtype=np.int64)
    smallest = min((b.y1 - b.y0) * (b.x1 - b.x0) for b in boxes)
    return pixels, _Region(rasterise(boxes, *pixels.shape[:2]), centres, smallest)


def patch_labels(
    inside_px: npt.NDArray[np.int64], grid_patches: int, smallest_part_px: int, image_label: int, patch: PatchSection
) -> npt.NDArray[np.int8]:
    """The labels of an image's patches, int8 [N].

    A patch is anomalous if the anomalous pixels in it are at least `anomalous_overlap` of its own pixels, or at least
    half of the image's smallest mask component (or box), or at least half of those in the fullest patch of the grid.
    The last two make small and thin defects count; every anomalous image that the grid covers has such a patch.

    Where nothing says which pixels are anomalous (`smallest_part_px` 0: no box, no mask or an empty one, as in
    CIFAR-10), every patch takes the image's label.

    Args:
        inside_px: Pixels inside mask or boxes per patch, [N]; the grid's patches first.
        grid_patches: How many of them belong to the grid.
        smallest_part_px: Area of the smallest mask component or box.
        image_label: Of the whole image.
        patch: Preprocessing and grid.
    """
    if not smallest_part_px:
        return np.full(len(inside_px), image_label, dtype=np.int8)
    fullest = int(inside_px[:grid_patches].max())
    required = min(patch.anomalous_overlap * patch.patch_size_px**2, smallest_part_px / 2, fullest / 2)
    return np.where((inside_px >= required) & (inside_px > 0), ANOMALOUS, NORMAL).astype(np.int8)


def _index_part(folder: Path, bucket: int, patch: PatchSection) -> pa.Table:
    """The index rows of one bucket, from its record."""
    entries = _read_record(folder, bucket)["images"]
    positions, names, labels, overlaps = [], [], [], []
    for entry in entries:
        grid = grid_positions(entry["height"], entry["width"], patch)
        interest = np.array(entry["interest"], dtype=np.int64).reshape(-1, 2)
        inside = np.array(entry["inside_px"] or [0] * entry["rows"], dtype=np.int64)
        positions += [grid, interest]
        names += [f"{y},{x}" for y, x in grid.tolist()] + [f"roi-{number}" for number in range(len(interest))]
        labels.append(patch_labels(inside, len(grid), entry["smallest_part_px"], entry["label"], patch))
        overlaps.append(inside / patch.patch_size_px**2)

    image_of_row = np.repeat(np.arange(len(entries)), [entry["rows"] for entry in entries])
    fields = ("image_id", "height", "width", "label", "kind", "group")
    images = pa.table({field: [entry[field] for entry in entries] for field in fields}).take(image_of_row)
    y_x, total = np.concatenate(positions), len(image_of_row)
    name = pa.array(names)
    return pa.table(
        {
            "patch_id": pc.binary_join_element_wise(images["image_id"], name, "@"),
            "image_id": images["image_id"],
            "bucket": np.full(total, bucket),
            "row": np.arange(total),
            "source": pc.if_else(pc.starts_with(name, "roi-"), "roi", "grid"),
            "y": y_x[:, 0],
            "x": y_x[:, 1],
            "image_height": images["height"],
            "image_width": images["width"],
            "label": np.concatenate(labels),
            "overlap": np.concatenate(overlaps),
            "image_label": images["label"],
            "kind": images["kind"],
            "group": images["group"],
        }
    )


# ------------------------------------------------------------------------------------------------------------ reading


class PatchShards:
    """A split's patches, read in any order through memory maps.

    Rows are numbered as in the index: by bucket, then by row in the bucket. Maps are opened when first read, at most
    64 at a time; a pickled copy carries paths only, so that every process opens its own.
    """

    def __init__(self, folder: Path, rows_per_bucket: dict[int, int], patch_size: int, channels: int) -> None:
        self.folder = folder
        self.buckets = tuple(rows_per_bucket)
        self.patch_size = patch_size
        self.channels = channels
        self._starts = np.cumsum([0, *rows_per_bucket.values()])
        self._maps: OrderedDict[tuple[int, str], Pixels] = OrderedDict()

    @classmethod
    def open(cls, folder: Path) -> PatchShards:
        """The shards below `folder`; no pixel is read.

        Raises:
            DataError: The index is missing or damaged, or a shard is missing, truncated, or has other rows than the
                index says.
        """
        folder = Path(folder)
        rows_per_bucket = _rows_per_bucket(folder / INDEX_NAME)
        shape: tuple[int, ...] | None = None
        for bucket, rows in rows_per_bucket.items():
            path = _file(folder, bucket, ".npy")
            found = _shape(path)
            shape = shape or found[1:]
            if len(found) != 4 or found != (rows, *shape):
                raise DataError(
                    f"{path}: expected patches of shape {(rows, *shape)} by {INDEX_NAME}, found {found}. Delete "
                    f"{folder} and run `dvc repro`"
                )
            masks = _file(folder, bucket, ".mask.npy")
            if masks.exists() and _shape(masks) != found[:3]:
                raise DataError(
                    f"{masks}: expected masks of shape {found[:3]}, found {_shape(masks)}. Delete {folder} and run "
                    f"`dvc repro`"
                )
        if shape is None:
            raise DataError(f"{folder}: the index holds no patch. Delete the folder and run `dvc repro`")
        return cls(folder, rows_per_bucket, shape[0], shape[2])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("index", "_sources")}
        return state | {"_maps": OrderedDict()}

    @cached_property
    def index(self) -> pa.Table:
        """records.PATCH_INDEX, read at first use."""
        return PATCH_INDEX.read(self.folder / INDEX_NAME)

    @cached_property
    def digest(self) -> str:
        """Of everything the buckets were made from and of their bytes; equal digests mean equal patches and labels."""
        records = [self.record(b) for b in self.buckets]
        return digest_json([[r["bucket"], r["digest"], r["files"]] for r in records])

    def record(self, bucket: int) -> dict[str, Any]:
        """What the bucket was made from and what it holds.

        Raises:
            DataError: The record is missing, damaged or of another format.
        """
        return _read_record(self.folder, bucket)

    @property
    def has_masks(self) -> bool:
        """Whether `read_masks` can be used: in calibration and test."""
        return _file(self.folder, self.buckets[0], ".mask.npy").exists()

    def rows_of(self, source: str | None = None, bucket: int | None = None) -> npt.NDArray[np.int64]:
        """The numbers of the rows of a source ("grid" or "roi"; None: both) and of a bucket (None: all), ascending."""
        start, stop = 0, len(self)
        if bucket is not None:
            if bucket not in self.buckets:
                raise ValueError(f"bucket {bucket} is not one of {self.buckets}")
            place = self.buckets.index(bucket)
            start, stop = int(self._starts[place]), int(self._starts[place + 1])
        rows = np.arange(start, stop, dtype=np.int64)
        if source is None:
            return rows
        wanted: npt.NDArray[np.bool_] = pc.equal(self._sources, source).to_numpy()
        return rows[wanted[start:stop]]

    @cached_property
    def _sources(self) -> pa.ChunkedArray:
        with PATCH_INDEX.open(self.folder / INDEX_NAME) as index:
            return index.read(columns=["source"])["source"]

    def read(self, row_indices: npt.ArrayLike) -> Pixels:
        """The patches of these rows in this order, uint8 [n, P, P, C]; rows may repeat.

        Raises:
            IndexError: A row is negative or not below `len(self)`.
            DataError: A shard is missing or truncated.
        """
        return self._gather(row_indices, ".npy", (self.patch_size, self.patch_size, self.channels))

    def read_masks(self, row_indices: npt.ArrayLike) -> Pixels:
        """The masks of these rows in this order, uint8 [n, P, P], 1 inside a mask or box.

        Raises:
            IndexError: As `read`.
            DataError: As `read`, or the split has no masks (train).
        """
        if not self.has_masks:
            raise DataError(f"{self.folder}: this split has no masks; only calibration and test have")
        return self._gather(row_indices, ".mask.npy", (self.patch_size, self.patch_size))

    def _gather(self, row_indices: npt.ArrayLike, suffix: str, shape: tuple[int, ...]) -> Pixels:
        rows = np.asarray(row_indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"expected rows 0 to {len(self) - 1}, found {rows.min()} to {rows.max()}")
        gathered = np.empty((len(rows), *shape), dtype=np.uint8)
        place = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(place).tolist():
            here = np.flatnonzero(place == number)
            gathered[here] = self._map(self.buckets[number], suffix)[rows[here] - self._starts[number]]
        return gathered

    def _map(self, bucket: int, suffix: str) -> Pixels:
        key = (bucket, suffix)
        if key not in self._maps:
            path = _file(self.folder, bucket, suffix)
            try:
                self._maps[key] = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: not a whole shard ({error}). Delete it and run `dvc repro`") from error
            if len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]


def _rows_per_bucket(path: Path) -> dict[int, int]:
    """How many rows an index names per bucket, in its order, which must be that of buckets and rows."""
    rows_per_bucket: dict[int, int] = {}
    last = -1
    with PATCH_INDEX.open(path) as index:
        for batch in index.iter_batches(columns=["bucket", "row"]):
            bucket, row = (batch.column(name).to_numpy() for name in ("bucket", "row"))
            in_order = bool((np.diff(bucket, prepend=last) >= 0).all())
            for number, count in zip(*np.unique(bucket, return_counts=True), strict=True):
                start = rows_per_bucket.get(int(number), 0)
                in_order = in_order and np.array_equal(row[bucket == number], np.arange(start, start + count))
                rows_per_bucket[int(number)] = start + int(count)
                last = int(number)
            if not in_order:
                raise DataError(f"{path}: rows are not in the order of buckets and rows. Delete it and run `dvc repro`")
    return rows_per_bucket


def _shape(path: Path) -> tuple[int, ...]:
    """The shape of a uint8 `.npy` file, whose length must be what its header says."""
    try:
        with path.open("rb") as file:
            shape, dtype = _read_header(file)
            expected, found = file.tell() + int(np.prod(shape)), os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable shard ({error}). Delete it and run `dvc repro`") from error
    if dtype != np.uint8 or found != expected:
        raise DataError(
            f"{path}: expected {expected} bytes of uint8 for shape {shape}, found {found} bytes of {dtype}. Delete it "
            f"and run `dvc repro`"
        )
    return shape


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if npy.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    try:
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    except (TokenError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # NumPy parses it as Python
        raise ValueError(f"its header is damaged: {error}") from error
    if fortran_order:
        raise ValueError("rows are not in C order")
    return tuple(shape), dtype


def _rows_crc32(path: Path) -> int:
    """The checksum of a shard's rows; it is against damage, not against forgery, and as fast as the disk."""
    crc32 = 0
    with path.open("rb") as file:
        _read_header(file)
        while chunk := file.read(1 << 20):
            crc32 = zlib.crc32(chunk, crc32)
    return crc32
