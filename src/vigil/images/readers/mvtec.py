"""MVTec AD's own layout: `<category>/{train/good, test/<kind>, ground_truth/<kind>/<stem>_mask.png}`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vigil.config import MvtecData
from vigil.errors import DataError
from vigil.images.readers.rows import ImageRow, check_found, files_in, folders_in
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND

_GOOD = "good"


def read(data: MvtecData) -> Iterator[ImageRow]:
    """One row per image of the category, with its official split; each defective image names its mask."""
    root, category = Path(data.root), data.category
    if category not in folders_in(root, ""):
        raise DataError(
            f"data.category: {root / category} not found; the categories there are "
            f"{', '.join(folders_in(root, '')) or '(none)'}. Bring it in with "
            f"`vigil data import mvtec --from PATH --class {category}`"
        )
    if unexpected := [kind for kind in folders_in(root, f"{category}/train") if kind != _GOOD]:
        raise DataError(f"{root / category}/train: holds {unexpected}, but MVTec AD trains on '{_GOOD}' alone")
    return category_rows(root, category)


def category_rows(root: Path, category: str) -> Iterator[ImageRow]:
    """The rows of the folder `root/category`, whatever its name."""
    count = 0
    for split in ("test", "train"):
        for kind in folders_in(root, f"{category}/{split}"):
            for path, size in files_in(root, f"{category}/{split}/{kind}"):
                count += 1
                defect = kind != _GOOD
                mask = f"{category}/ground_truth/{kind}/{PurePosixPath(path).stem}_mask.png" if defect else None
                label, name = (ANOMALOUS, kind) if defect else (NORMAL, NORMAL_KIND)
                yield ImageRow(path, path, None, size, label, name, path, official_split=split, mask_path=mask)
    check_found(count, str(root / category), "train/good/*.png and test/<kind>/*.png")
