"""CIFAR-10 as imported: one uncompressed tar per split, with `<class>/<file>` members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vigil.config import Cifar10Data
from vigil.errors import DataError
from vigil.images.readers.rows import ImageRow, Member, check_found, check_held_class, held_label, members_of

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVES = {"train.tar": "train", "test.tar": "test", "images.tar": None}
"""Archive of each official split; `images.tar` where the source names no split."""
OFFICIAL_COUNTS = {"train": 5_000, "test": 1_000}
"""Images per class of a complete split."""


def archives_in(root: Path) -> Iterator[tuple[str, str | None, list[Member]]]:
    """Archive name, official split and members of every archive that is there.

    Raises:
        DataError: An archive is damaged, or a member lies in no class folder of CIFAR-10.
    """
    for archive, split in ARCHIVES.items():
        if not (root / archive).is_file():
            continue
        members = members_of(root / archive)
        for member in members:
            if member.name.count("/") != 1 or member.name.split("/")[0] not in CLASSES:
                raise DataError(
                    f"{root / archive}::{member.name}: expected <class>/<file> with one of the classes "
                    f"{', '.join(CLASSES)}; import the data set again"
                )
        yield archive, split, members


def class_counts(root: Path) -> dict[str | None, Counter[str]]:
    """Images per class, for every split that is there."""
    return {split: Counter(m.name.split("/")[0] for m in members) for _, split, members in archives_in(root)}


def read(data: Cifar10Data) -> Iterator[ImageRow]:
    """One row per image; every image is a group of its own."""
    found = list(archives_in(Path(data.root)))
    check_found(sum(len(members) for _, _, members in found), data.root, " or ".join(ARCHIVES))
    check_held_class(data, {member.name.split("/")[0] for _, _, members in found for member in members})
    for archive, split, members in sorted(found, key=lambda item: item[0]):
        for name, offset, length in members:
            label, kind = held_label(data, name.split("/")[0])
            image_id = f"{archive}::{name}"
            yield ImageRow(image_id, archive, offset, length, label, kind, group=image_id, official_split=split)
