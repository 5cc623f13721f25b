"""manifest: one row per raw image."""

from __future__ import annotations

from vigil.config import DataSection
from vigil.records import MANIFEST
from vigil.stages import layout


def run(data: DataSection) -> None:
    """Reads, hashes and labels every raw image; writes the manifest part by part."""
    from vigil.images.manifest import manifest_parts

    MANIFEST.write_parts(layout.MANIFEST, manifest_parts(data, layout.WORK / "manifest"))
