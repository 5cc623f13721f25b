"""validate: hold the manifest against the data contract."""

from __future__ import annotations

from pathlib import Path

from vigil.config import DataSection, ValidateSection
from vigil.records import MANIFEST
from vigil.stages import layout


def run(data: DataSection, validate: ValidateSection) -> None:
    """Writes the accepted rows and the validation report; a broken contract stops the pipeline.

    Then the accepted rows and the report of the run before stay as they are.
    """
    from vigil.images.drift import read_reference
    from vigil.images.validation import accepted_parts, scan_file

    reference = read_reference(layout.REFERENCE, data)
    with MANIFEST.open(layout.MANIFEST) as file:
        rows, images, root = scan_file(file), file.metadata.num_rows, Path(data.root)
        parts = accepted_parts(rows, images, validate, root, layout.VALIDATION_REPORT, reference)
        MANIFEST.write_parts(layout.ACCEPTED, parts)
