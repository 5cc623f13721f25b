"""The choice of the best candidate, on calibration patches alone; test data has no way in.

Legend: N patches, M images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from vigil.errors import DataError, TrainingDiverged
from vigil.records import ANOMALOUS, NORMAL

Criterion = Literal[
    "calibration_image_auroc",
    "calibration_pseudo_anomaly_auroc",
    "calibration_mean_self_supervised_loss",
    "calibration_mean_published_score",
    "calibration_mean_contextual_loss",
]


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """What one candidate makes of the calibration patches, [N] each, in one order for all candidates."""

    name: str
    patch_scores: npt.NDArray[np.float64]
    """The score that the pair is made for: Eq. (6), arXiv 2211.13808, the peak of the map where it points, the
    self-supervised loss where it has such a trunk, or a baseline's published score."""
    contextual: npt.NDArray[np.float64] | None
    """A_G of Eq. (6); None where the system reconstructs nothing."""
    stamped_scores: npt.NDArray[np.float64] | None = None
    """The score of the same patches with pseudo-anomalies stamped in; None where the pair does not point."""
    self_supervision: npt.NDArray[np.float64] | None = None
    """The self-supervised loss; None where the pair has no such trunk."""
    published: npt.NDArray[np.float64] | None = None
    """A baseline's own score; None of the paper's pair."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which candidate was chosen, by what, and what all of them reached."""

    chosen: str
    criterion: Criterion
    higher_is_better: bool
    values: dict[str, float]
    """Of each candidate, in the order given; the first of equals is chosen."""
    images: int
    anomalous_images: int
    reason: str

    def to_record(self) -> dict[str, Any]:
        """JSON values for reports/train.json."""
        return asdict(self)


def rank_candidates(
    candidates: Sequence[CandidateScores], image_ids: npt.ArrayLike, image_labels: npt.ArrayLike
) -> Selection:
    """The best candidate on calibration data.

    Where calibration holds anomalous images: the highest AUROC over images, an image's score being the largest of its
    patches. Where it holds none and every candidate points: the highest AUROC of patches with pseudo-anomalies against
    the same patches without. Else, where every candidate has a self-supervised trunk: the lowest mean of its loss.
    Else, where the candidates are of a baseline: the lowest mean of its own score. Else: the lowest mean of A_G over
    the patches, for lack of anything better; it favours candidates that copy well, which is not the same as candidates
    that detect well.

    Args:
        candidates: Scores of the calibration patches.
        image_ids: [N], the image of each patch.
        image_labels: [N], the label of that image.

    Raises:
        DataError: There are no candidates, no normal images, or arrays of different lengths.
        TrainingDiverged: A candidate's scores are not all finite.
    """
    labels = np.asarray(image_labels)
    images, first, patch_image = np.unique(np.asarray(image_ids), return_index=True, return_inverse=True)
    of_image = labels[first] if len(labels) == len(patch_image) else labels[:0]
    _check(candidates, len(patch_image), of_image)
    anomalous = int((of_image == ANOMALOUS).sum())

    criterion: Criterion
    stamped = {c.name: c.stamped_scores for c in candidates if c.stamped_scores is not None}
    turns = {c.name: c.self_supervision for c in candidates if c.self_supervision is not None}
    published = {c.name: c.published for c in candidates if c.published is not None}
    if anomalous:
        criterion = "calibration_image_auroc"
        reason = f"calibration holds {anomalous} anomalous images, so the AUROC over its images decides"
        values = {c.name: _image_auroc(c.patch_scores, patch_image, of_image) for c in candidates}
    elif len(stamped) == len(candidates):
        criterion = "calibration_pseudo_anomaly_auroc"
        reason = "calibration holds normal images only, so the AUROC of its patches with pseudo-anomalies decides"
        values = {c.name: _two_sample_auroc(c.patch_scores, stamped[c.name]) for c in candidates}
    elif len(turns) == len(candidates):
        criterion = "calibration_mean_self_supervised_loss"
        reason = "calibration holds normal images only, so the lowest mean self-supervised loss on them decides"
        values = {name: float(losses.mean()) for name, losses in turns.items()}
    elif len(published) == len(candidates):
        criterion = "calibration_mean_published_score"
        reason = "calibration holds normal images only, so the lowest mean of the system's own score on them decides"
        values = {name: float(scores.mean()) for name, scores in published.items()}
    else:
        criterion = "calibration_mean_contextual_loss"
        reason = "calibration holds normal images only, so the lowest mean contextual loss on them decides"
        values = {c.name: float(c.contextual.mean()) for c in candidates if c.contextual is not None}
    higher = criterion.endswith("auroc")
    chosen = (max if higher else min)(values, key=values.__getitem__)
    return Selection(chosen, criterion, higher, values, len(images), anomalous, reason)


def _two_sample_auroc(normal: npt.NDArray[np.float64], anomalous: npt.NDArray[np.float64]) -> float:
    labels = np.repeat([NORMAL, ANOMALOUS], [len(normal), len(anomalous)])
    return float(roc_auc_score(labels, np.concatenate([normal, anomalous])))


def _image_auroc(
    patch_scores: npt.NDArray[np.float64], patch_image: npt.NDArray[np.intp], of_image: npt.NDArray[Any]
) -> float:
    image_scores = np.full(len(of_image), -np.inf)  # M
    np.maximum.at(image_scores, patch_image, patch_scores)
    return float(roc_auc_score(of_image, image_scores))


def _check(candidates: Sequence[CandidateScores], patches: int, of_image: npt.NDArray[Any]) -> None:
    lengths = {c.name: tuple(len(values) for values in _of(c)) for c in candidates}
    if not candidates or not patches or any(set(found) != {patches} for found in lengths.values()):
        raise DataError(
            f"selection: expected at least one candidate and {patches} (> 0) scores of each kind from every one, found "
            f"{lengths or 'no candidate'}; score the calibration patches anew"
        )
    if not (of_image == NORMAL).any():
        raise DataError(
            "selection: expected one label per patch and normal images among them, found none; give calibration some "
            "normal images (split.calibration_fraction)"
        )
    for c in candidates:
        if not all(np.isfinite(values).all() for values in _of(c)):
            raise TrainingDiverged(f"candidate '{c.name}': its calibration scores are not all finite; train it anew")


def _of(candidate: CandidateScores) -> list[npt.NDArray[np.float64]]:
    optional = (candidate.contextual, candidate.stamped_scores, candidate.self_supervision, candidate.published)
    return [candidate.patch_scores, *(values for values in optional if values is not None)]
