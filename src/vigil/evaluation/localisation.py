"""Images, masks and anomaly maps put together again from their patches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigil.config import PatchSection
from vigil.errors import DataError
from vigil.evaluation.metrics import MapMetrics
from vigil.images.patches import stitch
from vigil.images.shards import PatchShards
from vigil.records import ANOMALOUS

Value = TypeVar("Value", bound=np.generic)


class StitchedImage(NamedTuple):
    """One image, as far as its grid covers it (all of it, where `patch.edge` is `reflect`). H, W scaled pixels."""

    image_id: str
    label: int
    pixels: NDArray[np.uint8]
    """[H, W, C]."""
    mask: NDArray[np.bool_]
    """[H, W], True inside a mask or box; all False where the split has none."""
    anomaly_map: NDArray[np.float32] | None
    """[H, W]; None where no folder of maps was given."""


def stitched_images(
    shards: PatchShards,
    patch: PatchSection,
    maps_folder: Path | None = None,
    only: Collection[str] | None = None,
    buckets: Collection[int] | None = None,
) -> Iterator[StitchedImage]:
    """The images of a split in the order of the patch index, one at a time.

    Args:
        shards: The split's patches.
        patch: How they were cut.
        maps_folder: Of the split's anomaly maps, as `score_split` wrote them.
        only: Ids of the images to yield; None for all.
        buckets: Where these images lie; None where that is not known, and then all are looked through.

    Raises:
        DataError: The maps of a bucket are missing or belong to other patches.
    """
    for bucket in shards.buckets if buckets is None else buckets:
        rows = shards.rows_of("grid", bucket)
        whole = shards.index_of(bucket)
        index = whole.filter(pc.equal(whole["source"], "grid"))
        ids = np.asarray(index.column("image_id").to_pylist(), dtype=np.str_)
        starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if len(ids) else np.array([], np.intp)
        columns = {
            n: index.column(n).to_numpy() for n in ("y", "x", "row", "image_height", "image_width", "image_label")
        }
        maps = None if maps_folder is None else _maps(maps_folder, bucket, len(shards.rows_of(bucket=bucket)))
        for start, stop in zip(starts, np.append(starts[1:], len(ids)), strict=True):
            if only is not None and ids[start] not in only:
                continue
            here = {name: values[start:stop] for name, values in columns.items()}
            positions = np.stack([here["y"], here["x"]], axis=1).astype(np.int64)
            whole = (int(here["image_height"][0]), int(here["image_width"][0]))
            height, width = np.minimum(whole, positions.max(axis=0) + shards.patch_size)
            pixels = _pasted(shards.read(rows[start:stop]), positions)[:height, :width]
            if shards.has_masks:
                mask = _pasted(shards.read_masks(rows[start:stop]), positions)[:height, :width] > 0
            else:
                mask = np.zeros((height, width), np.bool_)
            stitched = None
            if maps is not None:
                stitched = stitch(maps[here["row"]].astype(np.float32), positions, *whole, patch)[:height, :width]
            yield StitchedImage(str(ids[start]), int(here["image_label"][0]), pixels, mask, stitched)


def measure_maps(shards: PatchShards, patch: PatchSection, maps_folder: Path) -> tuple[MapMetrics, int]:
    """The pixel measures of a split, and the number of anomalous images without mask or box, which are left out.

    Raises:
        DataError: The maps of a bucket are missing or belong to other patches.
        ScoreNotFinite: A map holds a value that is no score.
    """
    metrics, left_out = MapMetrics.empty(), 0
    for image in stitched_images(shards, patch, maps_folder):
        assert image.anomaly_map is not None
        if image.label == ANOMALOUS and not image.mask.any():
            left_out += 1  # where its anomaly is, nobody knows
        else:
            metrics.add(image.anomaly_map, image.mask)
    return metrics, left_out


def _pasted(patches: NDArray[Value], positions: NDArray[np.int64]) -> NDArray[Value]:
    """The image that the patches [N, P, P, ...] were cut from; overlaps agree, since all come of one image."""
    size = patches.shape[1]
    canvas = np.zeros((*(positions.max(axis=0) + size), *patches.shape[3:]), patches.dtype)
    for values, (y, x) in zip(patches, positions.tolist(), strict=True):
        canvas[y : y + size, x : x + size] = values
    return canvas


def _maps(folder: Path, bucket: int, count: int) -> NDArray[np.float16]:
    path = Path(folder) / f"bucket-{bucket:04d}.npy"
    try:
        maps: NDArray[np.float16] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole file of anomaly maps ({error}). Run the score stage again") from error
    if len(maps) != count:
        raise DataError(f"{path}: expected {count} maps, one per patch, found {len(maps)}. Run the score stage again")
    return maps
