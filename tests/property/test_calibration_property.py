"""Laws of the thresholds and scales, over scores of any kind, ties and extremes included."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.calibration.normalisation import apply_scale, fit_scale
from vigil.calibration.ranking import auroc
from vigil.calibration.threshold import (
    clopper_pearson,
    conformal_threshold,
    is_anomalous,
    lower_bound,
    recall_threshold,
)

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)
TIED = st.sampled_from([0.0, 0.25, 0.5, 1.0])
SCORES = st.lists(FINITE | TIED, min_size=1, max_size=80)
RATE = st.sampled_from([0.01, 0.05, 0.1, 0.29, 0.5, 0.9])


@given(SCORES, RATE)
def test_conformal_threshold_keeps_the_calibration_fpr_within_the_target(scores: list[float], target: float) -> None:
    fitted = conformal_threshold(scores, target)
    assert is_anomalous(scores, fitted.value).mean() <= target
    assert fitted.promise_kept == (len(scores) >= fitted.images_needed)
    assert fitted.value in scores


@given(SCORES, RATE, st.sampled_from([0.8, 0.95]))
@settings(deadline=None)  # the first call imports scipy
def test_recall_threshold_reaches_the_target_on_calibration_and_its_bound_where_kept(
    scores: list[float], target: float, confidence: float
) -> None:
    fitted = recall_threshold(scores, target, confidence)
    above = int(is_anomalous(scores, fitted.value).sum())
    assert above / len(scores) >= target
    assert fitted.promise_kept == (len(scores) >= fitted.images_needed)
    if fitted.promise_kept:
        assert lower_bound(above, len(scores), confidence) >= target


@given(st.integers(1, 200), st.data())
@settings(deadline=None)  # the first call imports scipy
def test_clopper_pearson_holds_the_rate_and_mirrors(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(successes, trials, 0.95)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = clopper_pearson(trials - successes, trials, 0.95)
    np.testing.assert_allclose((1 - high, 1 - low), mirrored, atol=1e-12)


@given(st.lists(st.tuples(st.integers(-1000, 1000), st.booleans()), min_size=2, max_size=80))
def test_auroc_is_invariant_under_monotone_maps_and_turns_with_the_sign(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([s for s, _ in pairs], np.float64), np.array([int(a) for _, a in pairs])
    if labels.min() == labels.max():
        return
    value = auroc(labels, scores)
    assert 0 <= value <= 1
    assert auroc(labels, np.arctan(scores / 100)) == value
    assert auroc(labels, scores**3 + 7) == value
    np.testing.assert_allclose(auroc(labels, -scores), 1 - value, atol=1e-12)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=40, unique=True))
def test_scale_keeps_the_order_and_maps_the_extremes_to_zero_and_one(values: list[int]) -> None:
    scores = np.array(values, np.float64)
    scaled = apply_scale(scores, *fit_scale(scores))
    assert (scaled.min(), scaled.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(np.argsort(scaled), np.argsort(scores))
