"""`vigil data import`: brings a data set into the project, whole and checked, or not at all."""

from __future__ import annotations

import csv
import os
import shutil
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from vigil.config import FolderData, MagneticTileData, SixrayData
from vigil.errors import ConfigError, DataError
from vigil.files import write_json, written_aside
from vigil.images.importing_cifar10 import write_archives
from vigil.images.manifest import MAX_DECODED_PIXELS
from vigil.images.raw import IMPORT_RECEIPT, add_to_tar
from vigil.images.readers import ImageRow, cifar10, folder, magnetic_tile, mvtec, sixray
from vigil.images.readers.listing import COLUMNS, BadRow, scan_listing
from vigil.images.readers.rows import check_found, files_in, folders_in, members_of
from vigil.images.source import open_image, resolve_below
from vigil.progress import track
from vigil.records import ANOMALOUS, NORMAL

QUARANTINED = "vigil-quarantined.csv"
"""Beside the receipt: what was left out under `--quarantine`, and why."""
LISTING = "listing.csv"
"""The listing of a folder that was imported with one; `data.listing` names it."""
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
    quarantined: int = 0
    """Files that were left out."""

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
        if self.quarantined:
            lines.append(f"  left out: {self.quarantined} files, listed with reasons in {QUARANTINED} there")
        return "\n".join(lines)


class _Bringing:
    """One import under way: places files in `new` and remembers which could not be placed or do not open."""

    def __init__(self, source: Path, new: Path, link: bool, quarantine: bool) -> None:
        self.source, self.new = source, new
        self._link, self._quarantine = link, quarantine
        self._faults: dict[str, str] = {}

    def place_tree(self, part: str, into: str | None = None) -> int:
        """Places every file of `source/part` below `new/into` (default: `part`); the number of files found."""
        paths = [path for path, _ in files_in(self.source, part)]
        for path in track(paths, f"{'linking' if self._link else 'copying'} {part}", len(paths), "files"):
            self.place(path, path if into is None else into + path.removeprefix(part))
        return len(paths)

    def place(self, path: str, as_path: str | None = None) -> bool:
        """Places one file; False, and a fault, if it cannot be."""
        try:
            _place(self.source, path, self.new / (as_path or path), self._link)
        except DataError as error:
            self.refuse(as_path or path, str(error))
            return False
        return True

    def refuse(self, path: str, reason: str) -> None:
        """Counts a file, or a row of a listing, as one that is left out."""
        self._faults.setdefault(path, reason)

    def settled(self, rows: Sequence[ImageRow]) -> list[ImageRow]:
        """The rows whose image opens and whose mask is there and opens; the files of all others are removed.

        Raises:
            DataError: There are others, or files that could not be placed, and they are not to be quarantined; names
                the first ones. Or no image is left.
        """
        good, bad = [], []
        for row in track(rows, "checking", len(rows), "images"):
            try:
                if row.image_id in self._faults:
                    raise DataError(self._faults[row.image_id])
                open_image(self.new, row.path, row.offset, row.length, max_pixels=MAX_DECODED_PIXELS)
                if row.mask_path is not None:
                    self._open_mask(row.mask_path)
            except DataError as error:
                self.refuse(row.image_id, str(error))
                bad.append(row)
            else:
                good.append(row)
        if not self._faults:
            return list(rows)
        if not self._quarantine:
            reasons = list(self._faults.values())
            more = f"\n  ... and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
            raise DataError(
                f"{len(reasons)} of {max(len(rows), len(good) + len(reasons))} images do not open; repair or remove "
                f"them, then import again, or leave them out with --quarantine:\n  "
                + "\n  ".join(reasons[:_SHOWN])
                + more
            )
        check_found(len(good), str(self.source), "at least one image that opens")
        self._remove(bad)
        with (self.new / QUARANTINED).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "reason"])
            writer.writerows(sorted(self._faults.items()))
        return good

    @property
    def faults(self) -> int:
        """How many files are left out."""
        return len(self._faults)

    def _open_mask(self, path: str) -> None:
        if path in self._faults:
            raise DataError(self._faults.pop(path))
        file = resolve_below(self.new, path)
        if not file.is_file():
            raise DataError(f"its mask {path} is missing")
        open_image(self.new, path, None, file.stat().st_size, max_pixels=MAX_DECODED_PIXELS)

    def _remove(self, rows: Sequence[ImageRow]) -> None:
        """Takes the files of these rows away again: whole files with their masks, or members of an archive."""
        members: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row.offset is not None:
                members[row.path].add(row.image_id.removeprefix(f"{row.path}::"))
                continue
            for path in (row.path, row.mask_path):
                if path is not None:
                    (self.new / path).unlink(missing_ok=True)
        for archive, names in members.items():
            _without(self.new / archive, names)


def _without(archive: Path, names: set[str]) -> None:
    """Writes an uncompressed tar anew, less the members `names`."""
    with written_aside(archive) as new, archive.open("rb") as old, tarfile.open(new, "w:") as tar:
        for member in members_of(archive):
            if member.name not in names:
                old.seek(member.offset)
                add_to_tar(tar, member.name, old.read(member.length))


def import_data(
    name: str,
    source: Path,
    root: Path,
    classes: str | Sequence[str] | None = None,
    link: bool = False,
    quarantine: bool = False,
    listing: Path | None = None,
) -> ImportSummary:
    """Copies a data set into `root`, checks counts and that every image and mask opens, and leaves a receipt.

    Everything is written aside; `root` (for `mvtec` the categories' folders in `root`) is replaced only after all
    checks have passed. `cifar10` becomes one uncompressed tar per split, so that DVC tracks few files.

    Args:
        name: `cifar10`, `mvtec`, `magnetic_tile`, `sixray` or `folder`.
        source: A folder in the set's own layout. For `cifar10` also the official python archive or its unpacked
            folder, or a tar of an image-folder tree; for `mvtec` a category's folder or the parent of several.
        root: Where the raw data set goes.
        classes: `mvtec`: the categories; None takes all that `source` holds. `cifar10`: a class that must be there.
            Others: None.
        link: Hard links instead of copies; `cifar10` is always written anew.
        quarantine: Go on without images that cannot be read, do not open, or lack a mask that opens, and without bad
            rows of a listing; `vigil-quarantined.csv` in `root` says which and why.
        listing: `folder`: a CSV or Parquet file that says which files below `source` are images, in place of the
            tree; it becomes `listing.csv` in `root`.

    Raises:
        ConfigError: `name` is no data set that is imported, or classes or a listing are given where there are none.
        DataError: `source` is missing or has another layout, a file cannot be placed or an image does not open (the
            first 20 are named), a count is wrong, or `root` holds something else.
    """
    source, root = Path(source), Path(root)
    names = [classes] if isinstance(classes, str) else list(classes or ())
    if not source.exists():
        raise DataError(f"{source}: not found; expected the folder or archive that holds the data set '{name}'")
    if source.is_dir() and root.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{source}: the data would be copied into itself ({root}); import from another folder")
    if name != "cifar10" and not source.is_dir():
        raise DataError(f"{source}: expected a folder in the layout of '{name}'; unpack the archive first")
    if listing is not None and name != "folder":
        raise ConfigError(f"--listing {listing}: only the data set 'folder' has one")
    if names and name in ("magnetic_tile", "sixray", "folder"):
        raise ConfigError(f"--class {names[0]}: '{name}' has no categories to choose from")
    match name:
        case "cifar10":
            return _import_cifar10(source, root, names, quarantine)
        case "mvtec":
            return _import_mvtec(source, root, names, link, quarantine)
        case "magnetic_tile":
            return _import_magnetic_tile(source, root, link, quarantine)
        case "sixray":
            return _import_sixray(source, root, link, quarantine)
        case "folder":
            return _import_folder(source, root, link, quarantine, listing)
    raise ConfigError(
        f"'{name}' cannot be imported; expected cifar10, mvtec, magnetic_tile, sixray or folder (baggage and digits "
        f"come with Vigil)"
    )


# -------------------------------------------------------------------------------------- image folders, file by file


def _import_mvtec(source: Path, root: Path, names: list[str], link: bool, quarantine: bool) -> ImportSummary:
    is_category = (source / "train" / "good").is_dir()
    if is_category and len(names) > 1:
        raise ConfigError(f"--class {names[1]}: {source} is one category itself; import from its parent")
    categories = names or ([source.resolve().name] if is_category else mvtec.categories_in(source))
    if not categories:
        raise DataError(f"{source}: holds no train/good and no folder with one, so this is not MVTec AD's layout")
    for category in categories:
        if PurePosixPath(category).parts != (category,) or category.startswith(".") or category == "all":
            raise ConfigError(f"--class {category}: expected the name of a category, e.g. bottle")
        if not ((source if is_category else source / category) / "train" / "good").is_dir():
            found = ", ".join(mvtec.categories_in(source)) or "none"
            raise DataError(
                f"{source / category}: no folder train/good, so this is not a category in MVTec AD's layout (there "
                f"are: {found})"
            )
    # All are checked before the first of them replaces what is there.
    with ExitStack() as stack:
        all_rows: list[ImageRow] = []
        faults = 0
        for category in sorted(set(categories)):
            origin = source if is_category else source / category
            new = stack.enter_context(_replacing(root / category))
            bringing = _Bringing(origin, new, link, quarantine)
            for part in ("train", "test", "ground_truth"):
                bringing.place_tree(part)
            rows = _mvtec_rows(new, f"{category}/" if len(categories) > 1 else "")
            defects = sum(1 for row in rows if row.mask_path)
            masks = sum(1 for _ in files_in(new, "ground_truth"))
            if masks != defects and not quarantine:
                raise DataError(f"{origin}: {defects} images of defects but {masks} masks; expected one mask for each")
            rows = bringing.settled(rows)
            one = ImportSummary("mvtec", str(root / category), _count(rows), quarantined=bringing.faults)
            _write_receipt(new, one, category)
            all_rows += rows
            faults += bringing.faults
        masks = sum(1 for row in all_rows if row.mask_path)
        summary = ImportSummary("mvtec", str(root), _count(all_rows), masks=masks, quarantined=faults)
    return summary


def _mvtec_rows(category: Path, kind_prefix: str) -> list[ImageRow]:
    """The rows of a category's folder, with paths below it."""
    name = f"{category.name}/"
    return [
        replace(
            row,
            image_id=row.image_id.removeprefix(name),
            path=row.path.removeprefix(name),
            mask_path=row.mask_path and row.mask_path.removeprefix(name),
        )
        for row in mvtec.category_rows(category.parent, category.name, kind_prefix)
    ]


def _import_magnetic_tile(source: Path, root: Path, link: bool, quarantine: bool) -> ImportSummary:
    with _replacing(root) as new:
        bringing = _Bringing(source, new, link, quarantine)
        for name in folders_in(source, ""):
            if name.startswith(magnetic_tile.PREFIX):
                bringing.place_tree(f"{name}/{magnetic_tile.IMAGES}")
        data = MagneticTileData(name="magnetic_tile", root=str(new))
        rows = list(magnetic_tile.read(data))
        masks = {path for name in folders_in(new, "") for path, _ in files_in(new, name) if path.endswith(".png")}
        wanted = {str(row.mask_path) for row in rows}
        if wanted != masks and not quarantine:
            odd = sorted(wanted ^ masks)[0]
            raise DataError(f"{source}: {len(rows)} images but {len(masks)} masks; expected one for each, see {odd}")
        for path in sorted(masks - wanted):
            bringing.refuse(path, f"{path}: a mask without an image")
            (new / path).unlink()
        rows = bringing.settled(rows)
        defective = [row for row in rows if row.label == ANOMALOUS]
        unmarked = [row.image_id for row in defective if not _marks_something(new, str(row.mask_path))]
        warnings = [f"its mask is empty although it is defective (validate.empty_masks_allowed): {i}" for i in unmarked]
        marks = len(defective) - len(unmarked)
        summary = ImportSummary(
            "magnetic_tile", str(root), _count(rows), marks, warnings=tuple(warnings), quarantined=bringing.faults
        )
        _write_receipt(new, summary)
    return summary


def _marks_something(root: Path, mask: str) -> bool:
    length = (root / mask).stat().st_size
    return open_image(root, mask, None, length, max_pixels=MAX_DECODED_PIXELS).getbbox() is not None


def _import_sixray(source: Path, root: Path, link: bool, quarantine: bool) -> ImportSummary:
    with _replacing(root) as new:
        bringing = _Bringing(source, new, link, quarantine)
        # The official archives unpack to JPEGImage, copies of the set often to JPEGImages.
        part = sixray.IMAGES if (source / sixray.IMAGES).is_dir() else sixray.IMAGES.removesuffix("s")
        check_found(
            bringing.place_tree(part, sixray.IMAGES), str(source), f"{sixray.IMAGES}/N*.jpg and {sixray.IMAGES}/P*.jpg"
        )
        annotations = bringing.place_tree(sixray.ANNOTATIONS)
        bringing.place_tree(sixray.IMAGE_SETS)
        if (source / sixray.LABELS).is_file():
            bringing.place(sixray.LABELS)
        rows = list(sixray.read(SixrayData(name="sixray", root=str(new))))
        annotated = sum(1 for row in rows if row.annotated_size or row.boxes or row.fault)
        rows = bringing.settled(rows)
        positives = sum(row.label for row in rows)
        boxed = sum(1 for row in rows if row.boxes)
        warnings = []
        if annotations > annotated:
            warnings.append(f"{annotations - annotated} files in {sixray.ANNOTATIONS}/ belong to no image")
        if positives > boxed:
            warnings.append(f"{positives - boxed} of {positives} positives have no boxes")
        summary = ImportSummary(
            *("sixray", str(root), _count(rows)),
            images_with_boxes=boxed,
            warnings=tuple(warnings),
            quarantined=bringing.faults,
        )
        _write_receipt(new, summary)
    return summary


def _import_folder(source: Path, root: Path, link: bool, quarantine: bool, listing: Path | None) -> ImportSummary:
    with _replacing(root) as new:
        bringing = _Bringing(source, new, link, quarantine)
        warnings = []
        if listing is not None:
            rows = _place_listed(bringing, listing)
            masks = sum(1 for row in rows if row.mask_path)
            warnings.append(f"the listing is {LISTING} there now; set data.listing to '{LISTING}' in params.yaml")
        else:
            count = sum(bringing.place_tree(part) for part in ("normal", "anomalous", "masks"))
            check_found(count, str(source), "normal/*, optional anomalous/<kind>/* and masks/<kind>/*")
            rows = bringing.settled(list(folder.read(FolderData(name="folder", root=str(new)))))
            masks = sum(1 for _ in files_in(new, "masks"))
            if masks > (wanted := sum(1 for row in rows if row.mask_path)):
                warnings.append(f"{masks - wanted} files in masks/ belong to no image in anomalous/")
        if not any(row.label for row in rows):
            warnings.append("there are no anomalous images, so nothing can be evaluated")
        summary = ImportSummary(
            "folder", str(root), _count(rows), masks, warnings=tuple(warnings), quarantined=bringing.faults
        )
        _write_receipt(new, summary)
    return summary


def _place_listed(bringing: _Bringing, listing: Path) -> list[ImageRow]:
    """Places what a listing names, and writes the listing of what is left in the end."""
    rows: list[ImageRow] = []
    for row in scan_listing(bringing.source, listing):
        if isinstance(row, BadRow):
            bringing.refuse(row.reason.split(": ", 1)[0], row.reason)
        elif row.path == LISTING or row.mask_path == LISTING:
            raise DataError(f"{listing}: names {LISTING}, which is where the listing goes; rename that file")
        else:
            bringing.place(row.path)
            if row.mask_path is not None and not (bringing.new / row.mask_path).exists():
                bringing.place(row.mask_path)
            rows.append(row)
    check_found(len(rows), str(listing), "rows that name images")
    rows = sorted(bringing.settled(rows), key=lambda row: row.image_id)
    check_found(sum(row.label == NORMAL for row in rows), str(listing), "at least one row with the label normal")
    with (bringing.new / LISTING).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            label = "normal" if row.label == NORMAL else "anomalous"
            writer.writerow([row.path, label, row.kind, row.mask_path or "", row.group, row.official_split or ""])
    return rows


def _place(source: Path, path: str, destination: Path, link: bool) -> None:
    origin = (source / path).resolve()
    if not origin.is_relative_to(source.resolve()):
        raise DataError(f"{source / path}: a symbolic link that leads out of {source}; put the file itself there")
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


def _import_cifar10(source: Path, root: Path, classes: list[str], quarantine: bool) -> ImportSummary:
    with _replacing(root) as new:
        write_archives(source, new)
        rows = []
        for archive, split, members in cifar10.archives_in(new):
            for name, offset, length in members:
                image_id = f"{archive}::{name}"
                kind = name.split("/")[0]
                rows.append(ImageRow(image_id, archive, offset, length, 0, kind, image_id, official_split=split))
        check_found(len(rows), str(source), "<split>/<class>/<file>, or the official python batches")
        found = {row.kind for row in rows}
        if missing := [name for name in classes if name not in found]:
            raise DataError(f"--class {missing[0]}: no image of it in {source}; it holds {', '.join(sorted(found))}")
        bringing = _Bringing(source, new, link=False, quarantine=quarantine)
        counts = _count(bringing.settled(rows))
        warnings = tuple(_cifar10_warnings(counts))
        summary = ImportSummary("cifar10", str(root), counts, warnings=warnings, quarantined=bringing.faults)
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


def _count(rows: Iterable[ImageRow]) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.official_split or _NO_SPLIT][row.kind] += 1
    return {split: dict(sorted(kinds.items())) for split, kinds in sorted(counts.items())}


def _write_receipt(folder: Path, summary: ImportSummary, category: str | None = None) -> None:
    receipt = {"name": summary.name, "category": category, "images": summary.images, "counts": summary.counts}
    write_json(
        folder / IMPORT_RECEIPT, {**receipt, "warnings": list(summary.warnings), "quarantined": summary.quarantined}
    )
