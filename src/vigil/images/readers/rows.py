"""What every reader yields, and the helpers that readers share."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from vigil.config import HeldClassData
from vigil.errors import DataError
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND, Box

_log = logging.getLogger(__name__)
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image as its data set describes it; nothing of the image itself has been read yet."""

    image_id: str
    """Unique and stable: the path below the root, or `archive.tar::member`."""
    path: str
    """File below the root that holds the image's bytes."""
    offset: int | None
    """Start of the image's bytes in an uncompressed tar; None: the whole file."""
    length: int
    """Encoded bytes."""
    label: int
    kind: str
    group: str
    official_split: str | None = None
    mask_path: str | None = None
    """Where the mask must be; the manifest checks that it is."""
    empty_mask: bool = False
    """Whether that mask must be empty (a normal image); the manifest then names no mask."""
    boxes: tuple[Box, ...] = ()
    annotated_size: tuple[int, int] | None = None
    """Width and height of the image according to its annotation."""
    fault: str | None = None
    """What is wrong with the annotation."""


class Member(NamedTuple):
    """A file in an uncompressed tar."""

    name: str
    offset: int
    length: int


class CompleteTarInfo(tarfile.TarInfo):
    """For `tarfile.open(tarinfo=...)`: an archive that ends without its end marker is cut off, and refused.

    `tarfile` itself takes the end of the file for the end of the archive, so that a copy which broke off between two
    members would pass for a smaller data set.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf:
            raise tarfile.ReadError("it ends without an end marker")
        return super().frombuf(buf, encoding, errors)


def files_in(root: Path, folder: str) -> Iterator[tuple[str, int]]:
    """Path below `root` and size of every file in `root/folder`, recursively, in sorted order.

    Hidden files and operating-system clutter are left out. Folders behind symbolic links are not entered (a warning
    says so); files behind links are yielded, and refused by `vigil.images.source` if they lead out of `root`.

    Raises:
        DataError: A file's name is not valid Unicode.
    """
    here = Path(root) / folder
    names, folders, linked_folders = [], set(), set()
    try:
        with os.scandir(here) as found:
            # Names alone are kept: a million entries with what they know of their files would take a gigabyte.
            for entry in found:
                if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
                    continue
                names.append(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif entry.is_symlink() and entry.is_dir():
                    linked_folders.add(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    names.sort()
    for name in names:
        path = f"{folder}/{name}" if folder else name
        if name in folders:
            yield from files_in(root, path)
        elif name in linked_folders:
            _log.warning("%s: a symbolic link to a folder, not followed; put the folder itself there", path)
        else:
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{path!r}: the file name is not valid UTF-8; rename it") from error
            try:
                size = (here / name).stat().st_size
            except FileNotFoundError:  # a link to nothing; reading it gives the fault
                size = 0
            yield path, size


def folders_in(root: Path, folder: str) -> list[str]:
    """Names of the folders directly in `root/folder`, sorted, without hidden ones and links."""
    try:
        with os.scandir(Path(root) / folder) as found:
            return sorted(e.name for e in found if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def members_of(archive: Path) -> list[Member]:
    """The files in an uncompressed tar, sorted by name.

    Raises:
        DataError: The archive is missing, damaged or compressed, or holds links or other special members.
    """
    members: list[Member] = []
    try:
        with tarfile.open(archive, "r:", tarinfo=CompleteTarInfo) as tar:
            for info in tar:
                if info.isdir():
                    continue
                if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise DataError(f"{archive}::{info.name}: not a plain file; import the data set again")
                info.name.encode()  # raises where it is no UTF-8, which no table can hold
                members.append(Member(info.name, info.offset_data, info.size))
    except FileNotFoundError as error:
        raise DataError(f"{archive}: archive not found; import the data set again") from error
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{archive}: not a readable uncompressed tar ({error}); import the data set again") from error
    return sorted(members)


def held_label(data: HeldClassData, class_name: str) -> tuple[int, str]:
    """Label and kind of an image of `class_name`, under the section's protocol."""
    anomalous = (class_name == data.held_class) == (data.protocol == "one_class_anomalous")
    return (ANOMALOUS, class_name) if anomalous else (NORMAL, NORMAL_KIND)


def check_held_class(data: HeldClassData, classes: set[str]) -> None:
    """Raises DataError if the held class is not one of the classes that were found."""
    if data.held_class not in classes:
        raise DataError(
            f"data.held_class: '{data.held_class}' has no image in {data.root}; "
            f"the classes there are {', '.join(sorted(classes)) or '(none)'}"
        )


def check_found(count: int, root: str, expected: str) -> None:
    """Raises DataError if a data set holds no image at all."""
    if count == 0:
        raise DataError(f"{root}: no images found; expected {expected}")
