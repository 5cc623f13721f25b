"""SIXray's layout, also that of the simulated baggage: `JPEGImages/` and Pascal VOC boxes in `Annotation/`.

`N*` is a bag without a threat, `P*` one with, in either letter case. Classes come from the boxes; for a positive
without boxes from `labels/labels.csv` or the official `ImageSet/<10|100|1000>/{train,test}.csv` (columns
`name,Gun,Knife,...`, 1 or -1); else its kind is `threat`.
"""

from __future__ import annotations

import csv
import heapq
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vigil.config import BaggageData, SixrayData, SubsetSection
from vigil.errors import DataError
from vigil.images.readers.rows import ImageRow, check_found, files_in
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND, Box
from vigil.seeding import derive_seed

_log = logging.getLogger(__name__)

CLASSES = ("gun", "knife", "wrench", "pliers", "scissors", "hammer")
UNNAMED_THREAT = "threat"
IMAGES, ANNOTATIONS, LABELS, IMAGE_SETS = "JPEGImages", "Annotation", "labels/labels.csv", "ImageSet"
_MAX_ANNOTATION_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Annotation:
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None
    fault: str | None = None
    kinds: frozenset[str] = field(default=frozenset())


def read(data: SixrayData | BaggageData) -> Iterator[ImageRow]:
    """One row per image that is asked for; every image is a group of its own (the manifest joins pictures of one bag).

    Raises:
        DataError: There is no image; a name starts with neither N nor P; a CSV is missing or has other columns or
            rows; or fewer negatives are there than `data.subset` draws.
    """
    root = Path(data.root)
    labelled, split_of = _read_labels(root / LABELS), None
    if isinstance(data, SixrayData) and data.image_set is not None:
        split_of, more = _read_image_set(root, data.image_set)
        labelled = more | labelled
    chosen = None
    if isinstance(data, SixrayData) and data.subset is not None:
        chosen = _draw((stem for stem, _, _ in _images(root) if split_of is None or stem in split_of), data.subset)

    annotations = {PurePosixPath(path).stem.upper(): path for path, _ in files_in(root, ANNOTATIONS)}
    count = 0
    for stem, path, size in _images(root):
        if split_of is not None and stem not in split_of:
            continue
        count += 1
        positive = stem.startswith("P")
        if chosen is not None and not positive and stem not in chosen:
            continue
        annotation = _read_annotation(root, annotations[stem]) if stem in annotations else _Annotation()
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
            official_split=None if split_of is None else split_of[stem],
            boxes=annotation.boxes,
            annotated_size=annotation.size,
            fault=fault,
        )
    check_found(count, data.root, f"{IMAGES}/N*.jpg and {IMAGES}/P*.jpg")
    if split_of is not None and count < len(split_of):
        _log.warning(
            "%s: %d of the %d images that %s/%s names are not in %s/; going on with the others",
            *(root, len(split_of) - count, len(split_of), IMAGE_SETS, getattr(data, "image_set", ""), IMAGES),
        )


def bag_number(stem: str) -> tuple[str, int] | None:
    """Letter and number of a name like N0000123 or p00045; None for any other."""
    letter, digits = stem[:1].upper(), stem[1:]
    return (letter, int(digits)) if letter in "NP" and letter and digits.isascii() and digits.isdigit() else None


def _images(root: Path) -> Iterator[tuple[str, str, int]]:
    """Stem in upper case, path and size of every file in `JPEGImages/`."""
    for path, size in files_in(root, IMAGES):
        stem = PurePosixPath(path).stem.upper()
        if not stem.startswith(("N", "P")):
            raise DataError(f"{root}/{path}: expected a name that starts with N (negative) or P (positive)")
        yield stem, path, size


def _draw(stems: Iterator[str], subset: SubsetSection) -> set[str]:
    """The `subset.images` negatives with the smallest hashes of (seed, name): the same whatever else is there.

    Raises:
        DataError: There are fewer.
    """
    ranked = ((derive_seed(subset.seed, f"subset\x1f{stem}"), stem) for stem in stems if stem.startswith("N"))
    drawn = {stem for _, stem in heapq.nsmallest(subset.images, ranked)}
    if len(drawn) < subset.images:
        raise DataError(
            f"data.subset.images: {subset.images} negatives asked for, {len(drawn)} are there; ask for less"
        )
    return drawn


def _read_image_set(root: Path, image_set: int) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Official split and classes of every image that a pair of official CSVs names, by stem in upper case.

    Raises:
        DataError: A CSV is missing or not one of the official columns, or names an image twice.
    """
    split_of: dict[str, str] = {}
    classes: dict[str, frozenset[str]] = {}
    for split in ("test", "train"):
        path = root / IMAGE_SETS / str(image_set) / f"{split}.csv"
        if not path.is_file():
            raise DataError(
                f"{path}: not found, but data.image_set is {image_set}; bring in SIXray's {IMAGE_SETS} folder, or "
                f"set data.image_set to null"
            )
        found = _read_labels(path)
        if both := sorted(found.keys() & split_of.keys()):
            raise DataError(f"{path}: {both[0]} is in test.csv as well; one image cannot serve for both")
        split_of |= dict.fromkeys(found, split)
        classes |= found
    return split_of, classes


def _read_annotation(root: Path, path: str) -> _Annotation:
    """The boxes of a VOC file, class names in lower case; a damaged file is a fault.

    VOC coordinates are real numbers here; a box covers every pixel that it touches.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    boxes = []
    try:
        with (root / path).open("rb") as opened:
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
    """Classes of each image that a CSV of the official form names, by stem in upper case; empty if there is none.

    Raises:
        DataError: The file is not a CSV with the official columns, or a row names no image, or one again.
    """
    if not path.is_file():
        return {}
    labels: dict[str, frozenset[str]] = {}
    known: dict[frozenset[str], frozenset[str]] = {}  # a million rows hold a few dozen sets
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = {name: name.strip().lower() for name in reader.fieldnames or ()}
            if "name" not in columns.values() or not set(columns.values()) & set(CLASSES):
                raise DataError(f"{path}: expected the columns name,Gun,Knife,..., found {str(list(columns))[:300]}")
            name_column = next(column for column, name in columns.items() if name == "name")
            for row in reader:
                stem = PurePosixPath((row[name_column] or "").strip()).stem.upper()
                if not stem.startswith(("N", "P")) or stem in labels:
                    what = "named twice" if stem in labels else "no name that starts with N or P"
                    raise DataError(f"{path}: line {reader.line_num}: {stem or '(empty)'}: {what}; correct the row")
                found = frozenset(k for c, k in columns.items() if k in CLASSES and (row[c] or "").strip() == "1")
                labels[stem] = known.setdefault(found, found)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
    return labels
