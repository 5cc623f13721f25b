"""Where an image stands out: regions of its anomaly map, and a picture of both (Pillow alone)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vigil.images.patches import components

MIN_REGION_PX = 4
"""Regions of fewer scaled pixels are noise of single pixels and are left out."""
_STOPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
# Hues that neither grey pictures nor the display colours of X-ray scanners (orange, green, blue) hold.
_COLOURS = np.array([[255, 240, 80], [255, 150, 60], [255, 40, 60], [240, 0, 120], [200, 0, 180]], np.float64)
_OPACITY = 0.9
_OUTLINE, _GAP_PX, _MIN_SIDE_PX, _MAX_SIDE_PX = (255, 40, 40), 8, 128, 1600


@dataclass(frozen=True, slots=True)
class Region:
    """A connected part of the anomaly map above the bundle's map level."""

    box: tuple[int, int, int, int]
    """(x0, y0, x1, y1) in raw pixels of the file, half-open."""
    area_px: int
    """In raw pixels, estimated from the share of scaled pixels."""
    peak: float
    """Highest value of the map inside the box."""


def find_regions(anomaly_map: npt.NDArray[np.float32], level: float, raw_size: tuple[int, int]) -> tuple[Region, ...]:
    """The connected parts of the map above `level`, highest peak first.

    Args:
        anomaly_map: [H, W] of scaled pixels.
        level: In units of the map.
        raw_size: (height, width) of the file in raw pixels.
    """
    height, width = anomaly_map.shape
    raw_height, raw_width = raw_size
    regions = []
    for (y0, x0, y1, x1), area in zip(*(part.tolist() for part in components(anomaly_map > level)), strict=True):
        if area < min(MIN_REGION_PX, anomaly_map.size):
            continue
        # Outwards, the rule of `images.preprocessing.scale_boxes`, so that the box never cuts the region.
        box = (
            x0 * raw_width // width,
            y0 * raw_height // height,
            -(-x1 * raw_width // width),
            -(-y1 * raw_height // height),
        )
        raw_area = max(1, round(area * (raw_height / height) * (raw_width / width)))
        regions.append(Region(box, raw_area, float(anomaly_map[y0:y1, x0:x1].max())))
    return tuple(sorted(regions, key=lambda region: (-region.peak, region.box)))


def coloured(anomaly_map: npt.NDArray[np.float32], level: float) -> npt.NDArray[np.uint8]:
    """The map in colours, uint8 [H, W, 3]: yellow at 0, red at half the `level`, magenta at the level and beyond.

    The colours mean the same in every picture made with one bundle.
    """
    share = _share(anomaly_map, level)
    channels = [np.interp(share, _STOPS, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _share(anomaly_map: npt.NDArray[np.float32], level: float) -> npt.NDArray[np.float64]:
    return np.clip(np.asarray(anomaly_map, np.float64) / max(level, 1e-12), 0, 1)


def heat_map(
    image: Image.Image, anomaly_map: npt.NDArray[np.float32], level: float, regions: Sequence[Region]
) -> Image.Image:
    """The image beside the same image under its coloured map, with the regions' boxes; RGB.

    Small images are enlarged by a whole factor so that something can be seen, very large ones are shrunk.

    Args:
        image: As read from the file, mode L or RGB.
        anomaly_map: [H, W] of scaled pixels.
        level: See `coloured`.
        regions: From `find_regions`.
    """
    longer, shorter = max(image.size), min(image.size)
    scale = float(max(1, min(-(-_MIN_SIDE_PX // shorter), _MAX_SIDE_PX // longer))) * min(1.0, _MAX_SIDE_PX / longer)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    plain = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    colours = Image.fromarray(coloured(anomaly_map, level)).resize(size, Image.Resampling.BILINEAR)
    # What is not suspicious stays as it is; the colour covers more, the higher the map.
    covered = Image.fromarray((_OPACITY * 255 * _share(anomaly_map, level) ** 0.5).astype(np.uint8))
    overlay = Image.composite(colours, plain, covered.resize(size, Image.Resampling.BILINEAR))
    draw = ImageDraw.Draw(overlay)
    factor = np.array([size[0] / image.width, size[1] / image.height] * 2)
    for region in regions:
        x0, y0, x1, y1 = (np.array(region.box) * factor).round().astype(int).tolist()
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_OUTLINE, width=2)
    both = Image.new("RGB", (2 * size[0] + _GAP_PX, size[1]), (255, 255, 255))
    both.paste(plain, (0, 0))
    both.paste(overlay, (size[0] + _GAP_PX, 0))
    return both
