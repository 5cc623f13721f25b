import numpy as np
import pytest

from vigil.evaluation.intervals import bootstrap, percentile_interval
from vigil.seeding import numpy_generator


def test_groups_are_drawn_whole_and_as_often_as_there_are_groups() -> None:
    groups = ["a", "b", "b", "c", "c", "c"]
    draws = bootstrap(lambda weights: weights, groups, samples=200, seed=0)
    assert draws.shape == (200, 6)
    assert (draws[:, 1] == draws[:, 2]).all()
    assert (draws[:, 3] == draws[:, 4]).all()
    assert (draws[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert abs(draws[:, 0].mean() - 1) < 0.25


def test_draws_are_a_function_of_seed_and_number() -> None:
    few, many = (bootstrap(lambda w: w, range(9), samples, seed=1) for samples in (5, 8))
    assert np.array_equal(few, many[:5])
    assert not np.array_equal(few, bootstrap(lambda w: w, range(9), 5, seed=2))


def test_interval_of_a_mean_has_the_textbook_width_and_grows_with_the_groups() -> None:
    values = numpy_generator(0, "interval test").normal(size=400)
    mean = lambda w: np.array([w @ values / w.sum()])  # noqa: E731
    low, high = percentile_interval(bootstrap(mean, range(400), 1000, seed=0)[:, 0], 0.95)
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    # 400 images of 20 bags, all of a bag alike: as uncertain as 20 images.
    bags = np.repeat(np.arange(20), 20)
    alike = values[bags]
    grouped = bootstrap(lambda w: np.array([w @ alike / w.sum()]), bags, 1000, seed=0)[:, 0]
    assert grouped.std() == pytest.approx(values[:20].std() / np.sqrt(20), rel=0.15)


def test_undefined_draws_are_left_out_until_they_are_most() -> None:
    assert percentile_interval(np.array([1.0, 1.0, np.nan]), 0.9) == (1.0, 1.0)
    assert percentile_interval(np.array([1.0, np.nan, np.nan]), 0.9) == (None, None)
    assert percentile_interval(np.full(4, np.nan), 0.9) == (None, None)
