"""Patches as another display or camera would have shown them: grain, sharpness, colour and tone changed at random.

A stamp is drawn by other arithmetic than what was there from the start, and a network that can tell the two apart finds
stamps, not shapes: it takes whatever was really in the beam for normal. Changing a patch as a whole, stamps included,
hides that difference. And where a site's display does change, the pair has seen others, above all in the wide range.

Beyond arXiv 2211.13808.

Legend: B batch, P patch size, C channels.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from vigil.seeding import numpy_generator

Pixels = npt.NDArray[np.uint8]

_MOST_GRAIN: Final = 0.025
"""Largest standard deviation of the grain, as a share of the value range."""
_RESHARPENED: Final = 0.5
"""Share of the changed patches that become sharper or softer, too."""
_SHARPER, _SOFTER = -0.2, 0.5
"""How much of the difference to the neighbours' mean is added."""
_WIDE_SHARPENED: Final = 0.25
"""Wide: share of these that become sharper; the others become softer."""
_WIDE_SHARPEST: Final = 0.25
"""Wide: largest share of the difference to the smoothed patch that is added once more."""
_WIDE_SOFTEST_PX: Final = 1.0
"""Wide: largest standard deviation of the blur, in pixels; the kernel reaches no further."""
_LARGEST_TURN: Final = math.radians(15)
"""Wide: largest angle by which all hues turn, to either side."""
_PALEST, _MOST_VIVID = 0.65, 1.25
"""Wide: smallest and largest factor of how far colours are from grey."""
_LOG_GAMMA: Final = 0.3
"""Largest logarithm of the exponent that lightness is raised to, and its negative the smallest."""
_DIMMEST: Final = 0.9
"""Smallest factor of the lightness; the largest is 1."""
_LIFT: Final = 0.03
"""Largest shift of all channels together, and once more of each, as a share of the value range."""
_NORMAL: Final = np.array([NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)], np.float32)
"""256 numbers as likely as each other, of standard deviation .997 and at most 2.9: grain drawn as bytes takes an eighth
of the time of exact normal numbers."""


def shown_otherwise(
    images: Pixels, share: float, *, wide: bool = False, seed: int, numbers: npt.NDArray[np.int64]
) -> Pixels:
    """The images, `share` of them changed.

    Each result is a function of its image, `share`, `wide`, `seed` and its number alone. So a patch and its stamped
    copy, given one after the other with the same numbers, change in the same way: where they agreed, they still do, but
    for the pixel (wide: the two pixels) next to a stamp.

    Args:
        images: [B, P, P, C].
        share: Of the images that are changed, 0 to 1.
        wide: Sharpness changes more, and hues and saturation as well.
        seed: Of the run.
        numbers: [B], the position of each image in the run (images seen).
    """
    shown = images.copy()
    for i, number in enumerate(numbers):
        rng = numpy_generator(seed, "photometric", int(number))
        if rng.random() < share:
            shown[i] = _changed(images[i], wide, rng)
    return shown


def _changed(image: Pixels, wide: bool, rng: np.random.Generator) -> Pixels:
    """The image [P, P, C] with grain and another sharpness and tone (wide: and colour), all of which `rng` decides."""
    levels_of_grain = np.float32(255 * rng.uniform(0, _MOST_GRAIN)) * _NORMAL
    values = image + levels_of_grain[np.frombuffer(rng.bytes(image.size), np.uint8)].reshape(image.shape)
    if rng.random() < _RESHARPENED:
        if wide:
            values += _softness(rng) * (_smoothed(values) - values)
        else:
            values += np.float32(rng.uniform(_SHARPER, _SOFTER)) * (_neighbours(values) - values)
    if wide and image.shape[-1] == 3:
        values = values @ _colours(rng)
    table = _tones(rng, image.shape[-1])
    levels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.stack([table[channel][levels[..., channel]] for channel in range(image.shape[-1])], axis=-1)


def _tones(rng: np.random.Generator, channels: int) -> Pixels:
    """Per channel the new value of each old one, [C, 256]: a gamma, a scale, and shifts."""
    gamma, scale = np.exp(rng.uniform(-_LOG_GAMMA, _LOG_GAMMA)), rng.uniform(_DIMMEST, 1)
    shifts = rng.uniform(-_LIFT, _LIFT) + rng.uniform(-_LIFT, _LIFT, (channels, 1))
    values = scale * np.linspace(0, 1, 256) ** gamma + shifts
    return np.asarray(np.clip(np.rint(255 * values), 0, 255), np.uint8)


def _neighbours(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean of the four pixels around each, [P, P, C]; beyond the border lies the border."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.asarray(around / 4, np.float32)


def _softness(rng: np.random.Generator) -> np.float32:
    """How much of the smoothed patch takes the place of the patch; below 0 it becomes sharper.

    The variance of a mixture of kernels is the mixture of theirs, so the blur's standard deviation is uniform.
    """
    if rng.random() < _WIDE_SHARPENED:
        return np.float32(-rng.uniform(0, _WIDE_SHARPEST))
    return np.float32(rng.uniform(0, _WIDE_SOFTEST_PX) ** 2)


def _smoothed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Blurred by the binomial kernel [1, 4, 6, 4, 1] / 16 along both axes, whose variance is 1 px^2, [P, P, C].

    Beyond the border lies the border.
    """
    smooth = np.pad(values, ((2, 2), (2, 2), (0, 0)), mode="edge")
    for _ in range(4):
        smooth = smooth[:-1] + smooth[1:]
    for _ in range(4):
        smooth = smooth[:, :-1] + smooth[:, 1:]
    return np.asarray(smooth / 256, np.float32)


def _colours(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A matrix [3, 3] that turns colours about the axis of greys and moves them to or from it; greys stay."""
    turn, vivid = rng.uniform(-_LARGEST_TURN, _LARGEST_TURN), rng.uniform(_PALEST, _MOST_VIVID)
    grey = np.full((3, 3), 1 / 3)
    across = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / math.sqrt(3)
    return np.asarray(grey + vivid * (math.cos(turn) * (np.eye(3) - grey) + math.sin(turn) * across), np.float32)
