"""How the images of a split look: read, preprocessed and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from vigil.config import PatchSection
from vigil.images.appearance import Appearance, look_of
from vigil.images.sampling import scaled_images, spread
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
    chosen = spread(rows, _MOST_IMAGES).to_pylist()
    images = track(scaled_images(chosen, root, patch), "appearance", len(chosen), "images")
    return Appearance.of([look_of(pixels) for _, pixels in images])
