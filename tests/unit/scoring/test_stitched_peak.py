"""Peaks of squares of what overlapping patches point at, averaged: against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.config import PatchSection
from vigil.images.patches import grid_positions
from vigil.scoring.stitched_peak import square_px, stitched_peaks

SIDE = 2  # of the squares, in patches of 32 px


def plain(log_odds: np.ndarray, positions: np.ndarray) -> list[float]:
    """The same, pixel by pixel."""
    size = log_odds.shape[-1]

    def weight(k: int) -> float:
        return min(k + 0.5, size - k - 0.5)

    averaged: dict[tuple[int, int], float] = {}
    sums: dict[tuple[int, int], tuple[float, float]] = {}
    for values, (top, left) in zip(log_odds.tolist(), positions.tolist(), strict=True):
        for i in range(size):
            for k in range(size):
                total, weights = sums.get((top + i, left + k), (0.0, 0.0))
                w = weight(i) * weight(k)
                sums[top + i, left + k] = (total + w * values[i][k], weights + w)
    averaged = {place: total / weights for place, (total, weights) in sums.items()}
    square = [(i, k) for i in range(SIDE) for k in range(SIDE)]
    starts = range(size - SIDE + 1)
    peaks = []
    for top, left in positions.tolist():
        means = (sum(averaged[top + i + a, left + k + b] for a, b in square) / SIDE**2 for i in starts for k in starts)
        peaks.append(1 / (1 + math.exp(-max(means))))
    return peaks


def test_squares_are_10_px_of_128_and_grow_with_the_patch() -> None:
    assert [square_px(size) for size in (4, 32, 64, 128, 256)] == [1, SIDE, 5, 10, 20]


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(32, 70),
    width=st.integers(32, 70),
    stride=st.sampled_from([16, 24, 32]),
    seed=st.integers(0, 2**16),
)
def test_peaks_are_those_of_plain_loops(height: int, width: int, stride: int, seed: int) -> None:
    patch = PatchSection(channels=1, patch_size_px=32, stride_px=stride, edge="reflect")
    positions = grid_positions(height, width, patch)
    log_odds = np.random.default_rng(seed).normal(-2, 3, (len(positions), 32, 32)).astype(np.float32)
    np.testing.assert_allclose(stitched_peaks(log_odds, positions), plain(log_odds, positions), rtol=1e-6)


def test_a_square_is_surer_than_as_many_pixels_in_a_row() -> None:
    together, in_a_row = np.full((2, 1, 32, 32), -6.0, np.float32)
    together[0, 10:12, 10:12] = 6.0
    in_a_row[0, 10, 10:14] = 6.0
    here = np.array([[0, 0]])
    assert stitched_peaks(together, here)[0] == pytest.approx(1 / (1 + math.exp(-6)))
    assert stitched_peaks(in_a_row, here)[0] == pytest.approx(0.5)  # half of its surest square is sure


def test_squares_at_the_borders_and_in_the_corners_count() -> None:
    for y, x in ((0, 0), (0, 30), (30, 0), (30, 30), (15, 30)):
        log_odds = np.full((1, 32, 32), -6.0, np.float32)
        log_odds[0, y : y + 2, x : x + 2] = 6.0
        assert stitched_peaks(log_odds, np.array([[0, 0]]))[0] == pytest.approx(1 / (1 + math.exp(-6)))


def test_what_one_patch_points_at_on_its_border_is_outvoted_and_in_its_middle_is_not() -> None:
    positions = np.array([[0, 0], [0, 16]])
    on_the_border, in_the_middle = np.full((2, 2, 32, 32), -6.0, np.float32)
    on_the_border[0, 10:20, 29:] = 6.0  # where the second patch sees nothing, 3 px beside its middle
    in_the_middle[0, 10:20, 14:18] = 6.0  # the second patch begins here
    assert stitched_peaks(on_the_border, positions).max() < 0.1
    assert stitched_peaks(in_the_middle, positions)[0] > 0.9


def test_positions_that_leave_a_gap_are_refused() -> None:
    with pytest.raises(ValueError, match="do not cover the grid"):
        stitched_peaks(np.zeros((2, 32, 32), np.float32), np.array([[0, 0], [0, 64]]))
