"""The tables that cross a stage: their columns, units and versions, written and read in one place.

Every table is Parquet with its name and version in the schema's metadata; a reader refuses any other.

Legend: label 0 = normal, 1 = anomalous; pixel coordinates count from the upper left corner, boxes are half-open
(`x0 <= x < x1`). "Raw" pixels are those of the file, "scaled" pixels those after preprocessing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vigil.errors import DataError
from vigil.files import written_aside

NORMAL, ANOMALOUS = 0, 1
NORMAL_KIND = "normal"
SPLITS = ("train", "calibration", "test")


class Box(NamedTuple):
    """A rectangle around one anomaly, in raw pixels, half-open: `x0 <= x < x1`, `y0 <= y < y1`."""

    kind: str
    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True, slots=True)
class TableType:
    """Name, version and columns of a table."""

    name: str
    version: int
    schema: pa.Schema
    optional: tuple[pa.Field, ...] = ()
    """Columns that may follow, each or none; the same rules hold for them."""
    leavable: tuple[str, ...] = ()
    """Columns of the schema that a table may lack, as one whose maker has no such thing."""

    def write(self, path: Path, table: pa.Table) -> None:
        """Writes `table` (this type's columns, cast to its types), aside then renamed.

        Raises:
            DataError: Columns are missing or unknown, or a column marked not nullable holds a null or a NaN.
        """
        self.write_parts(path, [table])

    def write_parts(self, path: Path, parts: Iterable[pa.Table]) -> None:
        """As `write`, one part after the other, so that the whole table is never in memory; row groups never span
        two parts."""
        path = Path(path)
        metadata = {"vigil.table": self.name, "vigil.version": str(self.version)}
        with written_aside(path) as new, ExitStack() as stack:
            writer = None
            for part in parts:
                checked = self._checked(path, part).replace_schema_metadata(metadata)
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(new, checked.schema, compression="zstd"))
                writer.write_table(checked)
            if writer is None:
                pq.write_table(self._schema_of([]).with_metadata(metadata).empty_table(), new, compression="zstd")

    def _schema_of(self, names: Collection[str]) -> pa.Schema:
        """The columns of a table that has these; optional and leavable ones only where they are named."""
        possible = [*self.schema, *self.optional]
        needed = set(self.schema.names) - set(self.leavable)
        return pa.schema([field for field in possible if field.name in needed or field.name in names])

    def field(self, name: str) -> pa.Field:
        """One column, required or optional.

        Raises:
            KeyError: This type has no such column.
        """
        return {field.name: field for field in (*self.schema, *self.optional)}[name]

    def _checked(self, path: Path, table: pa.Table) -> pa.Table:
        schema = self._schema_of(table.column_names)
        if set(table.column_names) != set(schema.names):
            missing, extra = (
                set(schema.names) - set(table.column_names),
                set(table.column_names) - set(schema.names),
            )
            raise DataError(f"{path}: table '{self.name}' lacks columns {sorted(missing)}, has unknown {sorted(extra)}")
        table = table.select(schema.names).cast(schema)
        for field in schema:
            column = table.column(field.name)
            if not field.nullable and (column.null_count or _holds_nan(column)):
                raise DataError(f"{path}: column '{field.name}' of table '{self.name}' holds a null or a NaN")
        return table

    def read(self, path: Path, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads a table of this type, or some of its columns.

        Raises:
            DataError: The file is missing, damaged, or of another type or version; a column marked not nullable
                holds a null, or a text is not valid UTF-8.
        """
        with self.open(path) as file:
            try:
                table = file.read(columns)
                table.validate(full=True)
            except _BROKEN as error:
                raise _unreadable(path, error) from error
        for field in table.schema:
            if not field.nullable and table.column(field.name).null_count:
                raise _unreadable(path, ValueError(f"column '{field.name}' holds a null"))
        return table

    def open(self, path: Path) -> pq.ParquetFile:
        """The checked file of a table of this type, to read a part of its columns or row groups; close it.

        Raises:
            DataError: As `read`.
        """
        try:
            file = pq.ParquetFile(path)
        except FileNotFoundError as error:
            raise DataError(f"{path}: file not found. Run `dvc repro` to rebuild it.") from error
        except _BROKEN as error:
            raise _unreadable(path, error) from error
        metadata = file.schema_arrow.metadata or {}
        found = tuple(metadata.get(key, b"?").decode(errors="replace") for key in (b"vigil.table", b"vigil.version"))
        if found != (self.name, str(self.version)):
            file.close()
            raise DataError(
                f"{path}: expected table '{self.name}' version {self.version}, found '{found[0]}' version {found[1]}. "
                f"Run `dvc repro` to rebuild it."
            )
        if not file.schema_arrow.equals(self._schema_of(file.schema_arrow.names), check_metadata=False):
            file.close()
            raise _unreadable(path, ValueError(f"its columns are not those of '{self.name}' version {self.version}"))
        return file


_BROKEN = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)
"""What reading a damaged Parquet file may end with."""


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable Parquet file ({error}). Delete it and run `dvc repro`.")


def _holds_nan(column: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    return pa.types.is_floating(column.type) and bool(pc.any(pc.is_nan(column)).as_py())


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


BOX = pa.struct([("kind", pa.string()), ("x0", pa.int32()), ("y0", pa.int32()), ("x1", pa.int32()), ("y1", pa.int32())])

MANIFEST = TableType(
    "manifest",
    2,
    pa.schema(
        [
            _required("image_id", pa.string()),  # unique, stable: path below the root, or archive::member
            _required("path", pa.string()),  # file below the root that holds the image's bytes
            pa.field("offset", pa.int64()),  # start of the image's bytes in an uncompressed tar; null: the whole file
            _required("bytes", pa.int64()),  # length of the encoded image
            _required("sha256", pa.string()),  # of the encoded image
            pa.field("width", pa.int32()),  # raw pixels; null where the file could not be read (`fault` says why)
            pa.field("height", pa.int32()),
            pa.field("mode", pa.string()),  # Pillow mode
            pa.field("brightness", pa.float32()),  # mean luma (BT.601), 0 to 255; null for modes other than L and RGB
            _required("label", pa.int8()),
            _required("kind", pa.string()),  # "normal", or the kind(s) of anomaly joined by "+"
            _required("group", pa.string()),  # bag or part; never straddles a split
            pa.field("official_split", pa.string()),  # "train", "test" or null
            pa.field("mask_path", pa.string()),  # file below the root, non-zero = anomalous
            pa.field(
                "mask_pixels", pa.int64()
            ),  # of them that are non-zero; null where there is no mask, or none to read
            _required("boxes", pa.list_(BOX)),  # raw pixels; empty where there are none
            pa.field("fault", pa.string()),  # why the image or its annotation is not readable; null: none found
            pa.field("fault_of", pa.string()),  # what `fault` is about: "image", "annotation", "box" or "mask"
        ]
    ),
)

SPLIT_TABLE = TableType(
    "splits",
    1,
    pa.schema(
        [
            _required("image_id", pa.string()),
            _required("split", pa.string()),  # train, calibration or test; images left out do not appear
            _required("label", pa.int8()),
            _required("kind", pa.string()),
            _required("group", pa.string()),
        ]
    ),
)

PATCH_INDEX = TableType(
    "patch_index",
    1,
    pa.schema(
        [
            _required("patch_id", pa.string()),  # image_id@y,x or image_id@roi-N
            _required("image_id", pa.string()),
            _required("bucket", pa.int32()),
            _required("row", pa.int32()),  # row in the bucket's shard
            _required("source", pa.string()),  # "grid" or "roi"
            _required("y", pa.int32()),  # scaled pixels, upper left corner
            _required("x", pa.int32()),
            _required("image_height", pa.int32()),  # scaled pixels, before padding
            _required("image_width", pa.int32()),
            _required("label", pa.int8()),  # of the patch, by overlap with mask or boxes
            _required("overlap", pa.float32()),  # share of the patch inside mask or boxes
            _required("image_label", pa.int8()),
            _required("kind", pa.string()),  # of the image
            _required("group", pa.string()),
        ]
    ),
)

PATCH_SCORES = TableType(
    "patch_scores",
    1,
    pa.schema(
        [
            *(
                PATCH_INDEX.schema.field(n)
                for n in ("patch_id", "image_id", "bucket", "row", "source", "y", "x", "image_height", "image_width")
            ),
            *(PATCH_INDEX.schema.field(n) for n in ("label", "image_label", "kind", "group")),
            _required("contextual", pa.float64()),  # A_G of Eq. (6): mean |x - x^| in [-1, 1] pixels
            _required("latent", pa.float64()),  # A_D of Eq. (6): mean |f(x) - f(x^)|
            _required("map_peak", pa.float64()),  # maximum of the smoothed anomaly map of the patch
        ]
    ),
    # Of pairs that point, that have a self-supervised trunk or a memory, and of the baselines.
    (
        _required("stitched_peak", pa.float64()),  # of squares of what all patches of the image point at
        _required("self_supervision", pa.float64()),  # nats: mean of -log p of the turn over the four turns
        _required("memory", pa.float64()),  # distance from normal training patches; about 1 on normal patches
        _required("published", pa.float64()),  # a baseline's score as its own description defines it
    ),
    # Of systems that reconstruct nothing or have no features.
    ("contextual", "latent"),
)
COMPONENTS = ("contextual", "latent", "map_peak", "stitched_peak", "self_supervision", "memory", "published")
"""The columns of PATCH_SCORES of which a score can be made, in this order."""

KEPT = TableType(
    "kept",
    1,
    pa.schema(
        [
            _required("key", pa.string()),  # its place in the order of all that could be kept: the first are
            _required("sha256", pa.string()),  # of the encoded raw image
            _required("label", pa.int8()),  # of the image
            _required("kind", pa.string()),
            _required("group", pa.string()),
            _required("pixels", pa.binary()),  # PNG of scaled pixels: a patch (train) or a whole image (test)
        ]
    ),
)
