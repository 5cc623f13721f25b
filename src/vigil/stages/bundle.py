"""bundle: one folder that can screen images on its own."""

from __future__ import annotations

from pathlib import Path

from vigil.config import CalibrateSection, DataSection, PatchSection, ValidateSection
from vigil.files import digest_file, read_json
from vigil.records import MANIFEST, PATCH_SCORES, SPLIT_TABLE
from vigil.stages import layout


def run(data: DataSection, validate: ValidateSection, patch: PatchSection, calibrate: CalibrateSection) -> None:
    """Gathers weights, preprocessing, calibration, the look of its images and the figures into `models/bundle`."""
    from vigil.calibration.calibration import read_calibration
    from vigil.calibration.map_level import fit_map_level
    from vigil.delivery.bundle import AuditSummary, EvaluationSummary, write_bundle
    from vigil.images.split_appearance import appearance_of
    from vigil.networks.pair import load_pair

    evaluation = read_json(layout.EVALUATION)
    _, record = load_pair(layout.PAIR)
    manifest = MANIFEST.read(layout.ACCEPTED, ["image_id", "path", "offset", "bytes", "width", "height"])
    splits = SPLIT_TABLE.read(layout.SPLITS, ["image_id", "split", "label"])
    write_bundle(
        layout.BUNDLE,
        pair=layout.PAIR,
        calibration=read_calibration(layout.CALIBRATION),
        patch=patch,
        accept=validate,
        appearance=appearance_of(manifest, splits, "calibration", Path(data.root), patch),
        data_set=data.name,
        kinds=list(evaluation["per_kind"]),
        data_digest=record["data"]["train"],
        test_digest=evaluation["test_digest"],
        map_level=fit_map_level(PATCH_SCORES.read(layout.SCORES["calibration"]), calibrate.target_fpr),
        evaluation=EvaluationSummary.of(evaluation),
        audit=AuditSummary.of(read_json(layout.AUDIT), digest_file(layout.AUDIT)),
    )
