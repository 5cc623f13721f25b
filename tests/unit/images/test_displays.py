"""The same picture on other displays: what changes, by how much, and what stays."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.images.appearance import look_of
from vigil.images.displays import AS_THEY_ARE, DISPLAYS, shown_on

SMOOTH = np.add.outer(np.arange(24) * 4, np.arange(32) * 3)[..., None] + np.array([60, 30, 0])
PICTURE = (SMOOTH + np.random.default_rng(0).integers(-8, 9, SMOOTH.shape)).clip(0, 255).astype(np.uint8)
COLOURS = {"paler", "hue turned"}


def shown(display: str, pixels: np.ndarray = PICTURE, number: int = 0) -> np.ndarray:
    changed = shown_on(display, pixels, number)
    assert changed is not None
    assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8)
    return changed


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(DISPLAYS)), st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]))
def test_every_display_takes_every_picture_and_leaves_it_alone(display: str, height: int, width: int, c: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, c), np.uint8)
    before = pixels.copy()
    changed = shown_on(display, pixels, 3)
    assert np.array_equal(pixels, before)
    assert (changed is None) == (c == 1 and display in COLOURS)
    again = shown_on(display, pixels, 3)
    assert changed is None or np.array_equal(changed, again)


def test_as_they_are_is_the_picture_and_every_other_display_another() -> None:
    assert np.array_equal(shown(AS_THEY_ARE), PICTURE)
    seen = {shown(display).tobytes() for display in DISPLAYS}
    assert len(seen) == len(DISPLAYS)
    assert not np.array_equal(shown("grainy", number=1), shown("grainy", number=2))


@pytest.mark.parametrize(
    ("display", "figure", "sign"),
    [
        ("darker", "brightness", -1),
        ("lighter", "brightness", 1),
        ("dimmer", "brightness", -1),
        ("grainy", "grain", 1),
        ("sharpened", "sharpness", 1),
        ("blurred", "sharpness", -1),
        ("paler", "saturation", -1),
    ],
)
def test_a_display_changes_what_its_name_says(display: str, figure: str, sign: int) -> None:
    before, after = look_of(PICTURE)[figure], look_of(shown(display))[figure]
    assert sign * (after - before) > 0.02 * abs(before)


def test_hues_turn_by_11_degrees_and_greys_stay() -> None:
    colour = np.full((4, 4, 3), (180, 120, 60), np.uint8)
    turned = colorsys.rgb_to_hsv(*(shown("hue turned", colour)[0, 0] / 255))[0] * 360
    assert turned == pytest.approx(30 + 11, abs=1)
    grey = np.full((4, 4, 3), 99, np.uint8)
    assert np.array_equal(shown("hue turned", grey), grey)
    assert np.array_equal(shown("paler", grey), grey)


def test_compression_keeps_the_picture_by_and_large() -> None:
    error = np.abs(shown("compressed").astype(int) - PICTURE)
    assert 0 < error.mean() < 8
