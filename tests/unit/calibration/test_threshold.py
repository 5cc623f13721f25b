import math

import numpy as np
import pytest
from numpy.typing import NDArray

from vigil.calibration.threshold import (
    Rate,
    clopper_pearson,
    conformal_threshold,
    is_anomalous,
    lower_bound,
    lowest_of_groups,
    recall_threshold,
    strictly_below,
)
from vigil.errors import CalibrationError, ScoreNotFinite
from vigil.seeding import numpy_generator


def test_a_score_at_the_threshold_is_normal_and_one_above_is_anomalous() -> None:
    assert is_anomalous([0.4, 0.5, 0.6], 0.5).tolist() == [False, False, True]
    assert is_anomalous(0.5, strictly_below(0.5)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_never_normal(bad: float) -> None:
    with pytest.raises(ScoreNotFinite, match="score number 1"):
        is_anomalous([0.1, bad], 0.5)
    with pytest.raises(CalibrationError, match="threshold"):
        is_anomalous([0.1], bad)


def test_clopper_pearson_against_closed_forms() -> None:
    # 0 of n: upper end 1 - (alpha / 2)^(1 / n); n of n: lower end (alpha / 2)^(1 / n).
    assert clopper_pearson(0, 10, 0.95) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert clopper_pearson(10, 10, 0.95) == pytest.approx((0.025**0.1, 1.0))
    # 1 of 2: P(X >= 1) = 1 - (1 - p)^2 = 0.025 and P(X <= 1) = 1 - p^2 = 0.025.
    assert clopper_pearson(1, 2, 0.95) == pytest.approx((1 - math.sqrt(0.975), math.sqrt(0.975)))
    assert lower_bound(59, 59, 0.95) == pytest.approx(0.05 ** (1 / 59))
    assert lower_bound(0, 5, 0.95) == 0.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 4)])
def test_clopper_pearson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no Clopper-Pearson bound"):
        clopper_pearson(successes, trials, 0.95)


def test_rate_counts_what_was_flagged() -> None:
    rate = Rate.of_decisions(np.array([True, False, False, False]), 0.9)
    assert (rate.value, rate.count, rate.of) == (0.25, 1, 4)
    assert rate.low < 0.25 < rate.high


def test_anomalib_threshold_trap_is_designed_out() -> None:
    """Scores 20, 40 normal and 60, 80 anomalous: the anomalous score nearest to the threshold must not be missed."""
    fitted = recall_threshold([60.0, 80.0], target_recall=0.95, confidence=0.95)
    assert is_anomalous([20, 40, 60, 80], fitted.value).tolist() == [False, False, True, True]


def test_recall_promise_needs_59_anomalies_for_95_at_95() -> None:
    scores = np.arange(1.0, 60.0)
    kept, broken = recall_threshold(scores, 0.95, 0.95), recall_threshold(scores[1:], 0.95, 0.95)
    assert (kept.promise_kept, kept.images_needed) == (True, 59)
    assert kept.value == strictly_below(1.0)
    # 58 images: the empirical threshold, ceil(0.95 * 58) = 56 of 58 above it.
    assert (broken.promise_kept, broken.images_needed) == (False, 59)
    assert is_anomalous(scores[1:], broken.value).sum() == 56
    # 25 images, 0.28: exactly 7 of them, where binary floating point would ask for 8; no 25 carry this confidence.
    assert is_anomalous(scores[:25], recall_threshold(scores[:25], 0.28, 0.9999999999999999).value).sum() == 7


def test_recall_threshold_is_the_largest_that_keeps_the_promise() -> None:
    scores = numpy_generator(0, "threshold test").normal(size=200)
    fitted = recall_threshold(scores, 0.9, 0.95)
    above = int(is_anomalous(scores, fitted.value).sum())
    assert lower_bound(above, 200, 0.95) >= 0.9 > lower_bound(above - 1, 200, 0.95)
    assert is_anomalous(scores, np.nextafter(fitted.value, np.inf)).sum() == above - 1


def test_conformal_threshold_is_the_right_order_statistic() -> None:
    # n = 19, target 0.05: rank ceil(20 * 0.95) = 19; n = 39: rank 38. n = 24, target 0.44: rank 25 * 0.56 = 14, which
    # binary floating point rounds up to 15.
    assert conformal_threshold(np.arange(19.0), 0.05).value == 18.0
    assert conformal_threshold(np.arange(19.0), 0.05).promise_kept
    assert conformal_threshold(np.arange(39.0)[::-1], 0.05).value == 37.0
    assert conformal_threshold(np.arange(9.0), 0.1).promise_kept
    assert conformal_threshold(np.arange(24.0), 0.44).value == 13.0


def test_conformal_threshold_says_when_there_are_too_few_normals() -> None:
    fitted = conformal_threshold(np.arange(18.0), 0.05)
    assert (fitted.value, fitted.promise_kept, fitted.images_needed) == (17.0, False, 19)


@pytest.mark.parametrize("fit", [lambda s: recall_threshold(s, 0.9, 0.9), lambda s: conformal_threshold(s, 0.1)])
def test_thresholds_refuse_no_scores_and_scores_that_are_no_number(fit) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CalibrationError, match="so no threshold can be fitted"):
        fit([])
    with pytest.raises(ScoreNotFinite):
        fit([0.1, math.nan])


DRAWS = 1000


@pytest.mark.parametrize(("n", "target", "confidence"), [(59, 0.95, 0.95), (100, 0.9, 0.95), (300, 0.95, 0.9)])
def test_recall_promise_holds_in_1000_simulated_calibrations(n: int, target: float, confidence: float) -> None:
    draws = numpy_generator(1, "recall coverage", n).random((DRAWS, n))
    true_recall = np.array([1 - recall_threshold(scores, target, confidence).value for scores in draws])  # uniform
    coverage = float(np.mean(true_recall >= target))
    noise = 3 * math.sqrt(confidence * (1 - confidence) / DRAWS)
    assert coverage >= confidence - noise
    # The empirical threshold, which promises nothing, misses the target in about every second draw.
    empirical = np.mean(np.sort(draws, axis=1)[:, n - math.ceil(target * n)] <= 1 - target)
    assert empirical < 0.75 < coverage


@pytest.mark.parametrize(("n", "target"), [(19, 0.05), (60, 0.05), (205, 0.1)])
def test_conformal_false_positive_rate_holds_in_1000_simulated_calibrations(n: int, target: float) -> None:
    draws = numpy_generator(2, "conformal coverage", n).random((DRAWS, n))
    true_fpr = np.array([1 - conformal_threshold(scores, target).value for scores in draws])
    rank = math.ceil(round((n + 1) * (1 - target), 9))
    expected = (n + 1 - rank) / (n + 1)  # mean of Beta(n + 1 - rank, rank)
    noise = 3 * true_fpr.std() / math.sqrt(DRAWS)
    assert expected <= target + 1e-12
    assert abs(true_fpr.mean() - expected) <= noise


def test_a_groups_lowest_score_decides() -> None:
    lowest = lowest_of_groups([0.5, 0.9, 0.2, 0.8, 0.4], np.array(["b", "a", "b", "c", "b"]))
    assert lowest.tolist() == [0.9, 0.2, 0.8]
    with pytest.raises(ScoreNotFinite):
        lowest_of_groups([0.4, math.nan], np.array(["a", "b"]))


def test_recall_promise_holds_in_1000_simulated_calibrations_of_groups() -> None:
    """60 groups of 5 images that resemble each other: counting images breaks the promise, counting groups keeps it."""
    random, target, confidence, shape = numpy_generator(3, "grouped coverage"), 0.9, 0.95, (60, 5)
    names = np.repeat(np.arange(shape[0]).astype(np.str_), shape[1])

    def drawn(*size: int) -> NDArray[np.float64]:
        return random.normal(0, 1, (*size, 1)) + random.normal(0, 0.3, (*size, shape[1]))

    further = drawn(20_000)
    kept_by_groups, kept_by_images = [], []
    for scores in drawn(DRAWS, shape[0]):
        whole = recall_threshold(lowest_of_groups(scores.ravel(), names), target, confidence).value
        single = recall_threshold(scores.ravel(), target, confidence).value
        kept_by_groups.append((further.min(axis=1) > whole).mean() >= target)
        kept_by_images.append((further > single).mean() >= target)
    noise = 3 * math.sqrt(confidence * (1 - confidence) / DRAWS)
    assert np.mean(kept_by_groups) >= confidence - noise
    assert np.mean(kept_by_images) < confidence - noise
