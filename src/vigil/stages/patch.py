"""patch: preprocess once, cut the grid, write shards; then hold the index against its contract."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

from vigil.config import DataSection, PatchSection
from vigil.files import write_json
from vigil.stages import layout

_log = logging.getLogger(__name__)


def run(data: DataSection, patch: PatchSection) -> None:
    """Cuts the patches of every split; shards whose inputs did not change are kept.

    How many images were processed and how many reused is logged and written to `.vigil/metrics/patch.json`.
    """
    from pathlib import Path

    from vigil.images.extraction import extract_split
    from vigil.images.validation import validate_patch_index

    did: dict[str, Any] = {}
    for split, folder in layout.PATCHES.items():
        start = time.monotonic()
        counts = extract_split(split, layout.ACCEPTED, layout.SPLITS, Path(data.root), patch, folder)
        did[split] = asdict(counts) | {"seconds": round(time.monotonic() - start, 3)}
        _log.info(
            "%s: %d images processed, %d reused; %d buckets written, %d kept",
            split,
            counts.images_processed,
            counts.images_reused,
            counts.buckets_written,
            counts.buckets_kept,
        )
    write_json(layout.PATCH_COUNTS, did | {"executor": patch.executor})
    validate_patch_index(layout.PATCHES, patch, layout.PATCH_VALIDATION_REPORT, layout.SPLITS)
