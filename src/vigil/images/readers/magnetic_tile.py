"""Magnetic tile defects in their own layout: `MT_<kind>/Imgs/<name>.jpg`, each with its mask `<name>.png` beside it.

`MT_Free` is normal, and its masks are empty. There is no official split. Names are `exp<setting>_num<frame>`: one tile
was taken at up to six exposure settings, one after the other, and frames were counted through the whole recording. So
pictures of one tile have nearby frame numbers, and `tiles` finds them by their names alone.

Masks are grey with soft borders, and any grey but 0 counts as the defect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

from vigil.config import MagneticTileData
from vigil.errors import DataError
from vigil.images.readers.rows import ImageRow, check_found, files_in, folders_in
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND

PREFIX, IMAGES = "MT_", "Imgs"
NORMAL_FOLDER = "MT_Free"
NEAR_FRAMES = 150
"""Frames between two pictures up to which they are held to be of one tile, whatever their setting."""
SAME_SERIES_FRAMES = 2000
"""The same where the second has the setting that follows the first one's: a series that was interrupted."""
_NAME = re.compile(r"exp(\d)_num_(\d+)")


def read(data: MagneticTileData) -> Iterator[ImageRow]:
    """One row per `.jpg`, kinds in lower case without `MT_`; pictures of one tile are one group.

    Every row names the mask that must be there; that of a normal image must be empty.

    Raises:
        DataError: There is no image, no `MT_Free`, or a file's name or place is not one of the layout.
    """
    root = Path(data.root)
    found = [
        (path, size)
        for folder in folders_in(root, "")
        if folder.startswith(PREFIX)
        for path, size in files_in(root, f"{folder}/{IMAGES}")
        if not _is_mask(root, path)
    ]
    check_found(
        sum(path.startswith(f"{NORMAL_FOLDER}/") for path, _ in found), f"{root}/{NORMAL_FOLDER}/{IMAGES}", "*.jpg"
    )
    group_of = tiles(path for path, _ in found)
    for path, size in found:
        mask = str(PurePosixPath(path).with_suffix(".png"))
        folder = path.split("/", 1)[0]
        normal = folder == NORMAL_FOLDER
        yield ImageRow(
            path,
            path,
            None,
            size,
            label=NORMAL if normal else ANOMALOUS,
            kind=NORMAL_KIND if normal else folder.removeprefix(PREFIX).lower(),
            group=group_of[path],
            mask_path=mask,
            empty_mask=normal,
        )


def tiles(paths: Iterable[str]) -> dict[str, str]:
    """For each image the first image of its group, in the order of the frames.

    Two neighbours in that order are of one group if at most `NEAR_FRAMES` lie between them, or at most
    `SAME_SERIES_FRAMES` and the second has the next setting. This errs towards joining two tiles that were taken
    one right after the other.

    Raises:
        DataError: A name is not `exp<setting>_num_<frame>`.
    """
    frames = sorted((*_frame(path), path) for path in paths)
    groups = {path: path for *_, path in frames[:1]}
    for (frame, setting, path), (next_frame, next_setting, next_path) in pairwise(frames):
        gap = next_frame - frame
        joined = gap <= NEAR_FRAMES or (gap <= SAME_SERIES_FRAMES and next_setting == setting + 1)
        groups[next_path] = groups[path] if joined else next_path
    return groups


def _frame(path: str) -> tuple[int, int]:
    """Number of the frame, and setting."""
    match = _NAME.fullmatch(PurePosixPath(path).stem)
    if match is None:
        raise DataError(
            f"{path}: expected a name like exp1_num_12345.jpg, from which the pictures of one tile are told"
        )
    return int(match[2]), int(match[1])


def _is_mask(root: Path, path: str) -> bool:
    """Whether a file is a mask; raises DataError for one that is neither mask nor image."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in (".jpg", ".png") or path.count("/") != 2:
        raise DataError(f"{root}/{path}: expected {PREFIX}<kind>/{IMAGES}/<name>.jpg with its mask <name>.png")
    return suffix == ".png"
