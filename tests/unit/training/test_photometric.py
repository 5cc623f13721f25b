"""Photometric changes: the same for a patch and its stamped copy, and what they depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.training.photometric import shown_otherwise


def pairs(count=16, side=32, channels=3, seed=0):
    """Patches, and copies with a square of another colour each."""
    patches = np.random.default_rng(seed).integers(40, 220, (count, side, side, channels), np.uint8)
    stamped = patches.copy()
    stamped[:, 8:16, 8:16] = 130
    return patches, stamped


def shown(patches, stamped, share=1.0, seed=1, numbers=None):
    numbers = np.arange(len(patches)) if numbers is None else numbers
    return tuple(shown_otherwise(images, share, seed=seed, numbers=numbers) for images in (patches, stamped))


@pytest.mark.parametrize("channels", [1, 3])
def test_both_of_a_pair_change_alike_away_from_the_stamp(channels):
    patches, stamped = pairs(channels=channels)
    one, other = shown(patches, stamped)
    assert (one.shape, one.dtype) == (patches.shape, np.uint8)
    away = np.ones((32, 32), bool)
    away[7:17, 7:17] = False
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


def test_sharpness_changes_in_both_directions():
    edge = np.full((100, 32, 32, 1), 90, np.uint8)
    edge[:, :, 16:] = 160
    one = shown(edge, edge)[0].astype(float).mean(axis=(1, 3))  # rows averaged: the grain is gone
    beyond = (one[:, 16] - one[:, 24:].mean(axis=1)) / (one[:, 24:].mean(axis=1) - one[:, :8].mean(axis=1))
    assert beyond.min() < -0.05
    assert beyond.max() > 0.02


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
@given(st.lists(st.integers(0, 15), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_result_depends_on_its_own_pair_seed_and_number_alone(some, seed, share):
    patches, stamped = pairs()
    numbers = np.array(some)
    all_of_them = shown(patches, stamped, share, seed)
    again = shown(patches[numbers], stamped[numbers], share, seed, numbers)
    assert np.array_equal(again[0], all_of_them[0][numbers])
    assert np.array_equal(again[1], all_of_them[1][numbers])
