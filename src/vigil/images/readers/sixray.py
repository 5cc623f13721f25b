"""SIXray's layout, also that of the simulated baggage: `JPEGImages/` and Pascal VOC boxes in `Annotation/`.

`N*` is a bag without a threat, `P*` one with. Classes come from the boxes; for a positive without boxes from
`labels/labels.csv` (columns `name,Gun,Knife,...`, 1 or -1); else its kind is `threat`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vigil.errors import DataError
from vigil.images.readers.rows import ImageRow, check_found, files_in
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND, Box

CLASSES = ("gun", "knife", "wrench", "pliers", "scissors", "hammer")
UNNAMED_THREAT = "threat"
IMAGES, ANNOTATIONS, LABELS = "JPEGImages", "Annotation", "labels/labels.csv"
_MAX_ANNOTATION_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Annotation:
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None
    fault: str | None = None
    kinds: frozenset[str] = field(default=frozenset())


def read(root: str) -> Iterator[ImageRow]:
    """One row per file in `JPEGImages/`; every image is a group of its own (the manifest joins near-repeats)."""
    labelled = _read_labels(Path(root) / LABELS)
    count = 0
    for path, size in files_in(Path(root), IMAGES):
        count += 1
        stem = PurePosixPath(path).stem
        if not stem.startswith(("N", "P")):
            raise DataError(f"{root}/{path}: expected a name that starts with N (negative) or P (positive)")
        positive = stem.startswith("P")
        annotation = _read_annotation(Path(root), f"{ANNOTATIONS}/{stem}.xml")
        kinds = annotation.kinds or labelled.get(stem, frozenset())
        fault = annotation.fault
        if not positive and kinds and not fault:
            fault = f"named negative (N*), but its annotation or {LABELS} says {'+'.join(sorted(kinds))}"
        kind = "+".join(c for c in CLASSES if c in kinds) or UNNAMED_THREAT
        yield ImageRow(
            path,
            path,
            None,
            size,
            label=ANOMALOUS if positive else NORMAL,
            kind=kind if positive else NORMAL_KIND,
            group=path,
            boxes=annotation.boxes,
            annotated_size=annotation.size,
            fault=fault,
        )
    check_found(count, root, f"{IMAGES}/N*.jpg and {IMAGES}/P*.jpg")


def _read_annotation(root: Path, path: str) -> _Annotation:
    """The boxes of a VOC file, class names in lower case; a damaged file is a fault, a missing one has no boxes.

    VOC coordinates are real numbers here; a box covers every pixel that it touches.
    """
    file = root / path
    if not file.is_file():
        return _Annotation()
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    boxes = []
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_ANNOTATION_BYTES + 1)
        if len(content) > _MAX_ANNOTATION_BYTES:
            return _Annotation(fault=f"{path}: annotation larger than {_MAX_ANNOTATION_BYTES} bytes")
        tree = fromstring(content)
        size = tree.find("size")
        annotated = (_number(size, "width"), _number(size, "height")) if size is not None else None
        for item in tree.iter("object"):
            kind = (item.findtext("name") or "").strip().lower()
            if kind not in CLASSES:
                return _Annotation(fault=f"{path}: unknown class '{kind}', expected one of {', '.join(CLASSES)}")
            corners = item.find("bndbox")
            x0, y0 = (math.floor(_number(corners, name)) for name in ("xmin", "ymin"))
            x1, y1 = (math.ceil(_number(corners, name)) for name in ("xmax", "ymax"))
            boxes.append(Box(kind, x0, y0, x1, y1))
    except (ParseError, DefusedXmlException, ValueError, LookupError, OSError) as error:
        return _Annotation(fault=f"{path}: not a readable VOC annotation ({error or type(error).__name__})")
    size_px = None if annotated is None else (round(annotated[0]), round(annotated[1]))
    return _Annotation(tuple(boxes), size_px, None, frozenset(box.kind for box in boxes))


def _number(parent: object, name: str) -> float:
    text = parent.findtext(name) if parent is not None else None  # type: ignore[attr-defined]
    value = float(text) if text is not None else math.nan
    if not abs(value) < 1e6:
        raise ValueError(f"<{name}> is {'missing' if text is None else repr(text)}, expected a pixel coordinate")
    return value


def _read_labels(path: Path) -> dict[str, frozenset[str]]:
    """Classes of each image named in the official CSV; empty if there is none.

    Raises:
        DataError: The file is not a CSV with the official columns.
    """
    if not path.is_file():
        return {}
    labels = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = {name: name.strip().lower() for name in reader.fieldnames or ()}
            if columns.get("name") != "name" or not set(columns.values()) & set(CLASSES):
                raise DataError(f"{path}: expected the columns name,Gun,Knife,..., found {list(columns)}")
            for row in reader:
                stem = PurePosixPath(row["name"] or "").stem
                labels[stem] = frozenset(
                    k for c, k in columns.items() if k in CLASSES and (row[c] or "").strip() == "1"
                )
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
    return labels
