"""patch: preprocess once, cut the grid, write memory-mapped shards; then hold the index against its contract."""

from __future__ import annotations

import logging

from vigil.config import DataSection, PatchSection
from vigil.records import MANIFEST, SPLIT_TABLE
from vigil.stages import layout

_log = logging.getLogger(__name__)


def run(data: DataSection, patch: PatchSection) -> None:
    """Cuts the patches of every split; shards whose inputs did not change are kept."""
    from pathlib import Path

    from vigil.images.shards import extract_split
    from vigil.images.validation import validate_patch_index

    manifest, splits = MANIFEST.read(layout.ACCEPTED), SPLIT_TABLE.read(layout.SPLITS)
    for split, folder in layout.PATCHES.items():
        counts = extract_split(split, manifest, splits, Path(data.root), patch, folder)
        _log.info("%s: %s", split, counts)
    validate_patch_index(layout.PATCHES, patch, layout.PATCH_VALIDATION_REPORT)
