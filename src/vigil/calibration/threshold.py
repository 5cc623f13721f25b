"""The decision `score > threshold`, thresholds with a promise, and the exact intervals behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vigil.config import Section
from vigil.errors import CalibrationError
from vigil.scoring.reduction import finite

Scores = NDArray[np.float64]


def is_anomalous(scores: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """True where `score > threshold`. This is the only place where a score meets a threshold; everyone calls it.

    Raises:
        ScoreNotFinite: A score is NaN or infinite: such an image is neither normal nor anomalous.
        CalibrationError: The threshold is NaN or infinite.
    """
    if not math.isfinite(threshold):
        raise CalibrationError(f"the threshold is {threshold}, not a finite number; run the calibrate stage again")
    decision: NDArray[np.bool_] = finite(np.asarray(scores, np.float64), "score") > threshold
    return decision


def strictly_below(score: float) -> float:
    """The largest threshold that an image with this score still exceeds: turns a fit with `>=` into one with `>`."""
    return float(np.nextafter(score, -np.inf))


class Rate(Section):
    """A share of images, `count` of `of`, with its two-sided Clopper-Pearson interval."""

    value: float
    low: float
    high: float
    count: int
    of: int

    @staticmethod
    def of_decisions(flagged: NDArray[np.bool_], confidence: float) -> Rate:
        """The share of True among `flagged`, which must not be empty."""
        count, of = int(flagged.sum()), int(flagged.size)
        low, high = clopper_pearson(count, of, confidence)
        return Rate(value=count / of, low=low, high=high, count=count, of=of)


def clopper_pearson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """The exact two-sided interval of a binomial probability, each side at (1 - confidence) / 2.

    Raises:
        ValueError: There are no trials, or more successes than trials.
    """
    side = (1 + confidence) / 2
    return lower_bound(successes, trials, side), 1.0 - lower_bound(trials - successes, trials, side)


def lower_bound(successes: int, trials: int, confidence: float) -> float:
    """The exact one-sided lower bound of a binomial probability (Clopper-Pearson).

    Raises:
        ValueError: There are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials have no Clopper-Pearson bound")
    return 0.0 if successes == 0 else float(_beta_quantile(1 - confidence, np.array([successes]), trials)[0])


def _beta_quantile(probability: float, successes: NDArray[np.int64], trials: int) -> NDArray[np.float64]:
    # scikit-learn, a core dependency, depends on scipy, so this import works wherever the core is installed.
    from scipy.stats import beta

    quantiles: NDArray[np.float64] = beta.ppf(probability, successes, trials - successes + 1)
    return quantiles


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold and what it promises."""

    value: float
    promise_kept: bool
    images_needed: int
    """The smallest number of calibration images (anomalous for recall, normal for FPR) that can carry the promise;
    where images come in groups, of groups of anomalous images."""


def lowest_of_groups(scores: ArrayLike, groups: NDArray[np.str_]) -> Scores:
    """The lowest score of each group, [G] in the order of their names: a threshold below it finds the whole group.

    Args:
        scores: [N].
        groups: [N], the group of each.

    Raises:
        ScoreNotFinite: A score is NaN or infinite.
    """
    values = finite(np.asarray(scores, np.float64), "score")
    names, place = np.unique(groups, return_inverse=True)
    lowest = np.full(len(names), np.inf)
    np.minimum.at(lowest, place, values)
    return lowest


def recall_threshold(anomalous_scores: ArrayLike, target_recall: float, confidence: float) -> Threshold:
    """The largest threshold that promises `target_recall` with `confidence`.

    The promise: over repeated draws of the calibration anomalies, the recall on further anomalies of the same kind
    is at least the target in at least this share of the draws. The threshold lies just below the k-th highest
    anomalous score, with the smallest k whose one-sided exact binomial lower bound reaches the target. k depends on
    the number of images alone, so choosing the threshold on the same images does not weaken the bound.

    It holds for scores that were drawn one by one. Images that were drawn in groups (pictures of one object) resemble
    each other and tell less than as many single ones: give it `lowest_of_groups`, and the promise is that further
    groups are found as a whole, which bounds the mean of the groups' recalls, too.

    With fewer than log(1 - confidence) / log(target) anomalies (59 for 0.95 and 0.95) no threshold can promise it.
    Then the empirical threshold is given, just below the score that target_recall of the anomalies reach, with
    `promise_kept` False. The promise is the default where it can be kept, because a user who asks for a recall means
    future images; a threshold whose recall is met on the calibration images alone misses it in half of all cases.

    Raises:
        CalibrationError: There is no score.
        ScoreNotFinite: A score is NaN or infinite.
    """
    scores = _sorted(anomalous_scores, "anomalous")
    n = len(scores)
    counts = np.arange(1, n + 1)
    enough = np.flatnonzero(_beta_quantile(1 - confidence, counts, n) >= target_recall)
    k = int(counts[enough[0]]) if len(enough) else math.ceil(n * Fraction(str(target_recall)))
    needed = math.ceil(math.log(1 - confidence) / math.log(target_recall))
    return Threshold(strictly_below(scores[n - k]), bool(len(enough)), needed)


def conformal_threshold(normal_scores: ArrayLike, target_fpr: float) -> Threshold:
    """The ceil((n + 1)(1 - target_fpr))-th smallest normal score: a threshold with a finite-sample promise.

    The promise: a further normal image, exchangeable with the n calibration images, is flagged with probability at
    most `target_fpr`, on average over draws of the calibration images, whatever the scores' distribution. One given
    draw may lie above; the Clopper-Pearson interval of its FPR says how far.

    With n < 1 / target_fpr - 1 normals (19 for 0.05) no observed score can promise it. Then the highest normal score
    is the threshold, with `promise_kept` False; its expected FPR is 1 / (n + 1).

    Raises:
        CalibrationError: There is no score.
        ScoreNotFinite: A score is NaN or infinite.
    """
    scores = _sorted(normal_scores, "normal")
    target = Fraction(str(target_fpr))  # exact decimal arithmetic: 20 * (1 - 0.05) must not round up to rank 20
    rank = math.ceil((len(scores) + 1) * (1 - target))
    return Threshold(float(scores[min(rank, len(scores)) - 1]), rank <= len(scores), math.ceil(1 / target - 1))


def _sorted(scores: ArrayLike, label: str) -> Scores:
    array = np.sort(finite(np.asarray(scores, np.float64).ravel(), f"{label} score"))
    if len(array) == 0:
        raise CalibrationError(
            f"the calibration split holds no {label} image, so no threshold can be fitted; raise split.calibration_"
            f"{'anomaly_' if label == 'anomalous' else ''}fraction"
        )
    return array
