"""bundle: one folder that can screen images on its own."""

from __future__ import annotations

from vigil.config import CalibrateSection, DataSection, PatchSection, ValidateSection
from vigil.files import digest_file, read_json
from vigil.records import PATCH_SCORES
from vigil.stages import layout


def run(data: DataSection, validate: ValidateSection, patch: PatchSection, calibrate: CalibrateSection) -> None:
    """Gathers weights, preprocessing, calibration and the figures into `models/bundle`."""
    from vigil.calibration.calibration import read_calibration
    from vigil.calibration.map_level import fit_map_level
    from vigil.delivery.bundle import AuditSummary, EvaluationSummary, write_bundle
    from vigil.networks.pair import load_pair

    evaluation = read_json(layout.EVALUATION)
    _, record = load_pair(layout.PAIR)
    write_bundle(
        layout.BUNDLE,
        pair=layout.PAIR,
        calibration=read_calibration(layout.CALIBRATION),
        patch=patch,
        accept=validate,
        data_set=data.name,
        kinds=list(evaluation["per_kind"]),
        data_digest=record["data"]["train"],
        test_digest=evaluation["test_digest"],
        map_level=fit_map_level(PATCH_SCORES.read(layout.SCORES["calibration"]), calibrate.target_fpr),
        evaluation=EvaluationSummary.of(evaluation),
        audit=AuditSummary.of(read_json(layout.AUDIT), digest_file(layout.AUDIT)),
    )
