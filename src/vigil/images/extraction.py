"""A split's patches, made or brought up to date: bucket by bucket, in processes or on a cluster, in constant memory."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vigil.config import PatchSection
from vigil.errors import DataError
from vigil.files import aside
from vigil.images.buckets import BucketJob, BucketResult, bucket_count, bucket_of, index_part, settings_of, write_bucket
from vigil.images.executors import executed
from vigil.images.shards import INDEX_NAME, MASKS, PATCHES, RECORD, bucket_file
from vigil.progress import Progress
from vigil.records import MANIFEST, PATCH_INDEX, SPLIT_TABLE, TableType

_FROM_MANIFEST = ["image_id", "path", "offset", "bytes", "sha256", "width", "height", "mask_path", "boxes", "fault"]
_FROM_SPLITS = ["image_id", "label", "kind", "group"]
_ROWS_IN_MEMORY = 1 << 15
_BATCH_ROWS = 1 << 13

Rows: TypeAlias = pa.Table | Path
"""A table, or the file that holds one, which is then read piece by piece."""


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


def extract_split(
    split: str, manifest: Rows, splits: Rows, root: Path, patch: PatchSection, folder: Path
) -> ExtractionCounts:
    """Cuts the patches of all images of `split` into shards below `folder`.

    Works bucket by bucket on `patch.executor`. A bucket on disk that was made from the same images, labels, masks,
    boxes and settings is kept; from any other, the images that did not change are copied. So a run that was killed is
    continued by the next one, an added image costs one image and one bucket, and the bytes on disk are always those of
    a single run from nothing. Stale buckets and leftovers of killed runs are removed.

    Regions of interest (one patch around each mask component or box) are cut in the test split only. An image's
    anomalous region is its mask where it has one, else its boxes; `patch_labels` says which patches are anomalous: the
    others, outside of it, are normal, and lie on the same grid as those of normal images. The padding reflects the
    region with the image. Where an anomalous image has no region, its patches are anomalous with overlap 0 and masks of
    zeros.

    Memory does not grow with the split: the tables are dealt out to files beside `folder`, at most some 32 thousand
    rows (or one bucket's) are in memory, and a few buckets are with the workers.

    Args:
        split: "train", "calibration" or "test".
        manifest: records.MANIFEST with at least the images of the split.
        splits: records.SPLIT_TABLE.
        root: Folder of the raw data set.
        patch: Preprocessing and grid.
        folder: Of the split's shards.

    Raises:
        ConfigError: The executor's packages or its scheduler are not there.
        DataError: The split is empty or names an image that the manifest lacks or faults; an image or a mask is not
            readable, changed since the manifest was made, breaks a rule of preprocessing, or yields no patch; an
            image is labelled normal but has an anomalous region; a worker was lost.
    """
    # Absolute, since the workers of a cluster have working folders of their own.
    root, folder = Path(root).absolute(), Path(folder).absolute()
    images = sum(batch.num_rows for batch in _batches(splits, SPLIT_TABLE, ["image_id"], split))
    if not images:
        raise DataError(f"split '{split}' holds no image; give it some by the fractions in the split section")
    buckets = bucket_count(images, patch)
    spool = aside(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.aside-*"):
        shutil.rmtree(left)
    try:
        parts = _spooled(split, manifest, splits, buckets, min(-(-images // _ROWS_IN_MEMORY), buckets), spool)
        found: list[int] = []
        jobs = _jobs(split, parts, buckets, root, patch, folder, found)
        progress = Progress(f"patch {split}", images, "images")
        total: Counter[str] = Counter()
        for result in executed(write_bucket, jobs, patch):
            _count(total, result)
            progress.advance(result.images_processed + result.images_reused)
    finally:
        shutil.rmtree(spool, ignore_errors=True)
    _remove_others(folder, sorted(found))
    PATCH_INDEX.write_parts(folder / INDEX_NAME, (index_part(folder, bucket, patch) for bucket in found))
    counts = ExtractionCounts(**{name: total[name] for name in ExtractionCounts.__dataclass_fields__})
    progress.close(f"{counts.patches} patches, {counts.images_reused} images reused")
    return counts


def _count(total: Counter[str], result: BucketResult) -> None:
    total["images_processed"] += result.images_processed
    total["images_reused"] += result.images_reused
    total["buckets_written"] += result.written
    total["buckets_kept"] += not result.written
    total["patches"] += result.patches


def _jobs(
    split: str,
    parts: Iterable[pa.Table],
    buckets: int,
    root: Path,
    patch: PatchSection,
    folder: Path,
    found: list[int],
) -> Iterator[BucketJob]:
    """One job per bucket that is not empty, ascending; `found` gets their numbers.

    Before the first one the index goes: until the run ends, the folder is not whole.
    """
    settings = settings_of(split, patch)
    folder.mkdir(exist_ok=True)
    (folder / INDEX_NAME).unlink(missing_ok=True)
    for rows in parts:
        bucket_of_row = _buckets_of(rows["image_id"], buckets)
        order = np.argsort(bucket_of_row, kind="stable")
        here, starts = np.unique(bucket_of_row[order], return_index=True)
        for bucket, members in zip(here.tolist(), np.split(order, starts[1:]), strict=True):
            found.append(bucket)
            yield BucketJob(bucket, settings, rows.take(members).to_pylist(), root, patch, folder)


def _buckets_of(ids: pa.ChunkedArray, buckets: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([bucket_of(image_id, buckets) for image_id in ids.to_pylist()], dtype=np.int64)


def _remove_others(folder: Path, buckets: list[int]) -> None:
    """Removes the files of buckets that the split no longer has, and what killed runs and workers left aside."""
    wanted = {bucket_file(folder, b, suffix).name for b in buckets for suffix in (PATCHES, MASKS, RECORD)}
    for path in folder.iterdir():
        stale = path.name.startswith("bucket-") and path.name not in wanted
        if stale or (path.name.startswith(".") and ".aside-" in path.name):
            path.unlink()


# ------------------------------------------------------------------------------------------------------------- tables


def _batches(rows: Rows, kind: TableType, columns: list[str], split: str | None = None) -> Iterator[pa.RecordBatch]:
    """The columns of a table in pieces; with `split`, the rows of that split."""
    needed = columns if split is None else [*columns, "split"]
    if isinstance(rows, pa.Table):
        yield from _chosen(rows.select(needed).to_batches(max_chunksize=_BATCH_ROWS), columns, split)
    else:
        with kind.open(rows) as file:
            yield from _chosen(file.iter_batches(batch_size=_BATCH_ROWS, columns=needed), columns, split)


def _chosen(batches: Iterable[pa.RecordBatch], columns: list[str], split: str | None) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        chosen = batch if split is None else batch.filter(pc.equal(batch["split"], split))
        yield chosen.select(columns)


def _spooled(split: str, manifest: Rows, splits: Rows, buckets: int, parts: int, spool: Path) -> Iterator[pa.Table]:
    """The rows of the split's images in `parts` tables of neighbouring buckets, each by image id.

    Both tables are dealt out to one file per part first; then each part is put together and checked, all of them
    before the first is yielded, so that nothing is cut where the tables do not fit.
    """
    spool.mkdir()
    _deal(_batches(splits, SPLIT_TABLE, _FROM_SPLITS, split), buckets, parts, spool, "splits")
    _deal(_batches(manifest, MANIFEST, _FROM_MANIFEST), buckets, parts, spool, "manifest")
    for part in range(parts):
        rows = _joined(split, _part(spool, "splits", part), _part(spool, "manifest", part))
        with pa.OSFile(str(spool / f"rows-{part}"), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
            writer.write_table(rows)
        for name in ("splits", "manifest"):
            (spool / f"{name}-{part}").unlink(missing_ok=True)
    return (_part(spool, "rows", part) for part in range(parts))


def _deal(batches: Iterable[pa.RecordBatch], buckets: int, parts: int, spool: Path, name: str) -> None:
    with ExitStack() as stack:
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        for batch in batches:
            part_of_row = _buckets_of(batch["image_id"], buckets) * parts // buckets
            for part in range(parts):
                if part not in writers:
                    file = stack.enter_context(pa.OSFile(str(spool / f"{name}-{part}"), "wb"))
                    writers[part] = stack.enter_context(pa.ipc.new_stream(file, batch.schema))
                writers[part].write_batch(batch.filter(pa.array(part_of_row == part)))


def _part(spool: Path, name: str, part: int) -> pa.Table:
    with pa.OSFile(str(spool / f"{name}-{part}")) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()


def _joined(split: str, chosen: pa.Table, manifest: pa.Table) -> pa.Table:
    """The manifest's rows of the split's images, by image id, with the split table's label, kind and group."""
    chosen = chosen.sort_by("image_id")
    ids = chosen["image_id"]
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
        rows = rows.append_column(name, chosen[name])
    return rows.drop_columns(["fault"])
