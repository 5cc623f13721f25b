"""Measures of ranking, of decisions, and of anomaly maps.

Legend: M images, S distinct scores. Counts are per distinct score in increasing order; they may be weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vigil.calibration.ranking import auroc, auroc_of_counts
from vigil.errors import ScoreNotFinite
from vigil.records import ANOMALOUS
from vigil.scoring.reduction import finite

__all__ = ["MapMetrics", "RankedLabels", "auroc", "average_precision", "f1", "recall_at_fpr"]

Counts = NDArray[np.float64]


class RankedLabels:
    """Labels in the order of their scores: sorted once, measured under many weights (the bootstrap's draws)."""

    def __init__(self, labels: ArrayLike, scores: ArrayLike) -> None:
        """
        Args:
            labels: [M], 0 = normal, 1 = anomalous.
            scores: [M], higher = more anomalous.

        Raises:
            ScoreNotFinite: A score is NaN or infinite.
        """
        values = finite(np.asarray(scores, np.float64), "score")
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        self._starts = np.flatnonzero(np.append(True, ordered[1:] > ordered[:-1]))  # of each distinct score
        self._anomalous = (np.asarray(labels) == ANOMALOUS)[self._order].astype(np.float64)

    def counts(self, weights: Counts) -> tuple[Counts, Counts]:
        """The weight of normal and of anomalous images at each distinct score, [S] each."""
        ordered = weights[self._order]
        anomalous = np.add.reduceat(ordered * self._anomalous, self._starts)
        return np.add.reduceat(ordered, self._starts) - anomalous, anomalous

    def auroc(self, weights: Counts) -> float:
        """See `auroc`; NaN where a label has no weight."""
        normal, anomalous = self.counts(weights)
        return auroc_of_counts(normal, anomalous) if normal.any() and anomalous.any() else np.nan

    def average_precision(self, weights: Counts) -> float:
        """See `average_precision`; NaN where no anomalous image has weight."""
        normal, anomalous = (c[::-1] for c in self.counts(weights))
        if not anomalous.any():
            return np.nan
        hits, flagged = np.cumsum(anomalous), np.cumsum(normal + anomalous)
        gained = anomalous > 0
        return float(np.sum((anomalous * hits)[gained] / flagged[gained]) / hits[-1])


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Sum over distinct scores, from the highest, of precision times gain in recall (no interpolation).

    Raises:
        ValueError: No image is anomalous.
        ScoreNotFinite: A score is NaN or infinite.
    """
    value = RankedLabels(labels, scores).average_precision(np.ones(len(np.asarray(labels))))
    if np.isnan(value):
        raise ValueError("average precision needs at least one anomalous image")
    return value


def f1(labels: ArrayLike, flagged: ArrayLike, weights: Counts | None = None) -> float:
    """2 TP / (2 TP + FP + FN); NaN where no image is anomalous or flagged."""
    anomalous, positive = np.asarray(labels) == ANOMALOUS, np.asarray(flagged)
    weight = np.ones(len(anomalous)) if weights is None else weights
    whole = weight @ anomalous + weight @ positive
    return float(2 * (weight @ (anomalous & positive)) / whole) if whole else np.nan


def recall_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """The highest recall on the ROC curve whose FPR is at most `fpr`: a reading of the curve, not of a threshold.

    Raises:
        ValueError: One of the two labels is missing.
        ScoreNotFinite: A score is NaN or infinite.
    """
    normal, anomalous = (c[::-1] for c in RankedLabels(labels, scores).counts(np.ones(len(np.asarray(labels)))))
    if not normal.any() or not anomalous.any():
        raise ValueError("the ROC curve needs both labels")
    allowed = np.cumsum(normal) <= fpr * normal.sum() + 1e-9
    return float(anomalous[allowed].sum() / anomalous.sum())


_HALF_INFINITY = 0x7C00  # the non-negative finite half-precision numbers, in order, are the integers below


@dataclass(slots=True)
class MapMetrics:
    """Pixel measures over any number of images, in constant memory.

    Maps are rounded to half precision (relative error at most 2^-11), which has fewer than 2^15 distinct non-negative
    values; everything is exact from there.
    """

    _normal: Counts
    _anomalous: Counts
    _overlap: Counts
    _regions: int = 0
    _hits: int = 0
    _images_with_region: int = 0

    @classmethod
    def empty(cls) -> MapMetrics:
        """Before the first image."""
        return cls(np.zeros(_HALF_INFINITY), np.zeros(_HALF_INFINITY), np.zeros(_HALF_INFINITY))

    def add(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Counts an image: its map [H, W], not negative, and the mask of its anomaly [H, W], empty if it is normal.

        Raises:
            ScoreNotFinite: The map holds a value that is negative, NaN or beyond half precision.
        """
        with np.errstate(over="ignore"):  # becomes infinite, which is refused below
            half = anomaly_map.astype(np.float16)
        if not np.isfinite(half).all() or half.min() < 0:
            raise ScoreNotFinite("an anomaly map holds a value that is negative, NaN or above 65504; score again")
        place = np.abs(half).view(np.uint16)
        self._normal += _counts(place[~mask], _HALF_INFINITY)
        inside = place[mask]
        if inside.size == 0:
            return
        self._anomalous += _counts(inside, _HALF_INFINITY)
        region, areas = _regions(mask)
        self._overlap += _counts(inside, _HALF_INFINITY, 1 / areas[region])
        self._regions += len(areas)
        self._images_with_region += 1
        self._hits += bool(mask.flat[int(np.argmax(anomaly_map))])

    @property
    def hits(self) -> tuple[int, int]:
        """Images whose map peaks (first maximum, in reading order) inside a region, of all images with a region."""
        return self._hits, self._images_with_region

    def pixel_auroc(self) -> float:
        """AUROC over all pixels of all images; NaN where pixels of a label are missing."""
        if not self._normal.any() or not self._anomalous.any():
            return np.nan
        return auroc_of_counts(self._normal, self._anomalous)

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Area under the mean per-region overlap over the pixel FPR, up to `fpr_limit` and divided by it.

        A region is an 8-connected component of a mask; every region counts alike, whatever its size. The curve starts
        at (0, 0) and is joined by straight lines. NaN where there is no region or no normal pixel.
        """
        if not self._regions or not self._normal.any():
            return np.nan
        fpr = np.concatenate([[0.0], np.cumsum(self._normal[::-1]) / self._normal.sum()])
        overlap = np.concatenate([[0.0], np.cumsum(self._overlap[::-1]) / self._regions])
        inside = fpr <= fpr_limit
        x = np.append(fpr[inside], fpr_limit)
        y = np.append(overlap[inside], np.interp(fpr_limit, fpr, overlap))
        return float(np.trapezoid(y, x) / fpr_limit)


def _counts(place: NDArray[Any], distinct: int, weights: Counts | None = None) -> Counts:
    return np.bincount(place, weights, distinct).astype(np.float64)


def _regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The region of each pixel inside the mask, in reading order, and the area of each region."""
    # scikit-learn, a core dependency, depends on scipy, so this import works wherever the core is installed.
    from scipy.ndimage import label

    numbers, _ = label(mask, structure=np.ones((3, 3)))
    region = numbers[mask] - 1
    return region, np.bincount(region)
