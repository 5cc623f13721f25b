"""One bucket of patches: which images belong to it, what of it is there already, and how its files are made."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa
import pyarrow.compute as pc

from vigil.config import PatchSection
from vigil.errors import DataError
from vigil.files import digest_bytes, digest_json
from vigil.images.patches import Positions, central_pixels, centred_positions, components, cut, grid_positions, pad
from vigil.images.preprocessing import preprocess_mask, rasterise, scale_boxes, scaled_pixels
from vigil.images.shards import (
    FORMAT_VERSION,
    MASKS,
    PATCHES,
    Pixels,
    ShardWriter,
    bucket_file,
    read_record,
    shard_checksum,
    shard_shape,
    shard_written,
    write_record,
)
from vigil.images.source import RawFolder, decode_image
from vigil.records import ANOMALOUS, NORMAL, Box

_CHUNK_PATCHES = 64
_IMAGES_PER_BUCKET = 512
_LEAST_BUCKETS = 4

# ---------------------------------------------------------------------------------------------------- which images


def bucket_count(images: int, patch: PatchSection) -> int:
    """How many buckets a split of so many images has: `patch.buckets`, or one per 512 images where that is `auto`.

    At least 4, so that small splits too are cut by several processes. With two or three files per bucket, a split of
    any larger number of images has fewer than a hundredth as many files.
    """
    return max(images // _IMAGES_PER_BUCKET, _LEAST_BUCKETS) if patch.buckets == "auto" else patch.buckets


def bucket_of(image_id: str, buckets: int) -> int:
    """The bucket of an image: a hash of its id, so that no other image can move it.

    Linear hashing (Litwin 1980): one bucket more takes images from one other bucket and leaves the rest as they are,
    so that a growing data set is never dealt out anew. Between powers of two, the buckets that wait for their split
    hold twice as many images as the others.
    """
    level = 1 << (buckets - 1).bit_length()
    bucket = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") % level
    return bucket if bucket < buckets else bucket - level // 2


# -------------------------------------------------------------------------------------------------------- one bucket


@dataclass(frozen=True, slots=True)
class BucketJob:
    """All that one bucket is made from; can be sent to another process, or to another host that sees the same files."""

    bucket: int
    settings: dict[str, Any]
    """From `settings_of`."""
    rows: list[dict[str, Any]]
    """Of the manifest, with label, kind and group of the split table; by image id."""
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


def settings_of(split: str, patch: PatchSection) -> dict[str, Any]:
    """Everything but the images that decides a shard's bytes."""
    fields = {"channels", "shorter_side_px", "patch_size_px", "stride_px", "edge"}
    return {
        "format": FORMAT_VERSION,
        **_makers_of_pixels(patch),
        "masks": split != "train",
        "regions_of_interest": patch.regions_of_interest and split == "test",
        **patch.model_dump(mode="json", include=fields),
    }


def _makers_of_pixels(patch: PatchSection) -> dict[str, str]:
    """The packages that decode and, where that is asked for, resize, with their versions."""
    makers = {"pillow": PIL.__version__}
    if patch.shorter_side_px is not None:
        makers["torch"] = version("torch").partition("+")[0]  # builds for other devices resize alike
    return makers


def write_bucket(job: BucketJob) -> BucketResult:
    """Brings one bucket's files to what `job` asks for; touches nothing where they are that already.

    Raises:
        DataError: As `extraction.extract_split`; also where this process has another Pillow or PyTorch than the one
            that asks.
    """
    settings = job.settings
    for package, found in _makers_of_pixels(job.patch).items():
        if found != settings[package]:
            raise DataError(
                f"a worker has {package} {found}, the patch stage has {settings[package]}, which may give other "
                f"pixels; install the same packages on every worker (constraints.txt)"
            )
    raw = RawFolder(job.root)
    settings_digest = digest_json(settings)
    sources = [_source_digest(row, raw, settings_digest) for row in job.rows]
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
        old = {s: np.load(bucket_file(job.folder, job.bucket, s), mmap_mode="r") for s in before["files"]}
    size = job.patch.patch_size_px
    shapes: dict[str, tuple[int, ...]] = {PATCHES: (size, size, job.patch.channels)}
    if settings["masks"]:
        shapes[MASKS] = (size, size)
    files = {suffix: bucket_file(job.folder, job.bucket, suffix) for suffix in shapes}
    processed, entries = 0, []
    with ExitStack() as stack:
        new = {s: stack.enter_context(shard_written(files[s], shape)) for s, shape in shapes.items()}
        for row, source in zip(job.rows, sources, strict=True):
            first_row = new[PATCHES].rows
            if (entry := reusable.get(source)) is not None:
                _copy(old, new, entry)
            else:
                entry = _process(row, raw, job, new)
                processed += 1
            entry = entry | {"first_row": first_row, "rows": new[PATCHES].rows - first_row, "source": source}
            entries.append(entry | {name: row[name] for name in ("image_id", "label", "kind", "group")})
            if entry["smallest_part_px"] and row["label"] == NORMAL:
                raise DataError(
                    f"{row['image_id']}: labelled normal, but its mask or boxes mark an anomaly; correct one of them"
                )
    patches = new[PATCHES].rows
    record = {
        "bucket": job.bucket,
        "digest": digest,
        "settings": settings,
        "patches": patches,
        "files": {s: {"rows": writer.rows, "sum64": writer.checksum} for s, writer in new.items()},
        "images": entries,
    }
    write_record(job.folder, job.bucket, record)
    if not settings["masks"]:
        bucket_file(job.folder, job.bucket, MASKS).unlink(missing_ok=True)
    return BucketResult(job.bucket, processed, len(job.rows) - processed, True, patches)


def _source_digest(row: dict[str, Any], raw: RawFolder, settings_digest: str) -> str:
    """Of everything that decides the image's rows in the shards."""
    mask = None if row["mask_path"] is None else digest_bytes(raw.read_whole(row["mask_path"]))
    return digest_json([settings_digest, row["sha256"], mask, [list(_box(b)) for b in row["boxes"]]])


def _box(value: dict[str, Any]) -> Box:
    return Box(**value)


def _whole_record(folder: Path, bucket: int) -> dict[str, Any] | None:
    """The record of a bucket whose files are what it says; None where any is missing, damaged or of another format."""
    try:
        record = read_record(folder, bucket)
        for suffix, file in record["files"].items():
            path = bucket_file(folder, bucket, suffix)
            if shard_shape(path)[0] != file["rows"] or shard_checksum(path) != file["sum64"]:
                return None
    except (DataError, OSError, ValueError):
        return None
    return record


def _copy(old: dict[str, Pixels], new: dict[str, ShardWriter], entry: dict[str, Any]) -> None:
    first, last = entry["first_row"], entry["first_row"] + entry["rows"]
    for suffix, writer in new.items():
        for start in range(first, last, _CHUNK_PATCHES):
            writer.append(old[suffix][start : min(start + _CHUNK_PATCHES, last)])


# --------------------------------------------------------------------------------------------------------- one image


class _Region(NamedTuple):
    """Where an image is anomalous, in scaled pixels."""

    mask: npt.NDArray[np.bool_]
    centres: Positions  # [N, 2] (y, x), one per mask component or box
    smallest_part_px: int


def _process(row: dict[str, Any], raw: RawFolder, job: BucketJob, new: dict[str, ShardWriter]) -> dict[str, Any]:
    """Decodes one image, appends its patches to the shards, and returns its entry of the bucket's record."""
    patch = job.patch
    pixels, region = _load(row, raw, patch)
    height, width = pixels.shape[:2]
    positions = grid_positions(height, width, patch)
    if not len(positions):
        raise DataError(
            f"{row['image_id']}: {width}x{height} px after preprocessing is smaller than patch_size_px "
            f"({patch.patch_size_px}) and edge is 'drop', so no patch would be cut; set edge to 'reflect'"
        )
    interest = np.empty((0, 2), dtype=np.int64)
    if region is not None and job.settings["regions_of_interest"]:
        interest = centred_positions(region.centres, height, width, patch)
    positions = np.concatenate([positions, interest])

    padded, padded_mask = pad(pixels, patch), None if region is None else pad(region.mask, patch).view(np.uint8)
    inside: list[int] = []
    for start in range(0, len(positions), _CHUNK_PATCHES):
        chunk = positions[start : start + _CHUNK_PATCHES]
        new[PATCHES].append(cut(padded, chunk, patch))
        if padded_mask is not None:
            masks = cut(padded_mask, chunk, patch)
            inside += masks.sum(axis=(1, 2), dtype=np.int64).tolist()
        elif MASKS in new:
            masks = np.zeros((len(chunk), patch.patch_size_px, patch.patch_size_px), dtype=np.uint8)
        if MASKS in new:
            new[MASKS].append(masks)
    return {
        "height": height,
        "width": width,
        "interest": interest.tolist(),
        "inside_px": inside,
        "smallest_part_px": 0 if region is None else region.smallest_part_px,
    }


def _load(row: dict[str, Any], raw: RawFolder, patch: PatchSection) -> tuple[Pixels, _Region | None]:
    """Scaled pixels of an image and, where mask or boxes say so, its anomalous region."""
    if not (row["height"] and row["width"]):
        raise DataError(f"{row['image_id']}: the manifest names no size; run `dvc repro` to rebuild it")
    raw_size = (row["height"], row["width"])
    max_pixels = row["height"] * row["width"]
    content = raw.read(row["path"], row["offset"], row["bytes"])
    if digest_bytes(content) != row["sha256"]:
        raise DataError(f"{row['image_id']}: the file changed since the manifest was made; run `dvc repro`")
    pixels = scaled_pixels(content, row["image_id"], patch, raw_size)
    if row["mask_path"] is None and not row["boxes"]:
        return pixels, None
    try:
        if row["mask_path"] is not None:
            mask_image = decode_image(raw.read_whole(row["mask_path"]), row["mask_path"], max_pixels=max_pixels)
            mask = preprocess_mask(mask_image, raw_size, patch)
            areas = components(mask)[1]
            return pixels, _Region(mask, central_pixels(mask), int(areas.min())) if len(areas) else None
        boxes = scale_boxes([_box(b) for b in row["boxes"]], raw_size, patch)
    except DataError as error:
        raise DataError(f"{row['image_id']}: {error}") from error
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


def index_part(folder: Path, bucket: int, patch: PatchSection) -> pa.Table:
    """The rows of records.PATCH_INDEX of one bucket, from its record."""
    entries = read_record(folder, bucket)["images"]
    positions, names, labels, overlaps = [], [], [], []
    grids: dict[tuple[int, int], tuple[Positions, list[str]]] = {}
    for entry in entries:
        size = entry["height"], entry["width"]
        if size not in grids:  # most images of a set have one of few sizes
            grid = grid_positions(*size, patch)
            grids[size] = grid, [f"{y},{x}" for y, x in grid.tolist()]
        grid, places = grids[size]
        interest = np.array(entry["interest"], dtype=np.int64).reshape(-1, 2)
        inside = np.array(entry["inside_px"] or [0] * entry["rows"], dtype=np.int64)
        positions += [grid, interest]
        names += [*places, *(f"roi-{number}" for number in range(len(interest)))]
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
