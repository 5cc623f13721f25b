"""scikit-learn's handwritten digits, as written by `vigil.images.raw`: `digits.tar` of `<class>/<index>.png`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vigil.config import DigitsData
from vigil.images.readers.rows import ImageRow, check_found, check_held_class, held_label, members_of

ARCHIVE = "digits.tar"


def read(data: DigitsData) -> Iterator[ImageRow]:
    """One row per digit; every digit is a group of its own, and there is no official split."""
    members = members_of(Path(data.root) / ARCHIVE)
    check_found(len(members), data.root, f"{ARCHIVE} with <class>/<index>.png")
    check_held_class(data, {member.name.split("/")[0] for member in members})
    for name, offset, length in members:
        label, kind = held_label(data, name.split("/")[0])
        image_id = f"{ARCHIVE}::{name}"
        yield ImageRow(image_id, ARCHIVE, offset, length, label, kind, group=image_id)
