"""manifest: one row per raw image."""

from __future__ import annotations

from vigil.config import DataSection
from vigil.records import MANIFEST
from vigil.stages import layout


def run(data: DataSection) -> None:
    """Reads, hashes and labels every raw image; writes the manifest."""
    from vigil.images.manifest import build_manifest

    MANIFEST.write(layout.MANIFEST, build_manifest(data))
