"""How images look as a whole, so that a changed display or camera is noticed before its scores are believed.

A pair, its threshold and what the threshold promises belong to images that look like those of calibration. A few
figures per image say whether later ones still do; none of them needs a label. They are compared as distributions: what
an image shows moves them from image to image, a display moves them all.

Beyond arXiv 2211.13808.

Legend: H, W, C of the scaled pixels (after preprocessing).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, FiniteFloat

from vigil.images.drift import chance

FEATURES: Final = ("brightness", "contrast", "saturation", "hue", "sharpness", "grain")
HUE: Final = "hue"
_HUES: Final = 180.0
"""Degrees after which the axis of the hues is the same again."""
_MOST_PIXELS: Final = 1 << 16
"""Of an image; of a larger one, rows at equal distances."""
_ORDINARY_DISTANCE: Final = 0.1
"""What two sets of images of one display may differ by, beyond chance: they need not show quite the same things."""
_FALSE_WARNINGS: Final = 0.01
"""Probability that chance alone moves any of the figures beyond its bound (which is `_ORDINARY_DISTANCE` more)."""
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)

Pixels = npt.NDArray[np.uint8]
Look = dict[str, float]
"""The figures of one image, by name; without those that it does not have (a grey image has no hue)."""


def look_of(pixels: Pixels) -> Look:
    """The figures of an image, rounded to 5 decimals; of values from 0 to 1.

    `brightness` and `contrast`, mean and standard deviation of the luma (BT.601); `saturation`, the mean of (largest -
    smallest) / largest channel; `hue`, the axis along which the colours lie, in degrees from 0 to 180, where a hue and
    the opposite one are the same; `sharpness`, the logarithm of the mean squared Laplacian over the variance, so that
    contrast does not count; `grain`, the logarithm of the Laplacian's median magnitude, which edges hardly move.

    Args:
        pixels: Of the scaled image, [H, W, C], grey or RGB.
    """
    height, width, channels = pixels.shape
    step = -(-height * width // _MOST_PIXELS)
    rows = np.arange(1, height - 1, step) if height > 2 else np.arange(height)
    chosen = _values(pixels[rows])
    luma = _luma(chosen)
    variance = float(luma.var(dtype=np.float64))
    look = {"brightness": float(luma.mean(dtype=np.float64)), "contrast": math.sqrt(variance)}
    if channels == 3:
        highest = chosen.max(axis=2)
        saturation = (highest - chosen.min(axis=2)) / np.maximum(highest, 1 / 255)
        look["saturation"] = float(saturation.mean(dtype=np.float64))
        red, green, blue = np.moveaxis(chosen, 2, 0)
        across, along = red - (green + blue) / 2, math.sqrt(0.75) * (green - blue)
        # Of doubled angles, so that the two ends of an axis add up and do not cancel.
        even = float((across**2 - along**2).mean(dtype=np.float64))
        odd = float((2 * across * along).mean(dtype=np.float64))
        if math.hypot(even, odd) > (2 / 255) ** 2:
            look[HUE] = math.degrees(math.atan2(odd, even)) / 2 % _HUES
    if height > 2 and width > 2 and variance > (1 / 255) ** 2:
        above, below = (_luma(_values(pixels[rows + side])) for side in (-1, 1))
        sides = luma[:, :-2] + luma[:, 2:] + above[:, 1:-1] + below[:, 1:-1]
        laplacian = np.abs(4 * luma[:, 1:-1] - sides)
        look["sharpness"] = math.log(float((laplacian**2).mean(dtype=np.float64)) / variance + 1e-9)
        look["grain"] = math.log(float(np.median(laplacian)) + 0.1 / 255)
    return {name: round(value, 5) for name, value in look.items()}


def _values(pixels: Pixels) -> npt.NDArray[np.float32]:
    return np.asarray(pixels, np.float32) / np.float32(255)


def _luma(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(values @ _LUMA if values.shape[2] == 3 else values[..., 0], np.float32)


class Appearance(BaseModel):
    """How a set of images looks: every figure of every image, apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    images: int
    values: dict[str, tuple[FiniteFloat, ...]]
    """By figure, ascending; of those images that have it."""

    @classmethod
    def of(cls, looks: Sequence[Look]) -> Appearance:
        """Of images one by one."""
        values = {name: tuple(sorted(look[name] for look in looks if name in look)) for name in FEATURES}
        return cls(images=len(looks), values=values)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one figure of later images is from that of calibration's."""

    feature: str
    distance: float
    """Kolmogorov-Smirnov, 0 to 1: the largest difference of their cumulated shares."""
    bound: float
    """What chance and ordinary differences explain."""
    calibration_median: float
    median: float

    @property
    def beyond(self) -> bool:
        """Whether neither chance nor ordinary differences explain it."""
        return self.distance > self.bound

    def as_json(self) -> dict[str, float | bool]:
        """JSON values; the figure's name aside."""
        values = {name: value for name, value in asdict(self).items() if name != "feature"}
        return {**values, "beyond": self.beyond}


def shifts(calibration: Appearance, seen: Appearance) -> list[Shift]:
    """The figures that both sets have, compared. Few images tell little: with fewer than 4 images no bound is below 1.

    A hue's median is given so that it lies within 90 degrees of calibration's.
    """
    # scikit-learn, a core dependency, depends on scipy, so this import works wherever the core is installed.
    from scipy.stats import ks_2samp

    found = []
    for name in FEATURES:
        before, now = (np.array(side.values.get(name, ()), np.float64) for side in (calibration, seen))
        if not len(before) or not len(now):
            continue
        if name == HUE:
            before, now = _unrolled(before, now)
        distance = float(ks_2samp(before, now, method="asymp").statistic)
        bound = _ORDINARY_DISTANCE + chance(len(before), len(now), _FALSE_WARNINGS / len(FEATURES))
        found.append(Shift(name, distance, bound, float(np.median(before)), float(np.median(now))))
    return found


def _unrolled(
    before: npt.NDArray[np.float64], now: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Hues as numbers around the mean of `before`, so that none is torn where 180 degrees become 0."""
    mean = math.degrees(np.angle(np.exp(np.radians(before / _HUES * 360) * 1j).sum())) / 360 * _HUES
    first, second = ((side - mean + _HUES / 2) % _HUES + mean - _HUES / 2 for side in (before, now))
    return first, second


def warning_of(found: Iterable[Shift], images: int) -> str | None:
    """What to say of shifts beyond their bounds, and what to do; None where there are none."""
    beyond = [shift for shift in found if shift.beyond]
    if not beyond:
        return None
    each = "; ".join(
        f"{shift.feature} {shift.median:.4g}, was {shift.calibration_median:.4g} "
        f"(distance {shift.distance:.2f}, at most {shift.bound:.2f} expected)"
        for shift in beyond
    )
    return (
        f"the {images} images do not look like those that the threshold was calibrated on: {each}. Scores may be off, "
        f"and the promise of the threshold does not hold. If the display or camera changed, calibrate on its images "
        f"(`vigil calibrate`), and train anew with them."
    )
