"""`vigil data import`: brings a data set into the project, whole and checked, or not at all."""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vigil.config import FolderData, MagneticTileData
from vigil.errors import ConfigError, DataError
from vigil.files import write_json, written_aside
from vigil.images.importing_cifar10 import write_archives
from vigil.images.manifest import MAX_DECODED_PIXELS
from vigil.images.raw import IMPORT_RECEIPT
from vigil.images.readers import ImageRow, cifar10, folder, magnetic_tile, mvtec, sixray
from vigil.images.readers.rows import check_found, files_in, folders_in
from vigil.images.source import open_image
from vigil.progress import track

_SHOWN = 20
_NO_SPLIT = "no official split"


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What was brought in, and what is remarkable about it."""

    name: str
    root: str
    counts: dict[str, dict[str, int]]
    """Images by official split, then by class or kind."""
    masks: int = 0
    images_with_boxes: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def images(self) -> int:
        """All images."""
        return sum(sum(kinds.values()) for kinds in self.counts.values())

    def describe(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.name}: {self.images} images in {self.root}, and every one opens"]
        for split, kinds in self.counts.items():
            shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            lines.append(f"  {split}: {sum(kinds.values())} ({shown})")
        if self.masks:
            lines.append(f"  masks: {self.masks}")
        if self.images_with_boxes:
            lines.append(f"  images with boxes: {self.images_with_boxes}")
        return "\n".join(lines)


def import_data(
    name: str, source: Path, root: Path, held_class_or_category: str | None = None, link: bool = False
) -> ImportSummary:
    """Copies a data set into `root`, checks counts and that every image opens, and leaves a receipt.

    Everything is written aside; `root` (for `mvtec` the category's folder in `root`) is replaced only after all checks
    have passed. `cifar10` becomes one uncompressed tar per split, so that DVC tracks few files.

    Args:
        name: `cifar10`, `mvtec`, `magnetic_tile`, `sixray` or `folder`.
        source: A folder in the set's own layout. For `cifar10` also the official python archive or its unpacked
            folder, or a tar of an image-folder tree; for `mvtec` the category's folder or its parent.
        root: Where the raw data set goes.
        held_class_or_category: `mvtec`: the category, needed where `source` is the parent. `cifar10`: a class that
            must be there. Others: None.
        link: Hard links instead of copies; `cifar10` is always written anew.

    Raises:
        ConfigError: `name` is no data set that is imported, or a category is missing or out of place.
        DataError: `source` is missing or has another layout, an image does not open, a count is wrong, `root` holds
            something else, or a file cannot be placed.
    """
    source, root = Path(source), Path(root)
    if not source.exists():
        raise DataError(f"{source}: not found; expected the folder or archive that holds the data set '{name}'")
    if source.is_dir() and root.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{source}: the data would be copied into itself ({root}); import from another folder")
    if name != "cifar10" and not source.is_dir():
        raise DataError(f"{source}: expected a folder in the layout of '{name}'; unpack the archive first")
    match name:
        case "cifar10":
            return _import_cifar10(source, root, held_class_or_category)
        case "mvtec":
            return _import_mvtec(source, root, held_class_or_category, link)
        case "sixray" | "folder" | "magnetic_tile":
            if held_class_or_category is not None:
                raise ConfigError(f"--class {held_class_or_category}: '{name}' has no categories to choose from")
            bring_in = {"sixray": _import_sixray, "folder": _import_folder, "magnetic_tile": _import_magnetic_tile}[
                name
            ]
            return bring_in(source, root, link)
    raise ConfigError(
        f"'{name}' cannot be imported; expected cifar10, mvtec, magnetic_tile, sixray or folder (baggage and digits "
        f"come with Vigil)"
    )


# -------------------------------------------------------------------------------------- image folders, file by file


def _import_mvtec(source: Path, root: Path, category: str | None, link: bool) -> ImportSummary:
    is_category = (source / "train" / "good").is_dir()
    if category is None and not is_category:
        found = [name for name in folders_in(source, "") if (source / name / "train" / "good").is_dir()]
        raise ConfigError(
            f"{source}: holds no train/good, so it is not a category of MVTec AD; name one of its folders with "
            f"--class (there are: {', '.join(found) or 'none'})"
        )
    category = category or source.resolve().name
    if PurePosixPath(category).parts != (category,) or category.startswith("."):
        raise ConfigError(f"--class {category}: expected the name of a category, e.g. bottle")
    origin = source if is_category else source / category
    if not (origin / "train" / "good").is_dir():
        raise DataError(f"{origin}: no folder train/good, so this is not a category in MVTec AD's layout")

    with _replacing(root / category) as new:
        for part in ("train", "test", "ground_truth"):
            _place_tree(origin, part, new, link)
        rows = list(mvtec.category_rows(new.parent, new.name))
        defects = sum(1 for row in rows if row.mask_path)
        masks = sum(1 for _ in files_in(new, "ground_truth"))
        if masks != defects:
            raise DataError(f"{origin}: {defects} images of defects but {masks} masks; expected one mask for each")
        _check_all_open(rows, new.parent)
        summary = ImportSummary("mvtec", str(root), _count(rows), masks=masks)
        _write_receipt(new, summary, category)
    return summary


def _import_magnetic_tile(source: Path, root: Path, link: bool) -> ImportSummary:
    with _replacing(root) as new:
        for name in folders_in(source, ""):
            if name.startswith(magnetic_tile.PREFIX):
                _place_tree(source, f"{name}/{magnetic_tile.IMAGES}", new, link)
        data = MagneticTileData(name="magnetic_tile", root=str(new))
        rows = list(magnetic_tile.read(data))
        masks = {path for name in folders_in(new, "") for path, _ in files_in(new, name) if path.endswith(".png")}
        wanted = {str(row.mask_path) for row in rows}
        if wanted != masks:
            odd = sorted(wanted ^ masks)[0]
            raise DataError(f"{source}: {len(rows)} images but {len(masks)} masks; expected one for each, see {odd}")
        _check_all_open(rows, new)
        exceptions = sorted(masks & set(data.empty_masks))
        warnings = [f"the mask of a defective image is empty, a known exception: {path}" for path in exceptions]
        marks = sum(not row.empty_mask for row in rows)
        summary = ImportSummary("magnetic_tile", str(root), _count(rows), masks=marks, warnings=tuple(warnings))
        _write_receipt(new, summary)
    return summary


def _import_sixray(source: Path, root: Path, link: bool) -> ImportSummary:
    with _replacing(root) as new:
        check_found(_place_tree(source, sixray.IMAGES, new, link), str(source), f"{sixray.IMAGES}/N*.jpg and P*.jpg")
        annotations = _place_tree(source, sixray.ANNOTATIONS, new, link)
        if (source / sixray.LABELS).is_file():
            _place(source, sixray.LABELS, new, link)
        rows = list(sixray.read(str(new)))
        _check_all_open(rows, new)
        positives = sum(row.label for row in rows)
        boxed = sum(1 for row in rows if row.boxes)
        annotated = sum(1 for row in rows if row.annotated_size or row.boxes or row.fault)
        warnings = []
        if annotations > annotated:
            warnings.append(f"{annotations - annotated} files in {sixray.ANNOTATIONS}/ belong to no image")
        if positives > boxed:
            warnings.append(f"{positives - boxed} of {positives} positives have no boxes")
        summary = ImportSummary("sixray", str(root), _count(rows), images_with_boxes=boxed, warnings=tuple(warnings))
        _write_receipt(new, summary)
    return summary


def _import_folder(source: Path, root: Path, link: bool) -> ImportSummary:
    with _replacing(root) as new:
        count = sum(_place_tree(source, part, new, link) for part in ("normal", "anomalous", "masks"))
        check_found(count, str(source), "normal/*, optional anomalous/<kind>/* and masks/<kind>/*")
        rows = list(folder.read(FolderData(name="folder", root=str(new))))
        _check_all_open(rows, new)
        masks = sum(1 for _ in files_in(new, "masks"))
        warnings = []
        if masks > (wanted := sum(1 for row in rows if row.mask_path)):
            warnings.append(f"{masks - wanted} files in masks/ belong to no image in anomalous/")
        if not any(row.label for row in rows):
            warnings.append("there are no anomalous images, so nothing can be evaluated")
        summary = ImportSummary("folder", str(root), _count(rows), masks=masks, warnings=tuple(warnings))
        _write_receipt(new, summary)
    return summary


def _place_tree(source: Path, part: str, target: Path, link: bool) -> int:
    """Places every file of `source/part` at the same path below `target`; the number of files."""
    paths = [path for path, _ in files_in(source, part)]
    for path in track(paths, f"{'linking' if link else 'copying'} {part}", len(paths), "files"):
        _place(source, path, target, link)
    return len(paths)


def _place(source: Path, path: str, target: Path, link: bool) -> None:
    origin = (source / path).resolve()
    if not origin.is_relative_to(source.resolve()):
        raise DataError(f"{source / path}: a symbolic link that leads out of {source}; put the file itself there")
    destination = target / path
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        if link:
            os.link(origin, destination)
        else:
            shutil.copyfile(origin, destination)
    except OSError as error:
        advice = "; import without --link" if link else ""
        raise DataError(f"{source / path}: cannot be placed ({error.strerror or error}){advice}") from error


# -------------------------------------------------------------------------------------------------------- CIFAR-10


def _import_cifar10(source: Path, root: Path, held_class: str | None) -> ImportSummary:
    with _replacing(root) as new:
        write_archives(source, new)
        rows = []
        counts: dict[str, dict[str, int]] = {}
        for archive, split, members in cifar10.archives_in(new):
            classes = Counter(member.name.split("/")[0] for member in members)
            counts[split or _NO_SPLIT] = dict(sorted(classes.items()))
            for name, offset, length in members:
                image_id = f"{archive}::{name}"
                rows.append(ImageRow(image_id, archive, offset, length, 0, "", image_id, official_split=split))
        check_found(len(rows), str(source), "<split>/<class>/<file>, or the official python batches")
        found = {name for classes in counts.values() for name in classes}
        if held_class is not None and held_class not in found:
            raise DataError(f"--class {held_class}: no image of it in {source}; it holds {', '.join(sorted(found))}")
        _check_all_open(rows, new)
        summary = ImportSummary("cifar10", str(root), counts, warnings=tuple(_cifar10_warnings(counts)))
        _write_receipt(new, summary)
    return summary


def _cifar10_warnings(counts: dict[str, dict[str, int]]) -> Iterator[str]:
    for split, official in cifar10.OFFICIAL_COUNTS.items():
        found = counts.get(split)
        if found is None:
            yield f"no '{split}' images" + (
                "; normal test images will be taken from the training images (split.test_fraction)"
                if split == "test"
                else ""
            )
        elif found != dict.fromkeys(cifar10.CLASSES, official):
            yield (
                f"'{split}' holds {sum(found.values())} images in {len(found)} classes, so it is a slice; the official "
                f"one has {official} in each of ten classes"
            )


# --------------------------------------------------------------------------------------------------------------- common


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """`written_aside` for a folder that an earlier import, and nobody else, may have made."""
    if folder.exists() and not (folder / IMPORT_RECEIPT).is_file() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds files that `vigil data import` did not bring in; move them away first")
    with written_aside(folder) as new:
        new.mkdir()
        yield new


def _check_all_open(rows: list[ImageRow], root: Path) -> None:
    """Raises DataError, naming the first ones, if images do not decode completely."""
    broken = []
    for row in track(rows, "checking", len(rows), "images"):
        try:
            open_image(root, row.path, row.offset, row.length, max_pixels=MAX_DECODED_PIXELS)
        except DataError as error:
            broken.append(str(error))
    if broken:
        more = f"\n  ... and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise DataError(
            f"{len(broken)} of {len(rows)} images do not open; repair or remove them, then import again:\n  "
            + "\n  ".join(broken[:_SHOWN])
            + more
        )


def _count(rows: Iterable[ImageRow]) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.official_split or _NO_SPLIT][row.kind] += 1
    return {split: dict(sorted(kinds.items())) for split, kinds in sorted(counts.items())}


def _write_receipt(folder: Path, summary: ImportSummary, category: str | None = None) -> None:
    receipt = {"name": summary.name, "category": category, "images": summary.images, "counts": summary.counts}
    write_json(folder / IMPORT_RECEIPT, {**receipt, "warnings": list(summary.warnings)})
