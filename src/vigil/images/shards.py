"""Patches at rest: shards in buckets, and the index of their rows.

A split's folder holds, for every bucket that is not empty,

    bucket-0007.npy         uint8 [N, P, P, C]  the patches: images by id, each image's grid, then regions of interest
    bucket-0007.mask.npy    uint8 [N, P, P]     1 inside a mask or box, else 0 (calibration and test only)
    bucket-0007.json        what the bucket was made from, what it holds, the checksums of the files above, and its own

and `index.parquet` (records.PATCH_INDEX, by bucket and row, one row group per bucket), which is written last: where it
lies, the folder is whole. All of it is a function of images, tables and settings alone, never of history, time,
worker count or executor. `extraction.py` writes it, `PatchShards` reads it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib import format as npy

from vigil.errors import DataError
from vigil.files import canonical_json, digest_json, read_json, write_text, written_aside
from vigil.records import PATCH_INDEX

FORMAT_VERSION = 3
INDEX_NAME = "index.parquet"
PATCHES, MASKS, RECORD = ".npy", ".mask.npy", ".json"
"""Endings of a bucket's files."""
_OPEN_FILES = 64
_CHECKED_BYTES = 1 << 20

Pixels = npt.NDArray[np.uint8]


def bucket_file(folder: Path, bucket: int, suffix: str) -> Path:
    """A file of a bucket; `suffix` is PATCHES, MASKS or RECORD."""
    return folder / f"bucket-{bucket:04d}{suffix}"


# -------------------------------------------------------------------------------------------------------------- files


class ShardWriter:
    """Appends rows to a `.npy` file whose length is known at the end only.

    NumPy's header keeps room for the first axis to grow, so the header's length does not depend on the row count.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...]) -> None:
        self.rows = 0
        self.checksum = 0
        self._file, self._shape = file, shape
        self._start = self._write_header()

    def _write_header(self) -> int:
        self._file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.rows, *self._shape)}
        npy.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, rows: Pixels) -> None:
        """Writes rows of the shard's shape behind the others."""
        rows = np.ascontiguousarray(rows)
        self._file.write(rows.data)
        self.checksum = (self.checksum + _checksum(rows, self.rows)) % (1 << 64)
        self.rows += len(rows)

    def finish(self) -> None:
        """Writes the final row count into the header."""
        assert self._write_header() == self._start, "the .npy header changed its length"


@contextmanager
def shard_written(path: Path, shape: tuple[int, ...]) -> Iterator[ShardWriter]:
    """Yields a writer of a shard of rows of `shape`; on success the shard replaces `path`."""
    with written_aside(path) as new, new.open("wb") as file:
        writer = ShardWriter(file, shape)
        yield writer
        writer.finish()


def _checksum(rows: Pixels, first: int) -> int:
    """The part of a shard's checksum that rows `first`, `first + 1`, ... give: 64-bit sums of 8-byte words, weighted
    by row, so that rows cannot change places. Against damage, not forgery; a tenth of a CRC's time. A row's bytes are
    a multiple of 8, since the sides of patches are."""
    sums = np.add.reduce(rows.reshape(len(rows), -1).view(np.uint64), axis=1)
    weights = 2 * np.arange(first, first + len(rows), dtype=np.uint64) + 1
    return int((sums * weights).sum())


def shard_checksum(path: Path) -> int:
    """The checksum of a shard's rows, as `ShardWriter` counts it; as fast as the disk.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no `.npy` file, or is cut off within a row.
    """
    checksum = first = 0
    with path.open("rb") as file:
        shape = _read_header(file)[0]
        row_bytes = int(np.prod(shape[1:]))
        while chunk := file.read(max(_CHECKED_BYTES // row_bytes, 1) * row_bytes):
            rows = np.frombuffer(chunk, dtype=np.uint8).reshape(-1, row_bytes)
            checksum += _checksum(rows, first)
            first += len(rows)
    return checksum % (1 << 64)


def shard_shape(path: Path) -> tuple[int, ...]:
    """The shape of a uint8 `.npy` file, whose length must be what its header says.

    Raises:
        DataError: It is missing, damaged, or has another type or length.
    """
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


def write_record(folder: Path, bucket: int, record: dict[str, Any]) -> None:
    """Writes a bucket's record, with its format and a checksum of its own."""
    record = {"format": FORMAT_VERSION, **record}
    write_text(bucket_file(folder, bucket, RECORD), canonical_json({**record, "seal": digest_json(record)}) + "\n")


def read_record(folder: Path, bucket: int) -> dict[str, Any]:
    """The record of a bucket, as it was written.

    Raises:
        DataError: It is missing, of another format, or was changed after it was written.
    """
    path = bucket_file(folder, bucket, RECORD)
    record = read_json(path)
    whole = isinstance(record, dict) and record.get("format") == FORMAT_VERSION
    try:
        whole = whole and record.pop("seal", None) == digest_json(record)
    except ValueError:  # NaN or half a character, which no record holds
        whole = False
    if not whole:
        raise DataError(f"{path}: damaged, or written by another version. Delete {folder} and run `dvc repro`")
    return dict(record)


class _OpenShard:
    """An open file of rows; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.path, self._descriptor = path, -1
        try:
            with path.open("rb") as file:
                shape = _read_header(file)[0]
                self._start = file.tell()
                expected, found = self._start + int(np.prod(shape)), os.fstat(file.fileno()).st_size
                if found != expected:
                    raise ValueError(f"expected {expected} bytes, found {found}")
                self._descriptor = os.dup(file.fileno())
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a whole shard ({error}). Delete it and run `dvc repro`") from error

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read_into(self, rows: Pixels, first: int) -> None:
        """Fills `rows` with those that start at row `first` of the shard."""
        target = memoryview(rows.data).cast("B")
        place = self._start + first * rows[0].nbytes
        while target:
            count = os.preadv(self._descriptor, [target], place)
            if not count:
                raise DataError(f"{self.path}: not a whole shard (row {first} is cut off). Delete it, run `dvc repro`")
            target, place = target[count:], place + count


# ------------------------------------------------------------------------------------------------------------ reading


class PatchShards:
    """A split's patches, read in any order; memory does not grow with the split.

    Rows are numbered as in the index: by bucket, then by row in the bucket. Rows are read by their place in the file,
    not through a memory map: pages of a map that were touched count as this process's memory until the split is in it
    as a whole, and a file that was cut off would end the process instead of raising. Processes on one host share the
    page cache all the same. At most 64 files are open at a time; a pickled copy carries paths only, so that every
    process opens its own.
    """

    def __init__(self, folder: Path, rows_per_bucket: dict[int, int], patch_size: int, channels: int) -> None:
        self.folder = folder
        self.buckets = tuple(rows_per_bucket)
        self.patch_size = patch_size
        self.channels = channels
        self._starts = np.cumsum([0, *rows_per_bucket.values()])
        self._open: OrderedDict[tuple[int, str], _OpenShard] = OrderedDict()

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
            path = bucket_file(folder, bucket, PATCHES)
            found = shard_shape(path)
            shape = shape or found[1:]
            if len(found) != 4 or found != (rows, *shape):
                raise DataError(
                    f"{path}: expected patches of shape {(rows, *shape)} by {INDEX_NAME}, found {found}. Delete "
                    f"{folder} and run `dvc repro`"
                )
            masks = bucket_file(folder, bucket, MASKS)
            if masks.exists() and shard_shape(masks) != found[:3]:
                raise DataError(
                    f"{masks}: expected masks of shape {found[:3]}, found {shard_shape(masks)}. Delete {folder} and "
                    f"run `dvc repro`"
                )
        if shape is None:
            raise DataError(f"{folder}: the index holds no patch. Delete the folder and run `dvc repro`")
        return cls(folder, rows_per_bucket, shape[0], shape[2])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("index", "_is_grid")}
        return state | {"_open": OrderedDict()}

    @cached_property
    def index(self) -> pa.Table:
        """records.PATCH_INDEX as a whole, read at first use; `index_of` reads a part and keeps nothing."""
        return PATCH_INDEX.read(self.folder / INDEX_NAME)

    @cached_property
    def digest(self) -> str:
        """Of everything the buckets were made from and of their bytes; equal digests mean equal patches and labels."""
        records = (self.record(b) for b in self.buckets)
        return digest_json([[r["bucket"], r["digest"], r["files"]] for r in records])

    def record(self, bucket: int) -> dict[str, Any]:
        """What the bucket was made from and what it holds.

        Raises:
            DataError: The record is missing, damaged or of another format.
        """
        return read_record(self.folder, bucket)

    def index_of(self, bucket: int) -> pa.Table:
        """The rows of `index` that belong to one bucket; only these are read."""
        place = self._place(bucket)
        start, stop = self._starts[place : place + 2].tolist()
        with PATCH_INDEX.open(self.folder / INDEX_NAME) as index:
            # A bucket of more than a million rows has several row groups.
            if index.num_row_groups == len(self.buckets):
                return index.read_row_group(place)
        return self.index.slice(start, stop - start)

    @property
    def has_masks(self) -> bool:
        """Whether `read_masks` can be used: in calibration and test."""
        return bucket_file(self.folder, self.buckets[0], MASKS).exists()

    def rows_of(self, source: str | None = None, bucket: int | None = None) -> npt.NDArray[np.int64]:
        """The numbers of the rows of a source ("grid" or "roi"; None: both) and of a bucket (None: all), ascending."""
        start, stop = 0, len(self)
        if bucket is not None:
            place = self._place(bucket)
            start, stop = int(self._starts[place]), int(self._starts[place + 1])
        if source is None:
            return np.arange(start, stop, dtype=np.int64)
        wanted = self._is_grid[start:stop] == (source == "grid")
        return start + np.flatnonzero(wanted)

    def _place(self, bucket: int) -> int:
        if bucket not in self.buckets:
            raise ValueError(f"bucket {bucket} is not one of {self.buckets}")
        return self.buckets.index(bucket)

    @cached_property
    def _is_grid(self) -> npt.NDArray[np.bool_]:
        """Of each row, whether it belongs to the grid: one byte per patch."""
        is_grid = np.empty(len(self), dtype=np.bool_)
        with PATCH_INDEX.open(self.folder / INDEX_NAME) as index:
            start = 0
            for batch in index.iter_batches(columns=["source"]):
                is_grid[start : start + len(batch)] = pc.equal(batch["source"], "grid")
                start += len(batch)
        return is_grid

    def read(self, row_indices: npt.ArrayLike) -> Pixels:
        """The patches of these rows in this order, uint8 [n, P, P, C]; rows may repeat.

        Raises:
            IndexError: A row is negative or not below `len(self)`.
            DataError: A shard is missing or truncated.
        """
        return self._gather(row_indices, PATCHES, (self.patch_size, self.patch_size, self.channels))

    def read_masks(self, row_indices: npt.ArrayLike) -> Pixels:
        """The masks of these rows in this order, uint8 [n, P, P], 1 inside a mask or box.

        Raises:
            IndexError: As `read`.
            DataError: As `read`, or the split has no masks (train).
        """
        if not self.has_masks:
            raise DataError(f"{self.folder}: this split has no masks; only calibration and test have")
        return self._gather(row_indices, MASKS, (self.patch_size, self.patch_size))

    def _gather(self, row_indices: npt.ArrayLike, suffix: str, shape: tuple[int, ...]) -> Pixels:
        rows = np.asarray(row_indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"expected rows 0 to {len(self) - 1}, found {rows.min()} to {rows.max()}")
        gathered = np.empty((len(rows), *shape), dtype=np.uint8)
        if not len(rows):
            return gathered
        place = np.searchsorted(self._starts, rows, side="right") - 1
        first = rows - self._starts[place]
        # Rows that follow each other in one file are read at once.
        starts = np.flatnonzero(np.append(True, (np.diff(place) != 0) | (np.diff(rows) != 1)))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            shard = self._shard(self.buckets[place[start]], suffix)
            shard.read_into(gathered[start:stop], int(first[start]))
        return gathered

    def _shard(self, bucket: int, suffix: str) -> _OpenShard:
        key = (bucket, suffix)
        if key not in self._open:
            self._open[key] = _OpenShard(bucket_file(self.folder, bucket, suffix))
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]


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
