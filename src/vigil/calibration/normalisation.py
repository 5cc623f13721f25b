"""Eq. (6): the score of a patch; Eq. (7): its scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vigil.errors import CalibrationError
from vigil.scoring.reduction import finite

Scores = NDArray[np.float64]


def weighted_score(contextual: ArrayLike, latent: ArrayLike, eta: float) -> Scores:
    """A(x) = eta A_G(x) + (1 - eta) A_D(x), float64; Eq. (6), arXiv 2211.13808.

    Raises:
        ScoreNotFinite: A component is NaN or infinite, even one that eta leaves out.
    """
    a_g = finite(np.asarray(contextual, np.float64), "contextual component")
    a_d = finite(np.asarray(latent, np.float64), "latent component")
    return eta * a_g + (1 - eta) * a_d


def fit_scale(scores: ArrayLike) -> tuple[float, float]:
    """The minimum and the maximum of the scores, between which Eq. (7) scales.

    Raises:
        CalibrationError: All scores are equal, so that they say nothing and Eq. (7) would divide by zero.
        ScoreNotFinite: A score is NaN or infinite.
    """
    array = finite(np.asarray(scores, np.float64), "score")
    if array.size == 0 or array.min() == array.max():
        found = "there is none" if array.size == 0 else f"all {array.size} are {array.flat[0]}"
        raise CalibrationError(
            f"the scale of Eq. (7) needs two different calibration scores, but {found}; give more images to "
            f"calibration, and check that training moved the pair"
        )
    return float(array.min()), float(array.max())


def apply_scale(scores: ArrayLike, low: float, high: float) -> Scores:
    """v' = (v - min) / (max - min), float64; Eq. (7), arXiv 2211.13808.

    differs from the paper: min and max come from the calibration images, where the paper takes the test set's own
    extremes, which no single image has when it is screened. Scores beyond them therefore leave [0, 1]; they are not
    clipped, which would make the worst images equal.
    """
    return (np.asarray(scores, np.float64) - low) / (high - low)
