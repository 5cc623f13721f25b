"""The level above which an anomaly map shows a region."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from vigil.calibration.map_level import fit_map_level
from vigil.errors import CalibrationError
from vigil.records import PATCH_SCORES


def patches(peaks: list[float], images: list[str], labels: list[int]) -> pa.Table:
    """A patch score table with these peaks; everything else is a filler."""
    columns: dict[str, object] = {}
    for field in PATCH_SCORES.schema:
        text = pa.types.is_string(field.type)
        columns[field.name] = ["grid"] * len(peaks) if text else np.zeros(len(peaks), np.int64)
    columns |= {"map_peak": peaks, "image_id": images, "image_label": labels}
    return pa.table(columns).cast(PATCH_SCORES.schema)


def test_the_level_is_a_quantile_of_the_normal_images_highest_peaks() -> None:
    """19 normal images with peaks 1 .. 19, each with a lower patch beside; anomalous images are higher and left out."""
    peaks = [float(v) for i in range(1, 20) for v in (i, 0.5)] + [100.0, 200.0]
    images = [f"n{i}" for i in range(1, 20) for _ in range(2)] + ["a1", "a2"]
    labels = [0] * 38 + [1, 1]
    assert fit_map_level(patches(peaks, images, labels), 0.05) == 19.0
    assert fit_map_level(patches(peaks, images, labels), 0.5) == 10.0


def test_at_most_the_target_share_of_normal_images_exceeds_the_level() -> None:
    peaks = np.random.default_rng(0).uniform(size=200)
    level = fit_map_level(patches(peaks.tolist(), [f"i{i}" for i in range(200)], [0] * 200), 0.1)
    assert 0.08 <= float(np.mean(peaks > level)) <= 0.1


def test_without_a_normal_image_there_is_no_level() -> None:
    with pytest.raises(CalibrationError, match="no normal image"):
        fit_map_level(patches([1.0], ["a"], [1]), 0.05)
