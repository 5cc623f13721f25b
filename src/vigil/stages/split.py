"""split: which accepted image serves for training, calibration or test."""

from __future__ import annotations

from vigil.config import SplitSection
from vigil.records import MANIFEST, SPLIT_TABLE
from vigil.stages import layout


def run(split: SplitSection) -> None:
    """Splits the accepted images by group."""
    from vigil.images.splitting import COLUMNS, split_images

    SPLIT_TABLE.write(layout.SPLITS, split_images(MANIFEST.read(layout.ACCEPTED, COLUMNS), split))
