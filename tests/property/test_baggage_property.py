"""Properties of simulated bags of any size, seed and content."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.images.baggage import KINDS, simulate_bag
from vigil.images.baggage.shapes import extent
from vigil.images.baggage.threats import draw_threat


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**62),
    index=st.integers(0, 10**7),
    threat=st.sampled_from([None, *KINDS]),
    width=st.integers(64, 300),
    height=st.integers(64, 300),
)
def test_any_bag_is_a_whole_scan(seed: int, index: int, threat: str | None, width: int, height: int) -> None:
    scan = simulate_bag(seed, index, threat, width, height)
    assert scan.image.shape == (height, width, 3)
    assert scan.image.dtype == np.uint8
    assert scan.image.std() > 10  # a bag on a white belt
    assert np.median(scan.image.max(axis=2)) > 90
    assert [box.kind for box in scan.boxes] == ([] if threat is None else [threat])
    for box in scan.boxes:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32))
def test_any_threat_has_the_size_of_one(kind: str, seed: int) -> None:
    x0, y0, x1, y1 = extent(draw_threat(kind, np.random.default_rng(seed)))
    assert 9 < max(x1 - x0, y1 - y0) < 31
