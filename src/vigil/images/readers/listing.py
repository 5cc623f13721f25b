"""A listing of the user's own images: CSV or Parquet with the columns path, label, kind, mask, group, split.

`path` and `label` (`normal` or 0, `anomalous` or 1) are needed. Where it is left empty, `kind` of an anomaly is
`anomaly` and `group` the path; `split` is `train`, `test` or empty, `mask` a file or empty. Paths lie below the data
folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vigil.errors import DataError
from vigil.images.readers.rows import ImageRow
from vigil.images.source import resolve_below
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND

COLUMNS = ("path", "label", "kind", "mask", "group", "split")
_NEEDED = {"path", "label"}
_LABELS = {"normal": NORMAL, "0": NORMAL, "anomalous": ANOMALOUS, "1": ANOMALOUS}
_UNNAMED = "anomaly"
_SURPLUS = ""  # no column has this name
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of a listing that is not taken."""

    path: str
    """As it stands there; may be anything."""
    reason: str
    """With the listing's name and the line (CSV) or row (Parquet), counted from 1."""


def read_listing(root: Path, listing: Path) -> Iterator[ImageRow]:
    """One row per line of a listing; every bad one is named before an error ends it.

    Raises:
        DataError: The listing is no CSV or Parquet file with these columns, or holds bad rows.
    """
    bad = []
    for row in scan_listing(root, listing):
        if isinstance(row, BadRow):
            bad.append(row.reason)
        else:
            yield row
    if bad:
        more = f"\n  ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DataError(
            f"{listing}: {len(bad)} bad rows; correct or remove them:\n  " + "\n  ".join(bad[:_SHOWN]) + more
        )


def scan_listing(root: Path, listing: Path) -> Iterator[ImageRow | BadRow]:
    """Every row of a listing, good or bad, in its order; no image is opened.

    Raises:
        DataError: The listing is no CSV or Parquet file with these columns.
    """
    seen: set[str] = set()
    for place, values in (_parquet if listing.suffix.lower() == ".parquet" else _csv)(listing):
        path = values.get("path") or ""
        try:
            row = _row(root, values)
            if path in seen:
                raise DataError(f"{path} is listed twice")
        except DataError as error:
            yield BadRow(path, f"{listing.name}, {place}: {error}")
        else:
            seen.add(path)
            yield row


def _row(root: Path, values: dict[str, str]) -> ImageRow:
    if values.get(_SURPLUS):
        raise DataError("more fields than columns; put a path with a comma in quotes")
    path, name = values.get("path", ""), values.get("label", "").lower()
    size = _size(root, "path", path)
    if name not in _LABELS:
        raise DataError(f"label is '{name}', expected normal (0) or anomalous (1)")
    label = _LABELS[name]
    kind = values.get("kind") or (NORMAL_KIND if label == NORMAL else _UNNAMED)
    if (kind == NORMAL_KIND) != (label == NORMAL):
        raise DataError(f"kind is '{kind}' but label is '{name}'; normal images, and no others, are of kind normal")
    mask = values.get("mask") or None
    if mask is not None:
        if label == NORMAL:
            raise DataError(f"a normal image has the mask '{mask}'; leave it empty")
        _size(root, "mask", mask)
    split = values.get("split", "").lower() or None
    if split not in ("train", "test", None):
        raise DataError(f"split is '{split}', expected train, test or nothing")
    return ImageRow(path, path, None, size, label, kind, values.get("group") or path, split, mask)


def _size(root: Path, column: str, path: str) -> int:
    """Bytes of a file below `root`; raises DataError if it is none."""
    if not path or PurePosixPath(path).is_absolute() or str(PurePosixPath(path)) != path or "\0" in path:
        raise DataError(f"{column} is '{path}', expected a plain path below the data folder, like images/1.png")
    file = resolve_below(root, path)
    try:
        if file.is_file():
            return file.stat().st_size
    except OSError as error:
        raise DataError(f"{column} is '{path}', which cannot be read ({error.strerror})") from error
    raise DataError(f"{column} is '{path}', and there is no such file in {root}")


def _csv(listing: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Line number and values of each row, without surrounding spaces."""
    line = 1
    try:
        with listing.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            names = _checked_columns(listing, reader.fieldnames or [])
            for row in reader:
                line = reader.line_num
                values = {names[k]: (v or "").strip() for k, v in row.items() if k and isinstance(v, str)}
                yield f"line {line}", {**values, _SURPLUS: "yes" if "" in row else ""}
    except FileNotFoundError as error:
        raise DataError(f"{listing}: listing not found; data.listing is a file below data.root") from error
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{listing}: not a readable CSV file ({error}), after line {line}") from error


def _parquet(listing: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Row number and values of each row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(listing) as file:
            names = _checked_columns(listing, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=list(names)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {names[key]: _text(value) for key, value in row.items()}
    except FileNotFoundError as error:
        raise DataError(f"{listing}: listing not found; data.listing is a file below data.root") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{listing}: not a readable Parquet file ({error})") from error


def _text(value: Any) -> str:
    """A cell as in a CSV file: truth values are the labels 0 and 1."""
    return "" if value is None else str(int(value) if isinstance(value, bool) else value).strip()


def _checked_columns(listing: Path, found: Any) -> dict[str, str]:
    """Column as written, and its name in lower case; raises DataError for missing, unknown or repeated ones."""
    names = {str(column): str(column).strip().lower() for column in found}
    lower = [str(column).strip().lower() for column in found]
    if not set(lower) >= _NEEDED or not set(lower) <= set(COLUMNS) or len(set(lower)) < len(lower):
        raise DataError(
            f"{listing}: expected the columns path, label and if wanted kind, mask, group, split; found "
            f"{', '.join(map(str, found)) or '(none)'}"
        )
    return names
