"""audit: does a result depend on what it must not know? A leak stops no stage; it stops the promotion."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from vigil.config import AuditSection, CalibrateSection, DataSection, PatchSection, ScoreSection
from vigil.files import read_json, write_json
from vigil.records import KEPT, MANIFEST, PATCH_SCORES, SPLIT_TABLE
from vigil.stages import layout

if TYPE_CHECKING:
    from vigil.evaluation.leakage import AuditInputs

_log = logging.getLogger(__name__)


def run(
    data: DataSection, patch: PatchSection, score: ScoreSection, calibrate: CalibrateSection, audit: AuditSection
) -> None:
    """Audits the pair, its calibration and its evaluation; writes what was found."""
    from vigil.evaluation.audit_record import headline
    from vigil.evaluation.leakage import audit_leakage

    found = audit_leakage(project_inputs(data, patch, score, calibrate), audit)
    write_json(layout.AUDIT, found.as_json())
    _log.log(logging.WARNING if found.leaks or found.findings else logging.INFO, "%s", headline(found.as_json()))


def project_inputs(
    data: DataSection, patch: PatchSection, score: ScoreSection, calibrate: CalibrateSection
) -> AuditInputs:
    """What the last `dvc repro` made, to be audited.

    Raises:
        DataError, CheckpointError: An artefact is missing or damaged.
    """
    from vigil.calibration.calibration import read_calibration
    from vigil.evaluation.leakage import AuditInputs
    from vigil.images.shards import PatchShards
    from vigil.networks.pair import load_pair

    pair, record = load_pair(layout.PAIR)
    return AuditInputs(
        pair=pair,
        pair_record=record,
        calibration=read_calibration(layout.CALIBRATION),
        evaluation=read_json(layout.EVALUATION),
        training=read_json(layout.TRAIN_REPORT),
        manifest=MANIFEST.read(layout.ACCEPTED),
        splits=SPLIT_TABLE.read(layout.SPLITS),
        shards={split: PatchShards.open(folder) for split, folder in layout.PATCHES.items()},
        scores={split: PATCH_SCORES.read(path) for split, path in layout.SCORES.items()},
        root=Path(data.root),
        rehearsed=KEPT.read(layout.REHEARSAL["train"]),
        patch=patch,
        score=score,
        calibrate=calibrate,
    )
