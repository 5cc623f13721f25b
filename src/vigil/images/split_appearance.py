"""How the images of a split look: read, preprocessed and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vigil.config import PatchSection
from vigil.images.appearance import Appearance, look_of
from vigil.images.preprocessing import scaled_pixels
from vigil.images.source import RawFolder
from vigil.progress import track
from vigil.records import NORMAL

_MOST_IMAGES: Final = 500
"""More would hardly move a bound."""


def appearance_of(manifest: pa.Table, splits: pa.Table, split: str, root: Path, patch: PatchSection) -> Appearance:
    """How the normal images of a split look; of more than 500, that many at equal distances in the manifest's order.

    Args:
        manifest: records.MANIFEST with at least the images of the split.
        splits: records.SPLIT_TABLE.
        split: "train", "calibration" or "test".
        root: Folder of the raw data set.
        patch: The preprocessing.

    Raises:
        DataError: A raw file is missing, changed or does not decode.
    """
    wanted = splits.filter((pc.field("split") == split) & (pc.field("label") == NORMAL))["image_id"]
    rows = manifest.filter(pc.is_in(manifest["image_id"], wanted.combine_chunks()))
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, min(rows.num_rows, _MOST_IMAGES)).round().astype(np.int64))
    raw, looks = RawFolder(root), []
    for row in track(rows.take(pa.array(chosen)).to_pylist(), "appearance", len(chosen), "images"):
        content = raw.read(row["path"], row["offset"], row["bytes"])
        looks.append(look_of(scaled_pixels(content, row["path"], patch, (row["height"], row["width"]))))
    return Appearance.of(looks)
