"""validate: hold the manifest against the data contract."""

from __future__ import annotations

from pathlib import Path

from vigil.config import DataSection, ValidateSection
from vigil.records import MANIFEST
from vigil.stages import layout


def run(data: DataSection, validate: ValidateSection) -> None:
    """Writes the accepted rows and the validation report; a broken contract stops the pipeline."""
    from vigil.images.validation import validate_manifest

    manifest = MANIFEST.read(layout.MANIFEST)
    accepted = validate_manifest(manifest, validate, Path(data.root), layout.VALIDATION_REPORT)
    MANIFEST.write(layout.ACCEPTED, accepted)
