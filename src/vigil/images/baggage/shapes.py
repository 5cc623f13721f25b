"""Parts of objects (plates, wires, bodies of revolution) and the canvas that adds up their thickness.

Lengths are in cm. An object is a list of parts around its own origin, its long axis along x; `moved` puts it into the
view. y grows downwards, as in images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, floor
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from vigil.images.baggage.materials import MATERIALS, METAL

Points = NDArray[np.float64]
Thickness = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Plate:
    """A flat piece of constant thickness, with holes."""

    material: int
    thickness_cm: float
    outline: Points
    holes: tuple[Points, ...] = ()


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire, tube or seam along a polyline."""

    material: int
    diameter_cm: float
    points: Points
    density: float = 1.0
    """Share of the diameter that is matter; below 1 for tubes and stitched seams."""


@dataclass(frozen=True, slots=True)
class Lathe:
    """A body of revolution: radius as a function of the position along the axis, solid or a shell."""

    material: int
    axis: Points
    """[2, 2]: both ends."""
    positions: tuple[float, ...]
    """Increasing, 0 at the first end and 1 at the second."""
    radii_cm: tuple[float, ...]
    wall_cm: float | None = None
    """Thickness of the shell; None: solid."""
    density: float = 1.0


Part = Plate | Wire | Lathe

# ------------------------------------------------------------------------------------------------------------ outlines


def points(*xy: tuple[float, float]) -> Points:
    """The given corners as an array [N, 2]."""
    return np.array(xy, dtype=np.float64)


def rectangle(width: float, height: float, x: float = 0.0, y: float = 0.0) -> Points:
    """A rectangle around (x, y)."""
    w, h = width / 2, height / 2
    return points((x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h))


def ellipse(width: float, height: float, x: float = 0.0, y: float = 0.0, corners: int = 20) -> Points:
    """An ellipse around (x, y)."""
    return _circle(corners) * (width / 2, height / 2) + (x, y)


@cache
def _circle(corners: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


_ROUNDING: Final = 7
"""Points along each rounded corner."""


@cache
def _rounding() -> Points:
    """The four quarters of the unit circle, both ends of each included."""
    quarter = np.linspace(0, np.pi / 2, _ROUNDING)
    angle = (np.arange(4)[:, None] * np.pi / 2 + quarter).ravel()
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def rounded(width: float, height: float, radius: float, x: float = 0.0, y: float = 0.0) -> Points:
    """A rectangle around (x, y) with rounded corners."""
    radius = min(radius, width / 2, height / 2)
    w, h = width / 2 - radius, height / 2 - radius
    corners = points((w, h), (-w, h), (-w, -h), (w, -h)).repeat(_ROUNDING, axis=0)
    return _rounding() * radius + corners + (x, y)


def arc(radius: float, start: float, end: float, x: float = 0.0, y: float = 0.0, corners: int = 12) -> Points:
    """Part of a circle around (x, y), angles in radians."""
    angle = np.linspace(start, end, corners)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def closed(outline: Points) -> Points:
    """The outline with its first point repeated at the end, for a `Wire` around it."""
    return np.concatenate([outline, outline[:1]])


def smooth_path(knots: ArrayLike, per_knot: int = 6) -> Points:
    """A Catmull-Rom curve through the knots."""
    p = np.asarray(knots, dtype=np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, per_knot, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([curve.transpose(1, 0, 2).reshape(-1, 2), p[-2:-1]])


def wobbly(outline: Points, rng: np.random.Generator, amount: float) -> Points:
    """The outline with smooth random dents of about `amount` cm."""
    angle = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
    offset = np.zeros_like(outline)
    for wave in (2, 3, 5):
        phase = rng.uniform(0, 2 * np.pi, 2)
        offset += amount / wave**0.5 * np.sin(wave * angle[:, None] + phase) * rng.normal(0, 0.7, 2)
    return outline + offset


def densified(outline: Points, per_side: int = 8) -> Points:
    """The closed outline with `per_side` points on each side."""
    t = np.linspace(0, 1, per_side, endpoint=False)[None, :, None]
    start, end = outline[:, None], np.roll(outline, -1, axis=0)[:, None]
    return np.asarray(start + (end - start) * t).reshape(-1, 2)


# --------------------------------------------------------------------------------------------------------------- poses


def _rotation(angle: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def rotated(outline: Points, angle: float) -> Points:
    """The outline turned about the origin by `angle` radians."""
    return outline @ _rotation(angle).T


def moved(
    parts: Iterable[Part],
    angle: float = 0.0,
    x: float = 0.0,
    y: float = 0.0,
    *,
    scale: float = 1.0,
    mirrored: bool = False,
    tilt: float = 0.0,
    tilt_axis: float = 0.0,
    metal_density: float = 1.0,
) -> list[Part]:
    """The parts scaled, tilted out of the plane, rotated by `angle` (radians) and moved to (x, y).

    Args:
        tilt: Angle in radians by which the object leans out of the plane: it is foreshortened by cos(tilt) across
            `tilt_axis` (radians, in the object's frame), and the ray's way through its plates grows by 1 / cos(tilt).
        metal_density: Factor on the thickness of the metal.
    """
    squeeze = _rotation(tilt_axis) @ np.diag([1.0, np.cos(tilt)]) @ _rotation(-tilt_axis)
    matrix = scale * _rotation(angle) @ squeeze @ np.diag([1.0, -1.0 if mirrored else 1.0])
    shift = np.array([x, y])
    result: list[Part] = []
    for part in parts:
        density = metal_density if part.material == METAL else 1.0
        if isinstance(part, Plate):
            result.append(
                Plate(
                    part.material,
                    part.thickness_cm * scale * density / float(np.cos(tilt)),
                    part.outline @ matrix.T + shift,
                    tuple(hole @ matrix.T + shift for hole in part.holes),
                )
            )
        elif isinstance(part, Wire):
            result.append(
                replace(
                    part,
                    diameter_cm=part.diameter_cm * scale,
                    points=part.points @ matrix.T + shift,
                    density=part.density * density,
                )
            )
        else:
            result.append(
                replace(
                    part,
                    axis=part.axis @ matrix.T + shift,
                    radii_cm=tuple(r * scale for r in part.radii_cm),
                    wall_cm=None if part.wall_cm is None else part.wall_cm * scale,
                    density=part.density * density,
                )
            )
    return result


def extent(parts: Sequence[Part]) -> tuple[float, float, float, float]:
    """The bounding box (x0, y0, x1, y1) of all parts, in cm."""
    low, high = [], []
    for part in parts:
        p = part.outline if isinstance(part, Plate) else part.points if isinstance(part, Wire) else part.axis
        margin = (
            0.0 if isinstance(part, Plate) else (part.diameter_cm / 2 if isinstance(part, Wire) else max(part.radii_cm))
        )
        low.append(p.min(axis=0) - margin)
        high.append(p.max(axis=0) + margin)
    (x0, y0), (x1, y1) = np.min(low, axis=0), np.max(high, axis=0)
    return float(x0), float(y0), float(x1), float(y1)


# -------------------------------------------------------------------------------------------------------------- canvas


class Canvas:
    """Adds up the thickness of parts, per material, on a grid of sub-pixels.

    `thickness_cm` is float32 [material, rows, columns].
    """

    def __init__(self, rows: int, columns: int, subpixels_per_cm: float) -> None:
        self.thickness_cm: Thickness = np.zeros((MATERIALS, rows, columns), dtype=np.float32)
        self.subpixels_per_cm = subpixels_per_cm

    def draw(self, parts: Iterable[Part]) -> None:
        """Adds all parts; what lies outside the canvas is cut off."""
        for part in parts:
            if isinstance(part, Plate):
                self._plate(part)
            elif isinstance(part, Wire):
                self._wire(part)
            else:
                self._lathe(part)

    def _window(self, corners: Points, margin: float) -> tuple[int, int, int, int] | None:
        """The window (x0, y0, x1, y1) in sub-pixels that holds the corners, or None when it is empty."""
        rows, columns = self.thickness_cm.shape[1:]
        xs, ys = corners.T.tolist()  # plain numbers: faster than NumPy for a handful of corners
        x0, y0 = max(floor(min(xs) - margin), 0), max(floor(min(ys) - margin), 0)
        x1, y1 = min(ceil(max(xs) + margin) + 1, columns), min(ceil(max(ys) + margin) + 1, rows)
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def _plate(self, plate: Plate) -> None:
        outline = plate.outline * self.subpixels_per_cm
        window = self._window(outline, 0.0)
        if window is None:
            return
        x0, y0, x1, y1 = window
        mask = Image.new("L", (x1 - x0, y1 - y0))
        draw = ImageDraw.Draw(mask)
        draw.polygon((outline - (x0, y0)).ravel().tolist(), fill=1)
        for hole in plate.holes:
            draw.polygon((hole * self.subpixels_per_cm - (x0, y0)).ravel().tolist(), fill=0)
        self.thickness_cm[plate.material, y0:y1, x0:x1] += np.float32(plate.thickness_cm) * np.asarray(mask)

    def _wire(self, wire: Wire) -> None:
        path = wire.points * self.subpixels_per_cm
        diameter = wire.diameter_cm * self.subpixels_per_cm
        width = max(round(diameter), 1)
        window = self._window(path, width / 2 + 1)
        if window is None:
            return
        x0, y0, x1, y1 = window
        mask = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(mask).line(
            (path - (x0, y0)).ravel().tolist(), fill=1, width=width, joint="curve" if width > 3 else None
        )
        # The mean chord of a round wire is pi/4 of its diameter; what is lost or won by rounding the width to whole
        # sub-pixels is made up for in the thickness, so that the mass stays.
        thickness = wire.diameter_cm * np.pi / 4 * diameter / width * wire.density
        self.thickness_cm[wire.material, y0:y1, x0:x1] += np.float32(thickness) * np.asarray(mask)

    def _lathe(self, lathe: Lathe) -> None:
        axis = lathe.axis * self.subpixels_per_cm
        radii = np.array(lathe.radii_cm, dtype=np.float32) * np.float32(self.subpixels_per_cm)
        window = self._window(axis, float(radii.max()))
        length = float(np.hypot(*(axis[1] - axis[0])))
        if window is None or length < 0.5:
            return
        x0, y0, x1, y1 = window
        direction = (axis[1] - axis[0]) / length
        dx = np.arange(x0, x1, dtype=np.float32) - np.float32(axis[0, 0] - 0.5)
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(axis[0, 1] - 0.5)
        along = dx * np.float32(direction[0] / length) + dy * np.float32(direction[1] / length)
        across = dy * np.float32(direction[0]) - dx * np.float32(direction[1])
        # Radii on a fine grid of positions: an index is several times faster than interpolating at every sub-pixel.
        table = np.zeros(130, dtype=np.float32)
        table[1:129] = np.interp(np.linspace(0, 1, 128), lathe.positions, radii)
        radius = table[np.clip(along * 127 + 1.5, 0, 129).astype(np.int16)]
        square = across * across
        chord = np.sqrt(np.maximum(radius * radius - square, 0))
        if lathe.wall_cm is not None:
            inner = np.maximum(radius - np.float32(lathe.wall_cm * self.subpixels_per_cm), 0)
            chord -= np.sqrt(np.maximum(inner * inner - square, 0))
        chord *= np.float32(2 * lathe.density / self.subpixels_per_cm)
        self.thickness_cm[lathe.material, y0:y1, x0:x1] += chord
