"""calibrate: from components to a score, and from calibration scores to a threshold."""

from __future__ import annotations

from vigil.config import CalibrateSection
from vigil.files import write_json
from vigil.records import PATCH_SCORES
from vigil.stages import layout


def run(calibrate: CalibrateSection) -> None:
    """Fits score, scale and threshold on calibration data alone."""
    from vigil.calibration.calibration import fit_calibration

    calibration = fit_calibration(PATCH_SCORES.read(layout.SCORES["calibration"]), calibrate)
    write_json(layout.CALIBRATION, calibration.model_dump(mode="json"))
