"""Laws of the measures: of ranking, and of anomaly maps."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.calibration.ranking import auroc
from vigil.evaluation.metrics import MapMetrics, RankedLabels, average_precision, recall_at_fpr

PAIRS = st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({anomalous for _, anomalous in pairs}) == 2
)


def split(pairs: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([int(a) for _, a in pairs]), np.array([s for s, _ in pairs], np.float64)


@given(PAIRS)
def test_ranking_measures_are_invariant_under_monotone_maps_and_order(pairs: list[tuple[int, bool]]) -> None:
    labels, scores = split(pairs)
    ap, recall = average_precision(labels, scores), recall_at_fpr(labels, scores, 0.2)
    assert 0 < ap <= 1
    assert 0 <= recall <= 1
    bent = np.exp(scores / 20) - 3
    assert average_precision(labels, bent) == ap
    assert recall_at_fpr(labels, bent, 0.2) == recall
    assert auroc(labels[::-1], scores[::-1]) == auroc(labels, scores)


@given(PAIRS, st.data())
def test_a_weight_is_as_good_as_that_many_copies(pairs: list[tuple[int, bool]], data: st.DataObject) -> None:
    labels, scores = split(pairs)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs))))
    copies = np.repeat(np.arange(len(pairs)), weights)
    ranked = RankedLabels(labels, scores)
    if len(set(labels[copies].tolist())) < 2:
        assert np.isnan(ranked.auroc(weights.astype(float)))
        return
    np.testing.assert_allclose(ranked.auroc(weights.astype(float)), auroc(labels[copies], scores[copies]), atol=1e-12)
    expected = average_precision(labels[copies], scores[copies])
    np.testing.assert_allclose(ranked.average_precision(weights.astype(float)), expected, atol=1e-12)


MAPS = st.integers(0, 2**32 - 1)


def some_image(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = random.random((9, 11)) > 0.7
    mask[0, 0], mask[8, 10] = True, False
    return random.integers(0, 30, (9, 11)).astype(np.float32), mask


@given(MAPS)
@settings(max_examples=50, deadline=None)
def test_map_measures_are_bounded_and_invariant_under_turning_and_monotone_maps(seed: int) -> None:
    anomaly_map, mask = some_image(seed)
    values = []
    for one, other in ((anomaly_map, mask), (anomaly_map[::-1].T, mask[::-1].T), (anomaly_map**2 / 16, mask)):
        metrics = MapMetrics.empty()
        metrics.add(np.ascontiguousarray(one), np.ascontiguousarray(other))
        values.append([metrics.pixel_auroc(), metrics.aupro(), metrics.aupro(1.0)])
    assert all(0 <= v <= 1 for v in values[0])
    np.testing.assert_allclose(values[1], values[0], atol=1e-12)
    np.testing.assert_allclose(values[2], values[0], atol=1e-12)


@given(MAPS)
@settings(max_examples=50, deadline=None)
def test_aupro_equals_a_naive_sweep_over_thresholds(seed: int) -> None:
    anomaly_map, mask = some_image(seed)
    regions = naive_regions(mask)
    curve = [(0.0, 0.0)]
    for threshold in np.unique(anomaly_map)[::-1]:
        above = anomaly_map >= threshold
        fpr = float((above & ~mask).sum() / (~mask).sum())
        overlap = float(np.mean([np.mean([above[p] for p in region]) for region in regions]))
        curve.append((fpr, overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < 0.3 < x1:
            x1, y1 = 0.3, y0 + (y1 - y0) * (0.3 - x0) / (x1 - x0)
        if x1 <= 0.3:
            area += (x1 - x0) * (y0 + y1) / 2
    metrics = MapMetrics.empty()
    metrics.add(anomaly_map, mask)
    np.testing.assert_allclose(metrics.aupro(0.3), area / 0.3, atol=1e-9)


def naive_regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The 8-connected regions of a mask, by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        todo, region = [left.pop()], []
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            todo.extend(around)
        regions.append(region)
    return regions
