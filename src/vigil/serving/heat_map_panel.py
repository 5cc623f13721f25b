"""A heat map for people who know the truth: the picture of `heat_map`, with true masks and boxes drawn in."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vigil.serving.heat_map import heat_map

_TRUTH = (0, 230, 255)
_MIN_SIDE_PX = 192
"""Smaller images are enlarged, pixel by pixel, so that something can be seen."""


def heat_map_panel(
    image: npt.NDArray[np.uint8],
    anomaly_map: npt.NDArray[np.float32],
    level: float,
    mask: npt.NDArray[np.bool_] | None = None,
    boxes: Sequence[tuple[int, int, int, int]] = (),
) -> bytes:
    """The image, and beside it the image under its map; the truth is outlined in cyan in the left one. PNG.

    Args:
        image: uint8 [H, W, 1] or [H, W, 3], scaled pixels.
        anomaly_map: float32 [H, W].
        level: What the map of a normal image rarely exceeds; see `heat_map.coloured`.
        mask: [H, W], True where the anomaly truly is.
        boxes: (x0, y0, x1, y1) of the anomaly, scaled pixels, half-open.
    """
    height, width = anomaly_map.shape
    if image.shape[:2] != (height, width) or (mask is not None and mask.shape != (height, width)):
        mask_shape = None if mask is None else mask.shape
        raise ValueError(f"image {image.shape}, map {anomaly_map.shape} and mask {mask_shape} are of different sizes")
    factor = max(1, -(-_MIN_SIDE_PX // min(height, width)))
    pixels = image[..., 0] if image.shape[2] == 1 else image
    plain = Image.fromarray(pixels).convert("RGB").resize((width * factor, height * factor), Image.Resampling.NEAREST)
    both = heat_map(plain, anomaly_map, level, ())
    # `heat_map` bounds the sides of very large images, so the truth is drawn at the size that it gave.
    shown = both.height / height
    if mask is not None and mask.any():
        outline = _outline(mask, (round(width * shown), both.height))
        both.paste(_TRUTH, (0, 0), outline)
    draw = ImageDraw.Draw(both)
    for x0, y0, x1, y1 in boxes:
        corners = (round(x0 * shown), round(y0 * shown), round(x1 * shown) - 1, round(y1 * shown) - 1)
        draw.rectangle(corners, outline=_TRUTH, width=2)
    buffer = io.BytesIO()
    # 256 colours: a third of the bytes, and a report holds dozens of these.
    both.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _outline(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """The edge of the mask, two pixels wide, as a mask of this size (width, height)."""
    large = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 0
    inner = np.pad(large, 2)
    for axis in (0, 1):
        for shift in (-2, 2):
            inner = inner & np.roll(np.pad(large, 2), shift, axis)
    return Image.fromarray(((large & ~inner[2:-2, 2:-2]) * 255).astype(np.uint8))
