"""From thickness to the picture of a dual-energy scanner: Beer-Lambert, detector, noise, pseudo-colour."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vigil.images.baggage.materials import ATTENUATION_PER_CM, HIGH, LOW

_PHOTONS: Final = 60_000.0
"""Photons per detector pixel and energy in the open beam."""
_ELECTRONIC_NOISE: Final = 2e-4
"""Standard deviation of the electronics' noise, as a share of the open beam."""
_DARKEST: Final = 3e-4
"""Transmission below which the detector reads nothing."""
_WHITE_BELOW: Final = 0.012
"""Attenuation that the display shows as white."""
_EDGE_GAIN: Final = 0.6
"""Strength of the display's edge enhancement."""

# Colour by tone (0 = opaque, 1 = nothing in the beam) for the three hues between which the display interpolates.
_TONES: Final = (0.0, 0.13, 0.25, 0.36, 0.46, 0.56, 0.66, 0.76, 0.86, 0.94, 1.0)
_RAMPS: Final = (
    # organic: orange
    ((28, 26, 24), (62, 48, 20), (118, 86, 14), (172, 120, 22), (202, 142, 40), (222, 158, 62), (228, 178, 96),
     (240, 200, 141), (247, 222, 188), (252, 239, 222), (255, 255, 255)),
    # inorganic and mixed: green
    ((24, 28, 24), (26, 60, 26), (48, 112, 30), (78, 144, 40), (108, 168, 60), (143, 188, 96), (168, 203, 131),
     (191, 217, 164), (216, 232, 199), (236, 245, 228), (255, 255, 255)),
    # metal: blue
    ((24, 26, 30), (16, 52, 92), (14, 78, 136), (17, 100, 168), (34, 124, 189), (61, 150, 208), (110, 175, 220),
     (152, 197, 226), (193, 220, 237), (222, 238, 248), (255, 255, 255)),
)  # fmt: skip
_RATIOS: Final = (1.205, 1.235, 1.285, 1.42, 1.58)
_HUES: Final = (0.0, 0.30, 0.95, 1.15, 2.0)
"""Hue (0 orange, 1 green, 2 blue) at the ratios of the log attenuations, low / high."""
_HUE_STEPS: Final = 64


def _palette() -> NDArray[np.uint8]:
    tones = np.linspace(0, 1, 256)
    ramps = np.array([[np.interp(tones, _TONES, np.array(ramp)[:, c]) for c in range(3)] for ramp in _RAMPS])
    hues = np.linspace(0, 2, _HUE_STEPS)
    lower = np.minimum(hues.astype(int), 1)
    weight = (hues - lower)[:, None, None]
    mixed = (1 - weight) * ramps[lower] + weight * ramps[lower + 1]
    return np.ascontiguousarray((mixed.transpose(0, 2, 1) + 0.5).astype(np.uint8)).reshape(-1, 3)


_PALETTE: Final = _palette()
"""RGB, [hue step * 256 + tone, 3]."""
_RATIO_START, _RATIO_SCALE = 1.0, 500.0
_HUE_ROW: Final = np.rint(
    np.interp(_RATIO_START + np.arange(600) / _RATIO_SCALE, _RATIOS, _HUES) * ((_HUE_STEPS - 1) / 2)
).astype(np.int32)
"""Hue step by ratio."""


def _blurred(image: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """The last two axes convolved with (side, 1 - 2 side, side), edges repeated."""
    rows = np.float32(1 - 2 * side) * image
    rows[..., 1:, :] += np.float32(side) * image[..., :-1, :]
    rows[..., :-1, :] += np.float32(side) * image[..., 1:, :]
    rows[..., [0, -1], :] += np.float32(side) * image[..., [0, -1], :]
    both = np.float32(1 - 2 * side) * rows
    both[..., 1:] += np.float32(side) * rows[..., :-1]
    both[..., :-1] += np.float32(side) * rows[..., 1:]
    both[..., [0, -1]] += np.float32(side) * rows[..., [0, -1]]
    return both


def transmission(thickness_cm: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of photons that pass: exp(-sum of mu * thickness), Beer-Lambert.

    Args:
        thickness_cm: [material, rows, columns].

    Returns:
        [energy, rows, columns], in (0, 1].
    """
    passed = np.empty((len(ATTENUATION_PER_CM), *thickness_cm.shape[1:]), dtype=np.float32)
    for energy, coefficients in enumerate(-ATTENUATION_PER_CM):
        np.multiply(thickness_cm[0], coefficients[0], out=passed[energy])
        for material in range(1, len(coefficients)):
            passed[energy] += thickness_cm[material] * coefficients[material]
    return np.exp(passed, out=passed)


def scan(thickness_cm: NDArray[np.float32], subpixels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The pseudo-coloured scan of a thickness map.

    A detector pixel averages the transmission of `subpixels` x `subpixels` rays, blurs slightly into its neighbours,
    and reads photon noise (variance proportional to the count), electronic noise and its line's gain error.

    Args:
        thickness_cm: [material, rows * subpixels, columns * subpixels].

    Returns:
        uint8 [rows, columns, 3].
    """
    passed = transmission(thickness_cm)
    if subpixels > 1:
        columns = sum((passed[:, :, i::subpixels] for i in range(1, subpixels)), passed[:, :, ::subpixels])
        rays = sum((columns[:, i::subpixels] for i in range(1, subpixels)), columns[:, ::subpixels])
        passed = rays / np.float32(subpixels**2)
    passed = _blurred(passed, 0.04)
    noise = rng.standard_normal(passed.shape, dtype=np.float32)
    deviation = np.sqrt(passed / np.float32(_PHOTONS) + np.float32(_ELECTRONIC_NOISE**2))
    gain = 1 + np.float32(1.5e-3) * rng.standard_normal((2, passed.shape[1], 1), dtype=np.float32)
    read = np.maximum((passed + deviation * noise) * gain, np.float32(_DARKEST))
    return _coloured(-np.log(read))


def _coloured(attenuation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Hue from the ratio of the log attenuations, tone from their mean.

    Args:
        attenuation: -log transmission, [energy, rows, columns].
    """
    mean = attenuation.mean(axis=0)
    mean = mean + np.float32(_EDGE_GAIN) * (mean - _blurred(mean, 1 / 3))
    # The ratio of two small numbers is mostly noise: it is taken from smoothed values and drawn to the organic side.
    smooth = _blurred(attenuation, 0.12)
    ratio = (np.maximum(smooth[LOW], 0) + 0.012) / (np.maximum(smooth[HIGH], 0) + 0.010)
    row = _HUE_ROW[np.clip((ratio - _RATIO_START) * _RATIO_SCALE, 0, len(_HUE_ROW) - 1).astype(np.int16)]
    # exp(-0.8 a^0.6): compresses the range as displays do, so that thin walls and thick metal are both seen.
    tone = np.maximum(mean - np.float32(_WHITE_BELOW), np.float32(1e-9))
    np.exp(np.float32(0.6) * np.log(tone), out=tone)
    np.exp(np.float32(-0.8) * tone, out=tone)
    colours: NDArray[np.uint8] = _PALETTE[row * 256 + (tone * 255 + 0.5).astype(np.int32)]
    return colours
