"""Pseudo-anomalies on any patch: the mask marks every visible change, and no order or company matters."""

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from vigil.config import PseudoAnomalySection
from vigil.training.pseudo_anomalies import colour_table, pseudo_anomalies

PIXELS = npst.arrays(np.uint8, st.tuples(st.just(3), st.just(32), st.just(32), st.sampled_from([1, 3])))


@settings(max_examples=40, deadline=None)
@given(PIXELS, st.integers(0, 2**40), st.integers(0, 2**31), st.integers(1, 4), st.floats(0.01, 1))
def test_masks_and_independence_hold_for_any_patch(x, first, seed, stamps, smallest):
    values = PseudoAnomalySection(most_stamps=stamps, smallest=smallest, largest=1.0)
    numbers = first + np.arange(3)
    donors = np.ascontiguousarray(x[::-1])
    colours = colour_table(x)
    corrupted, masks = pseudo_anomalies(x, donors, values, colours, seed=seed, numbers=numbers)
    change = np.abs(corrupted.astype(int) - x).max(axis=3)
    assert (change[~masks] <= values.visible_difference * 255).all()
    assert (change[masks] > 0).all()
    for i in (2, 0):
        alone = pseudo_anomalies(
            x[i : i + 1], donors[i : i + 1], values, colours, seed=seed, numbers=numbers[i : i + 1]
        )
        assert np.array_equal(alone[0][0], corrupted[i])
        assert np.array_equal(alone[1][0], masks[i])
