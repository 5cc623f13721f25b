"""How well scores rank anomalous above normal."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vigil.records import ANOMALOUS
from vigil.scoring.reduction import finite

Counts = NDArray[np.float64]


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The probability that an anomalous image scores higher than a normal one, ties counting half.

    Raises:
        ValueError: One of the two labels is missing.
        ScoreNotFinite: A score is NaN or infinite.
    """
    anomalous = np.asarray(labels) == ANOMALOUS
    if anomalous.all() or not anomalous.any():
        raise ValueError(f"AUROC needs both labels, got {anomalous.sum()} anomalous of {anomalous.size}")
    values, place = np.unique(finite(np.asarray(scores, np.float64), "score"), return_inverse=True)
    of_normal, of_anomalous = (np.bincount(place[which], minlength=len(values)) for which in (~anomalous, anomalous))
    return auroc_of_counts(of_normal.astype(np.float64), of_anomalous.astype(np.float64))


def auroc_of_counts(normal: Counts, anomalous: Counts) -> float:
    """AUROC from how many normal and anomalous items hold each distinct score, in increasing order of score, [S]."""
    normal_below = np.cumsum(normal) - normal
    return float(np.sum(anomalous * (normal_below + normal / 2)) / (normal.sum() * anomalous.sum()))
