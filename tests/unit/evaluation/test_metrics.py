import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from vigil.errors import ScoreNotFinite
from vigil.evaluation.metrics import MapMetrics, RankedLabels, average_precision, f1, recall_at_fpr
from vigil.seeding import numpy_generator


def test_average_precision_by_hand() -> None:
    assert average_precision([1, 1, 0, 0], [4, 3, 2, 1]) == 1.0
    assert average_precision([1, 0, 1, 0], [4, 3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([0, 1], [1, 1]) == 0.5
    with pytest.raises(ValueError, match="at least one anomalous"):
        average_precision([0, 0], [1, 2])


@pytest.mark.parametrize("distinct", [5, 10_000])
def test_ranking_measures_equal_scikit_learn_with_weights(distinct: int) -> None:
    random = numpy_generator(0, "metrics test", distinct)
    labels, scores = random.integers(0, 2, 300), random.integers(0, distinct, 300).astype(float)
    ranked = RankedLabels(labels, scores)
    for weights in (np.ones(300), random.integers(0, 4, 300).astype(float)):
        assert ranked.auroc(weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
        expected = average_precision_score(labels, scores, sample_weight=weights)
        assert ranked.average_precision(weights) == pytest.approx(expected, abs=1e-12)
        flagged = scores > distinct / 3
        assert f1(labels, flagged, weights) == pytest.approx(f1_score(labels, flagged, sample_weight=weights))


def test_measures_of_a_draw_that_lacks_a_label_are_undefined() -> None:
    ranked = RankedLabels([0, 0, 1], [1.0, 2.0, 3.0])
    assert math.isnan(ranked.auroc(np.array([1.0, 1.0, 0.0])))
    assert math.isnan(ranked.auroc(np.array([0.0, 0.0, 1.0])))
    assert math.isnan(ranked.average_precision(np.array([1.0, 1.0, 0.0])))
    assert math.isnan(f1([0, 0], np.array([False, False])))


def test_recall_at_fpr_reads_the_roc_curve() -> None:
    labels, scores = [0, 0, 0, 0, 1, 1], [1, 2, 3, 5, 4, 6]
    assert recall_at_fpr(labels, scores, 0.0) == 0.5
    assert recall_at_fpr(labels, scores, 0.24) == 0.5
    assert recall_at_fpr(labels, scores, 0.25) == 1.0
    assert recall_at_fpr([0, 1], [2, 2], 0.5) == 0.0  # a tie cannot be split
    with pytest.raises(ValueError, match="both labels"):
        recall_at_fpr([1, 1], [1, 2], 0.1)


def drawn(text: str) -> np.ndarray:
    """A mask drawn by hand: `#` is anomalous."""
    return np.array([[character == "#" for character in line] for line in text.split()])


TWO_REGIONS = drawn(
    """
    ##........
    ##........
    ..........
    ..........
    ......#...
    ..........
    """
)  # areas 4 and 1; 55 normal pixels


def measured(*images: tuple[np.ndarray, np.ndarray]) -> MapMetrics:
    metrics = MapMetrics.empty()
    for anomaly_map, mask in images:
        metrics.add(anomaly_map.astype(np.float32), mask)
    return metrics


def test_a_perfect_map_reaches_one_everywhere() -> None:
    metrics = measured((TWO_REGIONS * 0.75 + 0.125, TWO_REGIONS))
    assert (metrics.pixel_auroc(), metrics.aupro(), metrics.hits) == (1.0, 1.0, (1, 1))


def test_a_map_that_finds_the_large_region_alone_counts_half_of_the_regions() -> None:
    found = TWO_REGIONS.copy()
    found[4, 6] = False
    metrics = measured((found * 1.0, TWO_REGIONS))
    # The curve jumps to (0, 1/2), then all other pixels share one score: a straight line to (1, 1).
    # Area up to 0.3: (1/2 + (1/2 + 0.3 / 2)) / 2 * 0.3, divided by 0.3.
    assert metrics.aupro() == pytest.approx((0.5 + 0.65) / 2)
    # Of five anomalous pixels four are above all normal ones and one is tied with them.
    assert metrics.pixel_auroc() == pytest.approx((4 + 0.5) / 5)


def test_a_map_that_says_nothing_reaches_the_diagonal_and_a_wrong_one_nothing() -> None:
    flat, wrong = measured((np.full((6, 10), 0.5), TWO_REGIONS)), measured((~TWO_REGIONS * 1.0, TWO_REGIONS))
    assert flat.pixel_auroc() == 0.5
    assert flat.aupro() == pytest.approx(0.15)
    assert wrong.pixel_auroc() == wrong.aupro() == 0.0
    assert wrong.hits == (0, 1)


def test_aupro_limit_is_interpolated_between_two_thresholds() -> None:
    mask = drawn("#.........")
    # From the highest score: 3 normal pixels, then the anomaly, then the rest: a jump at FPR 3/9 behind the limit 0.3,
    # and in front of the limit 0.5.
    ramp = np.array([[6.0, 9, 8, 7, 5, 4, 3, 2, 1, 0]])
    metrics = measured((ramp, mask))
    assert metrics.aupro(0.3) == 0.0
    assert metrics.aupro(0.5) == pytest.approx((0.5 - 3 / 9) / 0.5)
    # One step from (0, 0) to (3/9, 1), shared by three normal pixels and the anomaly, cut at 0.3.
    shared = np.array([[9.0, 9, 9, 9, 5, 4, 3, 2, 1, 0]])
    assert measured((shared, mask)).aupro(0.3) == pytest.approx(0.9 / 2)


def test_diagonal_neighbours_are_one_region() -> None:
    mask = drawn(
        """
        #...
        .#..
        ...#
        """
    )
    half_found = np.zeros((3, 4))
    half_found[0, 0] = 1.0
    # Regions of areas 2 and 1; half of the first is found: mean overlap 1/4, then the straight line to (1, 1).
    assert measured((half_found, mask)).aupro() == pytest.approx((0.25 + (0.25 + 0.75 * 0.3)) / 2)


def test_normal_images_count_their_pixels_and_the_hit_rate_counts_images_with_a_region() -> None:
    normal = np.full((6, 10), 2.0)
    metrics = measured((TWO_REGIONS * 1.0, TWO_REGIONS), (normal, np.zeros((6, 10), bool)))
    assert metrics.hits == (1, 1)
    assert metrics.pixel_auroc() == pytest.approx(55 / 115)
    only_normal = measured((normal, np.zeros((6, 10), bool)))
    assert math.isnan(only_normal.pixel_auroc())
    assert math.isnan(only_normal.aupro())
    assert only_normal.hits == (0, 0)


def test_pixel_auroc_of_many_images_equals_scikit_learn() -> None:
    random = numpy_generator(1, "metrics test")
    images = [(random.random((20, 30)).astype(np.float16), random.random((20, 30)) > 0.8) for _ in range(4)]
    pixels = np.concatenate([m.ravel() for m, _ in images]).astype(np.float64)
    masks = np.concatenate([mask.ravel() for _, mask in images])
    assert measured(*images).pixel_auroc() == pytest.approx(roc_auc_score(masks, pixels), abs=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1e6])
def test_a_map_that_is_no_score_is_refused(value: float) -> None:
    anomaly_map = np.zeros((6, 10), np.float32)
    anomaly_map[2, 2] = value
    with pytest.raises(ScoreNotFinite, match="anomaly map"):
        MapMetrics.empty().add(anomaly_map, TWO_REGIONS)
