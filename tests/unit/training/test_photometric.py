"""Photometric changes: the same for a patch and its stamped copy, and what they depend on."""

import colorsys
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.training.photometric import _colours, _smoothed, shown_otherwise


def pairs(count=16, side=32, channels=3, seed=0):
    """Patches, and copies with a square of another colour each."""
    patches = np.random.default_rng(seed).integers(40, 220, (count, side, side, channels), np.uint8)
    stamped = patches.copy()
    stamped[:, 8:16, 8:16] = 130
    return patches, stamped


def shown(patches, stamped, share=1.0, seed=1, numbers=None, wide=False):
    numbers = np.arange(len(patches)) if numbers is None else numbers
    return tuple(shown_otherwise(images, share, wide=wide, seed=seed, numbers=numbers) for images in (patches, stamped))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_of_a_pair_change_alike_away_from_the_stamp(channels, wide):
    patches, stamped = pairs(channels=channels)
    one, other = shown(patches, stamped, wide=wide)
    assert (one.shape, one.dtype) == (patches.shape, np.uint8)
    away = np.ones((32, 32), bool)
    near = 2 if wide else 1
    away[8 - near : 16 + near, 8 - near : 16 + near] = False
    assert np.array_equal(one[:, away], other[:, away])
    assert (one != patches).mean() > 0.5
    assert (one[:, 9:15, 9:15] != other[:, 9:15, 9:15]).mean() > 0.9


def test_changes_stay_within_what_a_display_does():
    grey = np.full((200, 32, 32, 3), 128, np.uint8)
    one, other = shown(grey, grey)
    assert np.array_equal(one, other)
    means = one.mean(axis=(1, 2, 3)) / 255
    assert 0.25 < means.min() < 0.4 < 0.5 < means.max() < 0.66
    assert one.reshape(200, -1, 3).std(axis=1).max() / 255 < 0.04
    assert np.ptp(one.mean(axis=(1, 2)), axis=1).max() > 5, "the channels shift apart, too"


@pytest.mark.parametrize(("wide", "softest", "sharpest"), [(False, -0.05, 0.02), (True, -0.2, 0.04)])
def test_sharpness_changes_in_both_directions(wide, softest, sharpest):
    edge = np.full((100, 32, 32, 1), 90, np.uint8)
    edge[:, :, 16:] = 160
    one = shown(edge, edge, wide=wide)[0].astype(float).mean(axis=(1, 3))  # rows averaged: the grain is gone
    beyond = (one[:, 16] - one[:, 24:].mean(axis=1)) / (one[:, 24:].mean(axis=1) - one[:, :8].mean(axis=1))
    assert beyond.min() < softest
    assert beyond.max() > sharpest


def test_a_blur_has_the_variance_of_its_mixture():
    dot = np.zeros((17, 17, 1), np.float32)
    dot[8, 8] = 1
    places = np.arange(17) - 8
    for share in (0.25, 1.0):
        blurred = dot + np.float32(share) * (_smoothed(dot) - dot)
        assert blurred.sum() == pytest.approx(1)
        assert (blurred.sum(axis=(0, 2)) * places**2).sum() == pytest.approx(share)


def test_in_the_wide_range_hues_turn_and_saturation_changes_and_greys_stay():
    """A patch of one colour: where its hue and its saturation lie in 300 others."""
    plain = np.tile(np.array([150, 110, 70], np.uint8), (300, 16, 16, 1))
    one = shown(plain, plain, wide=True)[0].mean(axis=(1, 2)) / 255
    hue, saturation = np.array([colorsys.rgb_to_hsv(*pixel)[:2] for pixel in one]).T
    turned = (360 * hue - 30 + 180) % 360 - 180
    assert -40 < turned.min() < -12  # each channel is lifted on its own, too
    assert 12 < turned.max() < 40
    assert abs(np.median(turned)) < 3
    assert saturation.min() < 0.38 < 0.53 < 0.62 < saturation.max()
    matrix = _colours(np.random.default_rng(0))
    assert np.full(3, 77, np.float32) @ matrix == pytest.approx([77, 77, 77], abs=1e-4)


def test_colours_turn_by_the_angle_on_the_circle_around_grey():
    class Fixed:
        def __init__(self, *values):
            self.values = list(values)

        def uniform(self, _low, _high):
            return self.values.pop(0)

    colour = np.array([0.2, 0.5, 0.8], np.float32)  # hue 210
    turned = colour @ _colours(Fixed(math.radians(10), 1.0))
    assert 360 * colorsys.rgb_to_hsv(*turned)[0] == pytest.approx(220, abs=1)
    pale = colour @ _colours(Fixed(0.0, 0.5))
    assert pale == pytest.approx([0.35, 0.5, 0.65])


def test_none_of_the_patches_change_at_a_share_of_0_and_some_at_a_share_between():
    patches, stamped = pairs(count=100)
    assert np.array_equal(shown(patches, stamped, share=0.0)[1], stamped)
    changed = (shown(patches, stamped, share=0.4)[0] != patches).any(axis=(1, 2, 3))
    assert 0.25 < changed.mean() < 0.55


def test_the_patches_given_are_left_alone():
    patches, stamped = pairs()
    before = patches.copy(), stamped.copy()
    shown(patches, stamped)
    assert np.array_equal(patches, before[0])
    assert np.array_equal(stamped, before[1])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.floats(0, 1), st.booleans())
def test_a_result_depends_on_its_own_pair_seed_and_number_alone(some, seed, share, wide):
    patches, stamped = pairs()
    numbers = np.array(some)
    all_of_them = shown(patches, stamped, share, seed, wide=wide)
    again = shown(patches[numbers], stamped[numbers], share, seed, numbers, wide)
    assert np.array_equal(again[0], all_of_them[0][numbers])
    assert np.array_equal(again[1], all_of_them[1][numbers])
