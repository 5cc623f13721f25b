"""Which part of an anomaly map stands out: a level fitted on normal calibration images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vigil.calibration.threshold import conformal_threshold
from vigil.records import NORMAL
from vigil.scoring.reduction import images_of


def fit_map_level(patches: pa.Table, target_fpr: float) -> float:
    """The level that the map of a further normal image exceeds anywhere with probability at most `target_fpr`.

    It decides nothing: a verdict is made of the score alone. It says which regions of a map are shown, and where the
    colours of a heat map turn. See `conformal_threshold` for the promise and what becomes of it with few images.

    Args:
        patches: records.PATCH_SCORES of the calibration split; anomalous images are left out.
        target_fpr: Share of normal images that may show a region.

    Raises:
        CalibrationError: There is no normal image.
        DataError: An image carries two labels.
        ScoreNotFinite: A peak is NaN or infinite.
    """
    images = images_of(patches)
    peaks = np.full(len(images.ids), -np.inf)
    np.maximum.at(peaks, images.patch_image, images.components["map_peak"])
    return conformal_threshold(peaks[images.labels == NORMAL], target_fpr).value
