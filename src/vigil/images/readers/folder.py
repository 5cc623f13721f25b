"""The user's own images: `normal/`, optional `anomalous/<kind>/`, optional `masks/<kind>/` with equal stems.

Or files anywhere below the root that a listing names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vigil.config import FolderData
from vigil.errors import DataError
from vigil.images.readers.listing import read_listing
from vigil.images.readers.rows import ImageRow, check_found, files_in, folders_in
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND


def read(data: FolderData) -> Iterator[ImageRow]:
    """One row per file below `normal/` and `anomalous/<kind>/`, recursively; every image is a group of its own.

    Every file counts as an image, so that one which is none is found and named. Where `masks/<kind>/` exists, each
    image of that kind must have its mask there, `<stem>.png` below the same subfolders.

    With `data.listing`, one row per line of that file instead, sorted by path (see `listing`).
    """
    root = Path(data.root)
    if data.listing is not None:
        yield from _listed(root, data.listing)
        return
    normal = 0
    for path, size in files_in(root, "normal"):
        normal += 1
        yield ImageRow(path, path, None, size, NORMAL, NORMAL_KIND, path)
    check_found(normal, f"{root}/normal", "at least one image of what is normal")

    masked_kinds = set(folders_in(root, "masks"))
    for path, size in files_in(root, "anomalous"):
        _, kind, *rest = path.split("/")
        if not rest or kind == NORMAL_KIND:
            raise DataError(f"{root}/{path}: expected anomalous/<kind>/<file>, <kind> being any name but 'normal'")
        mask = str(PurePosixPath("masks", kind, *rest).with_suffix(".png")) if kind in masked_kinds else None
        yield ImageRow(path, path, None, size, ANOMALOUS, kind, path, mask_path=mask)


def _listed(root: Path, listing: str) -> Iterator[ImageRow]:
    path = PurePosixPath(listing)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"data.listing: '{listing}' leads out of {root}; expected a file below data.root")
    rows = sorted(read_listing(root, root / path), key=lambda row: row.image_id)
    check_found(sum(row.label == NORMAL for row in rows), f"{root}/{listing}", "at least one row with the label normal")
    yield from rows
