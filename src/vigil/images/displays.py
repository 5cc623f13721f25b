"""The same picture on other displays: changes that come with software, settings and age, and hide no anomaly.

Fixed steps, so that figures can be compared, and made by other arithmetic (Pillow's, for the most part) than what
training draws at random (`training.photometric`).

Beyond arXiv 2211.13808.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from vigil.seeding import numpy_generator

Pixels = npt.NDArray[np.uint8]
_Change = Callable[[Pixels, np.random.Generator], npt.NDArray[np.float64] | Pixels]

AS_THEY_ARE: Final = "as they are"


def shown_on(display: str, pixels: Pixels, number: int) -> Pixels | None:
    """The picture as `display` (of `DISPLAYS`) shows it, uint8 [H, W, C]; None where it would change nothing: colours
    of a grey picture.

    Args:
        display: A key of `DISPLAYS`.
        pixels: [H, W, C], grey or RGB.
        number: Of the picture; what is random (grain) is a function of it.
    """
    if display in _COLOURS and pixels.shape[2] == 1:
        return None
    changed = _CHANGES[display](pixels, numpy_generator(0, "display", number))
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _tone(exponent: float, factor: float = 1.0) -> _Change:
    table = 255 * factor * np.linspace(0, 1, 256) ** exponent
    return lambda pixels, _: table[pixels]


def _filtered(by: ImageFilter.Filter) -> _Change:
    return lambda pixels, _: _as_pixels(_as_image(pixels).filter(by), pixels)


def _compressed(pixels: Pixels, _: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    _as_image(pixels).save(file, "JPEG", quality=50)
    return _as_pixels(Image.open(file), pixels)


def _coloured(turn_degrees: float, saturation: float) -> _Change:
    def change(pixels: Pixels, _: np.random.Generator) -> Pixels:
        colours = np.asarray(_as_image(pixels).convert("HSV")).astype(np.float64)
        colours[..., 0] = (colours[..., 0] + round(turn_degrees / 360 * 256)) % 256
        colours[..., 1] *= saturation
        return np.asarray(Image.fromarray(np.rint(colours).astype(np.uint8), "HSV").convert("RGB"))

    return change


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _as_pixels(image: Image.Image, like: Pixels) -> Pixels:
    return np.asarray(image, np.uint8).reshape(like.shape)


_CHANGES: Final[dict[str, _Change]] = {
    AS_THEY_ARE: lambda pixels, _: pixels,
    "darker": _tone(1.22),
    "lighter": _tone(0.82),
    "dimmer": _tone(1.0, 0.85),
    "grainy": lambda pixels, random: pixels + random.normal(0, 4, pixels.shape),
    "sharpened": _filtered(ImageFilter.UnsharpMask(1.0, 80, 0)),
    "blurred": _filtered(ImageFilter.GaussianBlur(0.8)),
    "compressed": _compressed,
    "paler": _coloured(0, 0.7),
    "hue turned": _coloured(11, 1.0),
}
_COLOURS: Final = {"paler", "hue turned"}

DISPLAYS: Final[dict[str, str]] = {
    AS_THEY_ARE: "unchanged",
    "darker": "gamma 1.22",
    "lighter": "gamma 0.82",
    "dimmer": "all values times 0.85",
    "grainy": "noise of 4 grey levels",
    "sharpened": "unsharp mask of 1 px, 80 %",
    "blurred": "Gaussian of 0.8 px",
    "compressed": "JPEG of quality 50",
    "paler": "saturation times 0.7",
    "hue turned": "all hues 11 degrees on",
}
"""Every display and what it does."""
