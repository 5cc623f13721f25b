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
    """One row per image of the categories, with its official split; each defective image names its mask.

    A kind is named `<category>/<kind>` unless `data.category` is one name, since several categories have kinds of the
    same name (`scratch`, `crack`); what is normal is `normal` in all of them.

    Raises:
        DataError: A category is not there, or trains on something else than `good`.
    """
    root = Path(data.root)
    present = categories_in(root)
    if data.category == "all":
        chosen, several = present, True
        check_found(len(present), data.root, "<category>/train/good/*.png")
    elif isinstance(data.category, str):
        chosen, several = [data.category], False
    else:
        chosen, several = sorted(data.category), True
    for category in chosen:
        if category not in present:
            raise DataError(
                f"data.category: {root / category}/train/{_GOOD} not found; the categories there are "
                f"{', '.join(present) or '(none)'}. Bring it in with `vigil data import mvtec --from PATH --class "
                f"{category}`"
            )
    for category in chosen:
        yield from category_rows(root, category, f"{category}/" if several else "")


def categories_in(root: Path) -> list[str]:
    """Names of the folders in `root` that hold `train/good`, sorted."""
    return [name for name in folders_in(root, "") if (root / name / "train" / _GOOD).is_dir()]


def category_rows(root: Path, category: str, kind_prefix: str = "") -> Iterator[ImageRow]:
    """The rows of the folder `root/category`, whatever its name; kinds of defects get the prefix.

    Raises:
        DataError: It holds no image, or trains on something else than `good`.
    """
    if unexpected := [kind for kind in folders_in(root, f"{category}/train") if kind != _GOOD]:
        raise DataError(f"{root / category}/train: holds {unexpected}, but MVTec AD trains on '{_GOOD}' alone")
    count = 0
    for split in ("test", "train"):
        for kind in folders_in(root, f"{category}/{split}"):
            for path, size in files_in(root, f"{category}/{split}/{kind}"):
                count += 1
                defect = kind != _GOOD
                mask = f"{category}/ground_truth/{kind}/{PurePosixPath(path).stem}_mask.png" if defect else None
                label, name = (ANOMALOUS, kind_prefix + kind) if defect else (NORMAL, NORMAL_KIND)
                yield ImageRow(path, path, None, size, label, name, path, official_split=split, mask_path=mask)
    check_found(count, str(root / category), "train/good/*.png and test/<kind>/*.png")
