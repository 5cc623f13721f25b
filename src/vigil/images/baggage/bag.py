"""A packed bag: shell, clothes, contents, and in one place either a threat or a matching harmless object.

Each bag has one slot of metal. A threat bag holds its threat there; a harmless bag holds an object of the dense
repertoire that is scaled to the metal area and mass of a threat drawn for the purpose. Everything else is drawn from
random streams that do not know which of the two it is, so that no statistic of the whole picture gives the threat away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vigil.images.baggage.materials import INORGANIC, METAL, ORGANIC
from vigil.images.baggage.objects import DENSE, ELECTRONICS, LIGHT, SMALL, Maker
from vigil.images.baggage.scanner import scan
from vigil.images.baggage.shapes import (
    Canvas,
    Part,
    Plate,
    Points,
    Wire,
    closed,
    densified,
    ellipse,
    extent,
    moved,
    points,
    rectangle,
    rotated,
    rounded,
    smooth_path,
    wobbly,
)
from vigil.images.baggage.threats import KINDS, draw_threat
from vigil.seeding import numpy_generator

Rng = np.random.Generator

VIEW_CM: Final = (66.0, 49.5)
"""The part of the belt that an image shows at least (width, height)."""
_FINE_PIXELS: Final = 1_000_000
"""Up to this many pixels, a detector pixel averages 2 x 2 rays; above, one ray is as fine."""
_VISIBLE_CM: Final = 0.02
"""Thickness (all materials) from which a sub-pixel belongs to a threat's box."""


@dataclass(frozen=True, slots=True)
class Box:
    """Where a threat lies, in pixels from the upper left corner, half-open."""

    kind: str
    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True, slots=True)
class SimulatedScan:
    """A scan and what is in it."""

    image: NDArray[np.uint8]
    """[rows, columns, 3], RGB."""
    boxes: tuple[Box, ...]
    """One per threat; empty for a harmless bag."""


@dataclass(frozen=True, slots=True)
class _Bag:
    """A bag's size and how it lies on the belt; contents are placed in its own frame."""

    length: float
    height: float
    angle: float
    x: float
    y: float

    def placed(self, parts: list[Part], x: float = 0.0, y: float = 0.0, scale: float = 1.0) -> list[Part]:
        """The parts, scaled and put at (x, y) in the bag's frame, as they lie in the view."""
        (at,) = self.to_view(np.array([[x, y]]))
        return moved(parts, self.angle, float(at[0]), float(at[1]), scale=scale)

    def inside(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Two opposite corners of the room for contents."""
        x, y = self.length / 2 - 2.2, self.height / 2 - 1.8
        return (-x, -y), (x, y)

    def to_view(self, outline: Points) -> Points:
        return np.add(rotated(outline, self.angle), (self.x, self.y))


def simulate_bag(seed: int, index: int, threat: str | None, width_px: int, height_px: int) -> SimulatedScan:
    """The scan of one bag, a pure function of the arguments.

    The same seed and index with and without a threat give the same bag with one object exchanged.

    Args:
        seed: Of the data set.
        index: Number of the bag.
        threat: One of `KINDS`, or None for a harmless bag.
        width_px: At least 64; objects are scaled with the image, so that the view is at least 66 x 49.5 cm.
        height_px: At least 64.

    Raises:
        ValueError: The threat is not one of `KINDS`, or a side is shorter than 64 pixels.
    """
    if threat is not None and threat not in KINDS:
        raise ValueError(f"threat: expected one of {', '.join(KINDS)} or None, found {threat!r}")
    if min(width_px, height_px) < 64:
        raise ValueError(f"width_px, height_px: expected at least 64 each, found {width_px} x {height_px}")
    pixels_per_cm = min(width_px / VIEW_CM[0], height_px / VIEW_CM[1])
    subpixels = 2 if width_px * height_px <= _FINE_PIXELS else 1
    canvas = Canvas(height_px * subpixels, width_px * subpixels, pixels_per_cm * subpixels)

    rng = numpy_generator(seed, "baggage bag", index)
    bag = _lay_bag(rng, width_px / pixels_per_cm, height_px / pixels_per_cm)
    canvas.draw(bag.placed(_shell(rng, bag)))
    _pack_clothes(rng, canvas, bag, subpixels)
    place = (float(rng.uniform(-0.42, 0.42)) * bag.length, float(rng.uniform(-0.42, 0.42)) * bag.height)
    _pack_objects(rng, canvas, bag, place)
    slot = _slot(numpy_generator(seed, "baggage slot", index), bag, place, threat)

    boxes: tuple[Box, ...] = ()
    if threat is None:
        canvas.draw(bag.placed(slot))
    else:
        before = canvas.thickness_cm.sum(axis=0)
        canvas.draw(bag.placed(slot))
        boxes = (_box(threat, canvas.thickness_cm.sum(axis=0) - before, subpixels),)
    image = scan(canvas.thickness_cm, subpixels, numpy_generator(seed, "baggage noise", index))
    return SimulatedScan(image, boxes)


def _box(kind: str, thickness: NDArray[np.float32], subpixels: int) -> Box:
    rows, columns = np.nonzero(thickness > _VISIBLE_CM)
    x0, x1 = int(columns.min()) // subpixels, int(columns.max()) // subpixels + 1
    y0, y1 = int(rows.min()) // subpixels, int(rows.max()) // subpixels + 1
    return Box(kind, x0, y0, x1, y1)


# ---------------------------------------------------------------------------------------------------------- the bag


def _lay_bag(rng: Rng, view_width: float, view_height: float) -> _Bag:
    """A bag that fits into the view at its angle."""
    length, height = rng.uniform(54, 66), rng.uniform(37, 49)
    angle = rng.normal(0, 0.07) if rng.random() < 0.7 else rng.uniform(-0.7, 0.7)
    angle += np.pi * rng.integers(2)
    if view_height > view_width:
        angle += np.pi / 2
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    fit = min(view_width * 0.98 / (length * c + height * s), view_height * 0.98 / (length * s + height * c), 1.0)
    length, height = length * fit, height * fit
    free_x = max(view_width - (length * c + height * s), 0) / 2
    free_y = max(view_height - (length * s + height * c), 0) / 2
    x = view_width / 2 + rng.uniform(-0.6, 0.6) * free_x
    y = view_height / 2 + rng.uniform(-0.6, 0.6) * free_y
    return _Bag(length, height, float(angle), float(x), float(y))


def _shell(rng: Rng, bag: _Bag) -> list[Part]:
    """A hard case, a soft trolley, a backpack or a holdall."""
    which = rng.choice(4, p=[0.3, 0.35, 0.2, 0.15])
    w, h = bag.length - 3, bag.height - 2
    parts: list[Part] = []
    if which == 0:
        parts += _walls(rng, w, h, rng.uniform(3, 6), 0.0, rng.uniform(0.2, 0.4))
        gap = rng.uniform(1.2, 2.6)
        if rng.random() < 0.6:
            parts += [
                Wire(ORGANIC, 0.5, points((-w / 2 + 1, y), (w / 2 - 1, y + rng.normal(0, 0.2))), 0.8)
                for y in np.arange(-h / 2 + 2, h / 2 - 1, gap)
            ]
        parts += _frame(rng, w, h, METAL)
    elif which == 1:
        parts += _walls(rng, w, h, rng.uniform(3, 7), 0.25, rng.uniform(0.12, 0.3))
        parts += _frame(rng, w, h, METAL if rng.random() < 0.6 else INORGANIC)
        parts += _zip(rng, rounded(w * 0.96, h * 0.95, 4))
        parts += _zip(rng, rounded(w * 0.5, h * 0.8, 2, w * 0.18, 0))
    elif which == 2:
        parts += _walls(rng, w, h, h * 0.3, 1.1, rng.uniform(0.1, 0.22))
        parts += _zip(rng, rounded(w * 0.9, h * 0.9, h * 0.3))
        parts += _zip(rng, rounded(w * 0.4, h * 0.7, 3, w * 0.2, 0))
        parts += _straps(rng, w, h)
    else:
        parts += _walls(rng, w, h, h * 0.2, 1.6, rng.uniform(0.08, 0.2))
        parts += _zip(rng, points((-w * 0.42, 0), (0, -0.6), (w * 0.42, 0.4)), path=True)
        parts += _straps(rng, w, h)
    parts += _pocket(rng, w, h)
    if which < 2:
        parts += _telescopic_handle(rng, w, h)
        parts += _wheels(rng, w, h)
        parts += _fittings(rng, w, h, int(rng.integers(18, 45)))
    else:
        parts += _fittings(rng, w, h, int(rng.integers(6, 18)))
    return parts


def _walls(rng: Rng, w: float, h: float, radius: float, wobble: float, thickness: float) -> list[Part]:
    """Front and back, a little apart as the fan of rays sees them, and the side walls seen edge-on."""
    parts: list[Part] = []
    dx, dy = rng.normal(0, 0.9, 2)
    for side in (-0.5, 0.5):
        outline = wobbly(densified(rounded(w, h, radius), 2), rng, wobble) + np.array([dx, dy]) * side
        parts.append(Plate(ORGANIC, thickness, outline))
        parts.append(Wire(ORGANIC, 0.5, closed(outline), 0.9))
        parts.append(Wire(INORGANIC, rng.uniform(0.3, 0.6), closed(outline * 0.985), 0.9))
        for _ in range(int(wobble * 8)):  # creases of soft walls
            start = rng.uniform(-0.5, 0.5, 2) * (w, h)
            crease = smooth_path(start + np.cumsum(rng.normal((0, 0), (4.0, 2.0), (4, 2)), axis=0), 4)
            parts.append(Wire(ORGANIC, 0.3, np.clip(crease, (-w / 2, -h / 2), (w / 2, h / 2)), 1.0))
    return parts


def _pocket(rng: Rng, w: float, h: float) -> list[Part]:
    """An outer pocket and a carrying handle, which reach a little beyond the frame."""
    parts: list[Part] = []
    if rng.random() < 0.6:
        end = float(rng.choice([-1, 1]))
        outline = wobbly(densified(rounded(w * rng.uniform(0.3, 0.7), h * 0.97, 3), 2), rng, 0.3)
        outline[:, 0] += end * (w * 0.515 - outline[:, 0].max())
        parts += [Plate(ORGANIC, rng.uniform(0.1, 0.35), outline), Wire(ORGANIC, 0.4, closed(outline))]
    side, x, reach = float(rng.choice([-1, 1])), rng.uniform(-0.2, 0.2) * w, rng.uniform(0.8, 1.8)
    base = side * (h / 2 - 0.4)
    grip = smooth_path([(x - 6, base), (x - 4, base + side * reach), (x + 4, base + side * reach), (x + 6, base)])
    parts += [Wire(ORGANIC, 0.9, grip), Wire(INORGANIC, 0.35, grip)]
    parts += [Plate(METAL, 0.25, rectangle(1.4, 1.0, x + dx, base)) for dx in (-6, 6)]
    return parts


def _frame(rng: Rng, w: float, h: float, material: int) -> list[Part]:
    radius, diameter = rng.uniform(2.5, 5), rng.uniform(0.22, 0.38)
    shift = rng.normal(0, 0.7, 2)
    lines = [closed(rounded(w * 0.985, h * 0.975, radius)), closed(rounded(w * 0.965, h * 0.95, radius)) + shift]
    scale = 1.0 if material == METAL else 2.2
    return [Wire(material, diameter * scale, line, 0.7) for line in lines[: int(rng.integers(1, 3))]]


def _zip(rng: Rng, outline: Points, *, path: bool = False) -> list[Part]:
    """Two rows of teeth, the tape, and sliders with pulls."""
    line = smooth_path(outline) if path else closed(outline)
    parts: list[Part] = [Wire(ORGANIC, 0.3, line, 1.5), Wire(METAL, 0.14, line, rng.uniform(0.3, 0.6))]
    for _ in range(int(rng.integers(1, 3))):
        i = int(rng.integers(len(line) - 1))
        at = line[i] + rng.random() * (line[i + 1] - line[i])
        pull: list[Part] = [
            Plate(METAL, 0.35, rectangle(1.1, 0.9)),
            Plate(METAL, 0.2, rounded(2.8, 0.9, 0.4, 2.0), (ellipse(0.9, 0.45, 2.7, 0, 8),)),
        ]
        parts += moved(pull, rng.uniform(0, 2 * np.pi), float(at[0]), float(at[1]), tilt=rng.uniform(0, 0.9))
    return parts


def _telescopic_handle(rng: Rng, w: float, h: float) -> list[Part]:
    """Two hollow bars along the case and the grip's case at its end."""
    spread, width = rng.uniform(3.5, 7.0), rng.uniform(1.5, 2.3)
    start, end = -w / 2 + rng.uniform(0, 3), w / 2 - rng.uniform(1, 10)
    offset = rng.normal(0, h * 0.06)
    steel = rng.random() < 0.45
    parts: list[Part] = []
    for side in (-1, 1):
        y = offset + side * spread
        bar = rectangle(end - start, width, (start + end) / 2, y)
        edge = 0.3
        inner = rectangle(end - start, width - 2 * edge, (start + end) / 2, y)
        if steel:
            parts += [Plate(METAL, 0.2, bar), Plate(METAL, 0.25, bar, (inner,))]
        else:
            parts += [Plate(INORGANIC, 0.7, bar), Plate(INORGANIC, 0.7, bar, (inner,))]
        stop = rng.uniform(start + 5, end - 5)
        parts.append(Plate(METAL, 0.3, rectangle(1.2, width * 0.8, stop, y)))
        parts.append(Plate(METAL, 0.4, ellipse(0.5, 0.5, end - 0.8, y, 8)))
    parts.append(Plate(ORGANIC, 1.2, rounded(2.4, 2 * spread + width + 1, 0.8, start, offset)))
    parts.append(Wire(METAL, 0.3, points((start, offset - spread), (start, offset + spread)), 0.8))
    return parts


def _wheels(rng: Rng, w: float, h: float) -> list[Part]:
    parts: list[Part] = []
    r = rng.uniform(1.9, 2.7)
    inset = rng.uniform(0.5, 3.0)
    for y in (-h / 2 + inset + r, h / 2 - inset - r):
        centre = (w / 2 - 0.2 * r + rng.uniform(-0.5, 0.6), y)
        for k in range(int(rng.integers(1, 3))):
            x, yy = centre[0] - k * rng.uniform(0.4, 1.2), centre[1] + k * rng.uniform(-1.4, 1.4)
            ring = ellipse(2 * r, 2 * r * rng.uniform(0.55, 1.0), x, yy)
            parts += [
                Plate(ORGANIC, 1.2, ring, (ellipse(1.4 * r, 1.2 * r, x, yy, 14),)),
                Plate(ORGANIC, 0.5, ring),
                Plate(METAL, 0.45, ellipse(1.3, 1.3, x, yy, 10), (ellipse(0.5, 0.5, x, yy, 6),)),
                Wire(METAL, 0.5, points((x - 0.3, yy - r * 1.2), (x + 0.3, yy + r * 0.9)), 0.9),
            ]
        parts.append(Plate(ORGANIC, 0.4, rounded(5.5, 6, 1.4, w / 2 - 2.6, y)))
        for _ in range(5):
            sx, sy = rng.uniform(-2.4, 0.6) + w / 2 - 2, rng.uniform(-2.6, 2.6) + y
            parts.append(Plate(METAL, 0.35, ellipse(0.5, 0.5, float(sx), float(sy), 8)))
    return parts


def _straps(rng: Rng, w: float, h: float) -> list[Part]:
    parts: list[Part] = []
    for side in (-1, 1):
        knots = [
            (-w * 0.46, side * h * 0.15),
            (-w * 0.2, side * h * rng.uniform(0.2, 0.5)),
            (w * 0.2, side * h * rng.uniform(0.2, 0.5)),
            (w * 0.46, side * h * 0.4),
        ]
        line = smooth_path(knots)
        parts.append(Wire(ORGANIC, rng.uniform(1.8, 3.2), line, 0.3))
        at = line[int(rng.integers(4, len(line) - 2))]
        buckle: list[Part] = [
            Plate(ORGANIC, 0.8, rounded(3.4, 3.0, 0.5), (rectangle(1.0, 2.0, -0.6), rectangle(0.6, 2.0, 0.9))),
        ]
        if rng.random() < 0.6:
            buckle.append(Wire(METAL, 0.3, closed(rounded(3.2, 2.8, 0.5))))
        parts += moved(buckle, rng.uniform(0, np.pi), float(at[0]), float(at[1]))
    return parts


def _fittings(rng: Rng, w: float, h: float, count: int) -> list[Part]:
    """Screws, rivets and hinges, most of them near the rim."""
    parts: list[Part] = []
    for _ in range(count):
        x, y = rng.uniform(-0.5, 0.5, 2) * (w * 0.94, h * 0.94)
        if rng.random() < 0.6:
            y = float(np.sign(y) * h * rng.uniform(0.4, 0.48))
        if rng.random() < 0.6:
            parts.append(Plate(METAL, rng.uniform(0.15, 0.45), ellipse(0.55, 0.55, x, y, 8)))
        elif rng.random() < 0.6:
            screw: list[Part] = [Plate(METAL, 0.3, rectangle(1.2, 0.3)), Plate(METAL, 0.4, rectangle(0.3, 0.7, -0.6))]
            parts += moved(screw, rng.uniform(0, np.pi), x, y)
        else:
            hinge: list[Part] = [Plate(METAL, 0.18, rectangle(1.8, 1.2), (ellipse(0.4, 0.4, 0.5, 0, 6),))]
            parts += moved(hinge, rng.uniform(0, np.pi), x, y)
    return parts


# ---------------------------------------------------------------------------------------------------------- clothes


def _noise(rng: Rng, rows: int, columns: int, pixels_per_cm: float, cell_cm: float) -> NDArray[np.float32]:
    """Smooth noise of about unit variance with features of about `cell_cm`."""
    cell = max(cell_cm * pixels_per_cm, 1.5)
    coarse = rng.standard_normal((int(rows / cell) + 3, int(columns / cell) + 3), dtype=np.float32)
    fine = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(fine) * np.float32(1.35)


def _crumpled(rng: Rng, rows: int, columns: int, pixels_per_cm: float) -> NDArray[np.float32]:
    """The relative thickness of crumpled cloth, mean about 1: clouds, weave, and thin creases."""
    texture: NDArray[np.float32] = 0.9 + 0.22 * _noise(rng, rows, columns, pixels_per_cm, 5.0)
    texture += np.float32(0.08) * _noise(rng, rows, columns, pixels_per_cm, 1.5)
    texture += np.float32(0.09) * _noise(rng, rows, columns, pixels_per_cm, 0.5)
    # Where smooth noise crosses zero runs a long thin curve: a crease.
    for cell, width, height in ((11.0, 0.045, 0.6), (6.0, 0.07, 0.7), (3.0, 0.10, 0.5)):
        line = np.abs(_noise(rng, rows, columns, pixels_per_cm, cell))
        texture += np.float32(height) * np.maximum(1 - line / np.float32(width), 0)
    return np.maximum(texture, np.float32(0.1), out=texture)


def _pack_clothes(rng: Rng, canvas: Canvas, bag: _Bag, subpixels: int) -> None:
    """Layers of folded cloth: soft-edged pieces whose thickness varies in clouds and rises along creases."""
    rows, columns = canvas.thickness_cm.shape[1] // subpixels, canvas.thickness_cm.shape[2] // subpixels
    scale = canvas.subpixels_per_cm / subpixels
    # Each piece is cut from one field larger than the image, at a place and a turn of its own.
    fabric = _crumpled(rng, rows * 5 // 4, columns * 5 // 4, scale)
    fullness = rng.uniform(0.25, 0.85)
    total = np.zeros((2, rows, columns), dtype=np.float32)
    for i in range(int(rng.integers(5, 11))):
        w, h = bag.length * rng.uniform(0.2, 0.75), bag.height * rng.uniform(0.25, 0.75)
        if i == 0:  # one layer over nearly all of the bag
            w, h = bag.length * 0.88, bag.height * 0.86
        x, y = rng.uniform(-0.5, 0.5, 2) * (bag.length * 0.92 - w, bag.height * 0.92 - h)
        outline = wobbly(densified(rounded(w, h, rng.uniform(2, 9)), 2), rng, rng.uniform(0.3, 1.4))
        outline = np.clip(np.add(outline, (x, y)), *bag.inside())
        soft = _soft_mask(bag.to_view(outline) * scale, rows, columns, scale * rng.uniform(0.2, 0.9))
        top, left = (int(rng.integers(n // 4 + 1)) for n in (rows, columns))
        flip_y, flip_x = 1 - 2 * rng.integers(2, size=2)
        cut = fabric[top : top + rows, left : left + columns][::flip_y, ::flip_x]
        cloth = cut * soft * np.float32(rng.uniform(0.3, 1.9) * fullness)
        total[0] += cloth
        if i and rng.random() < 0.35:  # dyes, leather, moist things: heavier atoms
            total[1] += cloth * np.float32(rng.uniform(0.1, 0.5))
    for material, field in zip((ORGANIC, INORGANIC), total, strict=True):
        canvas.thickness_cm[material] += field.repeat(subpixels, axis=0).repeat(subpixels, axis=1)
    canvas.draw(bag.placed(_seams(rng, bag)))


def _seams(rng: Rng, bag: _Bag) -> list[Part]:
    """Hems, cords and the edges of folded cloth: long thin curves."""
    parts: list[Part] = []
    for _ in range(int(rng.integers(8, 22))):
        start = rng.uniform(-0.45, 0.45, 2) * (bag.length, bag.height)
        heading = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.3)
        turns = heading + np.cumsum(rng.normal(0, 0.25, 5))
        steps = rng.uniform(2, 6) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        path = np.clip(smooth_path(start + np.cumsum(steps, axis=0), 4), *bag.inside())
        material, diameter = (ORGANIC, rng.uniform(0.2, 0.6)) if rng.random() < 0.8 else (INORGANIC, 0.2)
        parts.append(Wire(material, diameter, path))
    return parts


def _soft_mask(outline: Points, rows: int, columns: int, softness_px: float) -> NDArray[np.float32]:
    """1 inside the outline, 0 outside, with an edge about `softness_px` wide: drawn small, then enlarged."""
    shrink = max(softness_px, 1.0)
    small = Image.new("L", (int(columns / shrink) + 1, int(rows / shrink) + 1))
    ImageDraw.Draw(small).polygon((outline / shrink).ravel().tolist(), fill=255)
    box = (0.0, 0.0, columns / shrink, rows / shrink)
    mask = small.resize((columns, rows), Image.Resampling.BICUBIC, box=box)
    return np.asarray(mask) * np.float32(1 / 255)


# ---------------------------------------------------------------------------------------------------------- contents


def _drawn(rng: Rng, makers: tuple[Maker, ...]) -> list[Part]:
    return makers[int(rng.integers(len(makers)))](rng)


def _put(
    rng: Rng, bag: _Bag, parts: list[Part], keep_clear: list[tuple[float, float, float]], tries: int
) -> list[Part]:
    """The object as it lies in the view: inside the bag, in the clearest of `tries` random places.

    `keep_clear` holds (x, y, radius) of what it should not cover; the object is added to it.
    """
    parts = moved(parts, rng.uniform(0, 2 * np.pi), mirrored=bool(rng.random() < 0.5))
    x0, y0, x1, y1 = extent(parts)
    shrink = min(1.0, (bag.length - 5) / (x1 - x0), (bag.height - 4) / (y1 - y0))
    room_x, room_y = (bag.length - 4) / 2 - shrink * (x1 - x0) / 2, (bag.height - 3) / 2 - shrink * (y1 - y0) / 2
    radius = shrink * float(np.hypot(x1 - x0, y1 - y0)) / 4
    best, place = -np.inf, (0.0, 0.0)
    for x, y in rng.uniform(-1, 1, (tries, 2)) * (max(room_x, 0.0), max(room_y, 0.0)):
        clear = min((np.hypot(x - cx, y - cy) - radius - r for cx, cy, r in keep_clear), default=0.0)
        if clear > best:
            best, place = clear, (float(x), float(y))
    keep_clear.append((*place, radius))
    return bag.placed(parts, place[0] - shrink * (x0 + x1) / 2, place[1] - shrink * (y0 + y1) / 2, shrink)


def _pack_objects(rng: Rng, canvas: Canvas, bag: _Bag, slot: tuple[float, float]) -> None:
    """Everything else. Dense objects stay clear of each other and of the slot where they can; light ones do not."""
    dense = [(*slot, _SLOT_RADIUS_CM)]
    for makers, low, high, tries in ((ELECTRONICS, 0, 2, 4), (DENSE, 0, 3, 6), (LIGHT, 2, 6, 1), (SMALL, 3, 7, 2)):
        for _ in range(int(rng.integers(low, high + 1))):
            clear = dense if tries > 2 else list(dense)
            canvas.draw(_put(rng, bag, _drawn(rng, makers), clear, tries))


_SLOT_RADIUS_CM: Final = 4.5


def _weighed(parts: list[Part]) -> tuple[float, float]:
    """Projected area (cm2) and volume (cm3) of an object's metal."""
    x0, y0, x1, y1 = extent(parts)
    fine = 4.0
    canvas = Canvas(int((y1 - y0) * fine) + 2, int((x1 - x0) * fine) + 2, fine)
    canvas.draw(moved([p for p in parts if p.material == METAL], x=-x0, y=-y0))
    metal = canvas.thickness_cm[METAL]
    return float(np.count_nonzero(metal > 0.02)) / fine**2, float(metal.sum()) / fine**2


def _slot(rng: Rng, bag: _Bag, place: tuple[float, float], threat: str | None) -> list[Part]:
    """The threat, or the harmless object in its place, in the bag's frame: at `place`, or as near as it fits."""
    kind, angle = KINDS[int(rng.integers(len(KINDS)))], float(rng.uniform(0, 2 * np.pi))
    parts = draw_threat(threat or kind, rng)
    if threat is None:
        area, volume = _weighed(parts)
        parts = _drawn(rng, DENSE)
        x0, y0, x1, y1 = extent(parts)
        parts = moved(parts, x=-(x0 + x1) / 2, y=-(y0 + y1) / 2)
        own_area, own_volume = _weighed(parts)
        scale = float(np.clip(np.sqrt(area / own_area), 0.65, 1.35))
        density = float(np.clip(volume / (own_volume * scale**3), 0.5, 2.5))
        parts = moved(parts, scale=scale, metal_density=density)
    parts = moved(parts, angle)
    x0, y0, x1, y1 = extent(parts)
    half = np.array([bag.length - 5, bag.height - 4]) / 2
    shrink = min(1.0, 2 * half[0] / (x1 - x0), 2 * half[1] / (y1 - y0))
    room = half - shrink * np.array([x1 - x0, y1 - y0]) / 2
    dx, dy = np.clip(place, -room, room) - shrink * np.array([x0 + x1, y0 + y1]) / 2
    return moved(parts, x=float(dx), y=float(dy), scale=shrink)
