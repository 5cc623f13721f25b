"""What travellers carry: a closed repertoire of harmless objects, each drawn at random around the origin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from vigil.images.baggage.materials import INORGANIC, METAL, ORGANIC
from vigil.images.baggage.shapes import (
    Lathe,
    Part,
    Plate,
    Wire,
    arc,
    closed,
    densified,
    ellipse,
    moved,
    points,
    rectangle,
    rounded,
    smooth_path,
    wobbly,
)

Rng = np.random.Generator
Maker = Callable[[Rng], list[Part]]

# ------------------------------------------------------------------------------------------------ light, mostly organic


def book(rng: Rng) -> list[Part]:
    w, h, t = rng.uniform(14, 21), rng.uniform(10, 15), rng.uniform(0.8, 2.2)
    return [
        Plate(ORGANIC, t, rectangle(w, h)),
        Plate(ORGANIC, 0.5, rectangle(w + 0.5, h + 0.5)),
        Plate(ORGANIC, t * 0.25, rectangle(w, 0.9, 0, -h / 2 + 0.4)),
    ]


def bottle(rng: Rng) -> list[Part]:
    """A drink: the liquid, the thin wall, the cap; lying, so that the level shows when it is not full."""
    length, r = rng.uniform(16, 24), rng.uniform(2.6, 3.8)
    at = (0, 0.04, 0.1, 0.38, 0.42, 0.46, 0.68, 0.86, 0.9, 1)
    shape = tuple(r * f for f in (0.8, 1, 1, 1, 0.94, 1, 1, 0.36, 0.36, 0.36))
    axis = points((-length / 2, 0), (length / 2, 0))
    full, glass = rng.uniform(0.55, 0.9), rng.random() < 0.25
    level = points((-length / 2, 0), (length * (full - 0.5), 0))
    depth = np.linspace(0, 1, 12)
    liquid = 0.97 * np.interp(depth * full, at, shape)
    return [
        Lathe(ORGANIC, level, tuple(depth.tolist()), tuple(liquid.tolist()), None, 0.8),
        Lathe(INORGANIC if glass else ORGANIC, axis, at, shape, 0.25 if glass else 0.08),
        Lathe(ORGANIC, points((length * 0.42, 0), (length / 2, 0)), (0, 1), (r * 0.42, r * 0.42), 0.3),
    ]


def toiletry(rng: Rng) -> list[Part]:
    """A shampoo bottle or a tube of cream."""
    length, r = rng.uniform(10, 17), rng.uniform(1.6, 2.8)
    if rng.random() < 0.5:
        body = points(
            (-length / 2, -r), (length * 0.35, -r * 0.8), (length * 0.4, 0), (length * 0.35, r * 0.8), (-length / 2, r)
        )
        return [
            Plate(ORGANIC, r * 1.1, body),
            Plate(ORGANIC, 0.6, rectangle(0.8, 2 * r + 0.2, -length / 2)),
            Lathe(ORGANIC, points((length * 0.36, 0), (length / 2, 0)), (0, 1), (r * 0.6, r * 0.6), 0.35),
        ]
    axis = points((-length / 2, 0), (length * 0.36, 0))
    return [
        Lathe(ORGANIC, axis, (0, 0.05, 0.8, 1), (r * 0.8, r, r, r * 0.5), None, 1.05),
        Lathe(ORGANIC, points((length * 0.34, 0), (length / 2, 0)), (0, 1), (r * 0.55, r * 0.5), 0.3),
        Wire(INORGANIC, 0.3, points((-length * 0.3, 0.2), (length * 0.3, -0.1)), 0.6),
    ]


def fruit(rng: Rng) -> list[Part]:
    parts: list[Part] = []
    f = np.linspace(0, 1, 13)
    for _ in range(int(rng.integers(1, 4))):
        r = rng.uniform(2.2, 3.6)
        x, y = rng.uniform(-4, 4, 2)
        ball = tuple((r * np.sqrt(np.maximum(1 - (2 * f - 1) ** 2, 0))).tolist())
        parts.append(Lathe(ORGANIC, points((x - r, y), (x + r, y)), tuple(f.tolist()), ball, None, 0.8))
    return parts


def packets(rng: Rng) -> list[Part]:
    """Soap, powder or salt: rounded lumps of heavier atoms, which scan green."""
    parts: list[Part] = []
    along = np.linspace(0, 1, 11)
    bulge = np.sqrt(np.maximum(1 - (2 * along - 1) ** 4, 0))
    r, length = rng.uniform(1.6, 3.0), rng.uniform(5, 9)
    for i in range(int(rng.integers(1, 5))):
        y = i * (2 * r + 0.4) + rng.normal(0, 0.2)
        axis = points((-length / 2, y), (length / 2, y + rng.normal(0, 0.4)))
        radii = tuple((r * bulge).tolist())
        parts.append(Lathe(INORGANIC, axis, tuple(along.tolist()), radii, None, rng.uniform(0.1, 0.3)))
        parts.append(Lathe(ORGANIC, axis, tuple(along.tolist()), radii, None, 0.3))
    return parts


def blister(rng: Rng) -> list[Part]:
    """Strips of pills, or a case of beads: a grid of small discs under foil."""
    columns, rows, step = int(rng.integers(5, 9)), int(rng.integers(2, 6)), rng.uniform(1.3, 1.8)
    w, h = columns * step, rows * step
    parts: list[Part] = [Plate(ORGANIC, 0.3, rounded(w + 1, h + 1, 0.5)), Wire(ORGANIC, 0.3, closed(rectangle(w, h)))]
    for x in (np.arange(columns) - (columns - 1) / 2) * step:
        for y in (np.arange(rows) - (rows - 1) / 2) * step:
            parts.append(Plate(INORGANIC, 0.35, ellipse(step * 0.7, step * 0.7, x, y, 8)))
    return parts


def food(rng: Rng) -> list[Part]:
    """A pack of biscuits or sweets: many small lumps in a bag."""
    w, h = rng.uniform(10, 16), rng.uniform(7, 11)
    bag = wobbly(densified(rounded(w, h, 1.5)), rng, 0.3)
    parts: list[Part] = [Plate(ORGANIC, 0.15, bag), Wire(ORGANIC, 0.3, closed(bag))]
    for x in np.arange(-w / 2 + 1.6, w / 2 - 1, 2.3):
        for y in np.arange(-h / 2 + 1.6, h / 2 - 1, 2.3):
            dx, dy = rng.uniform(-0.3, 0.3, 2)
            parts.append(Plate(ORGANIC, rng.uniform(0.8, 1.8), ellipse(2.1, 1.9, x + dx, y + dy, 10)))
    return parts


def shoe(rng: Rng) -> list[Part]:
    length = rng.uniform(24, 29)
    s = length / 27
    sole = smooth_path(
        np.array(
            [
                (-13, 0),
                (-12, -3.4),
                (-7, -3.6),
                (0, -3.0),
                (7, -4.4),
                (12, -3.2),
                (13.5, 0),
                (11, 3.4),
                (6, 4.2),
                (-1, 3.0),
                (-8, 3.4),
                (-12.4, 2.6),
                (-13, 0),
            ]
        )
        * s
    )
    parts: list[Part] = [
        Plate(ORGANIC, rng.uniform(1.2, 2.2), sole),
        Plate(
            ORGANIC,
            rng.uniform(0.8, 1.6),
            smooth_path(np.array([(-13, 0), (-12, -3.2), (-7, -3.3), (-6, 0), (-7, 3.2), (-12, 2.6), (-13, 0)]) * s),
        ),
        Wire(ORGANIC, 0.6, sole),
        Wire(ORGANIC, 0.5, sole * 0.86),
    ]
    for x in np.arange(-11, 12, 1.3) * s:
        parts.append(Wire(ORGANIC, 0.35, points((x, -2.6 * s), (x + 0.5, 2.6 * s)), 0.7))
    if rng.random() < 0.5:  # shank and eyelets
        parts.append(Plate(METAL, 0.08, rounded(8 * s, 1.2, 0.5, -3 * s, 0)))
    for x in np.arange(2, 8, 1.5) * s:
        for y in (-1.1, 1.1):
            parts.append(Plate(METAL, 0.1, ellipse(0.6, 0.6, x, y, 8)))
    return parts


def toy(rng: Rng) -> list[Part]:
    """A soft bear with plastic eyes, or bricks."""
    if rng.random() < 0.5:
        parts: list[Part] = [Plate(ORGANIC, 1.0, ellipse(9, 11, 0, 3)), Plate(ORGANIC, 1.2, ellipse(7, 6.5, 0, -5))]
        for x, y, r in ((-3, -8, 2.4), (3, -8, 2.4), (-5, 1, 3), (5, 1, 3), (-3, 9, 3.6), (3, 9, 3.6)):
            parts.append(Plate(ORGANIC, 0.9, ellipse(r, r * 1.2, x, y, 12)))
        parts += [Plate(INORGANIC, 0.5, ellipse(0.8, 0.8, x, -5.5, 8)) for x in (-1.2, 1.2)]
        return moved(parts, scale=float(rng.uniform(0.7, 1.1)))
    parts = []
    for _ in range(int(rng.integers(4, 9))):
        w = float(rng.choice([1.6, 3.2, 6.4]))
        brick: list[Part] = [
            Plate(ORGANIC, 0.5, rectangle(w, 1.6), (rectangle(w - 0.4, 1.2),)),
            Plate(ORGANIC, 0.3, rectangle(w, 1.6)),
        ]
        brick += [Plate(ORGANIC, 0.4, ellipse(0.9, 0.9, x, 0, 8)) for x in np.arange(-w / 2 + 0.8, w / 2, 1.6)]
        parts += moved(brick, rng.uniform(0, np.pi), *rng.uniform(-5, 5, 2))
    return parts


def cosmetics(rng: Rng) -> list[Part]:
    """A wash bag: jars, a lipstick, a compact with a mirror, a perfume bottle, a mascara."""
    w, h = rng.uniform(15, 20), rng.uniform(10, 13)
    parts: list[Part] = [
        Plate(ORGANIC, 0.25, rounded(w, h, 2)),
        Wire(ORGANIC, 0.35, closed(rounded(w, h, 2))),
        Wire(METAL, 0.16, points((-w / 2 + 1, -h / 2 + 0.6), (w / 2 - 1, -h / 2 + 0.6)), 0.6),
    ]
    things: list[list[Part]] = [
        [
            Plate(INORGANIC, 0.5, ellipse(6, 6), (ellipse(5.2, 5.2),)),
            Plate(INORGANIC, 0.25, ellipse(5.2, 5.2)),
            Plate(ORGANIC, 1.0, ellipse(5.6, 5.6)),
        ],
        [
            Lathe(METAL, points((-3.2, 0), (0.6, 0)), (0, 1), (0.9, 0.9), 0.05),
            Lathe(ORGANIC, points((-3, 0), (3, 0)), (0, 0.9, 1), (0.7, 0.7, 0.3)),
        ],
        [
            Plate(INORGANIC, 0.9, rounded(4, 5.5, 0.6), (rounded(3.0, 4.5, 0.4),)),
            Plate(ORGANIC, 2.0, rounded(3.0, 4.5, 0.4)),
            Plate(INORGANIC, 0.3, rounded(4, 5.5, 0.6)),
            Lathe(METAL, points((-0.8, -4), (0.8, -4)), (0, 1), (0.7, 0.7), 0.05),
        ],
        [Lathe(ORGANIC, points((-5.5, 0), (5.5, 0)), (0, 1), (0.75, 0.75)), Wire(METAL, 0.14, points((-1, 0), (5, 0)))],
        [
            Lathe(INORGANIC, points((-2, 0), (1.2, 0)), (0, 1), (2.4, 2.4), 0.35),
            Lathe(ORGANIC, points((-2, 0), (2, 0)), (0, 1), (2.1, 2.1)),
        ],
    ]
    for i in rng.permutation(len(things))[: int(rng.integers(3, 6))]:
        parts += moved(
            things[int(i)],
            rng.uniform(0, 2 * np.pi),
            rng.uniform(-w / 2 + 3, w / 2 - 3),
            rng.uniform(-h / 2 + 2.5, h / 2 - 2.5),
        )
    return parts


def wallet(rng: Rng) -> list[Part]:
    parts: list[Part] = [
        Plate(ORGANIC, 1.2, rounded(11, 9, 0.8)),
        Plate(ORGANIC, 0.8, rounded(10, 4.2, 0.4, 0, 2)),
        Wire(ORGANIC, 0.3, points((-5.5, 0), (5.5, 0))),
    ]
    for _ in range(int(rng.integers(2, 7))):
        parts += _coin(rng, *rng.uniform(-3.4, 3.4, 2))
    return parts


# -------------------------------------------------------------------------------------------- small metal, wires, clips


def _coin(rng: Rng, x: float, y: float) -> list[Part]:
    r = rng.uniform(0.85, 1.3)
    return moved(
        [Plate(METAL, rng.uniform(0.15, 0.25), ellipse(2 * r, 2 * r, 0, 0, 14))],
        rng.uniform(0, np.pi),
        x,
        y,
        tilt=rng.uniform(0, 1.1),
    )


def coins(rng: Rng) -> list[Part]:
    parts: list[Part] = []
    for _ in range(int(rng.integers(3, 9))):
        parts += _coin(rng, *rng.normal(0, 2.0, 2))
    return parts


def keys(rng: Rng) -> list[Part]:
    parts: list[Part] = [Wire(METAL, 0.22, closed(ellipse(2.8, 2.8)))]
    for angle in rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.7, int(rng.integers(2, 6))):
        length, bow = rng.uniform(3.2, 4.6), rng.uniform(2.0, 2.6)
        teeth = [(0.0, 0.45)]
        for i in range(5):
            teeth += [(length * (0.35 + 0.12 * i), 0.45), (length * (0.41 + 0.12 * i), rng.uniform(0.05, 0.3))]
        blade = points((0, -0.45), (length, -0.45), (length + 0.3, 0), *reversed(teeth))
        key: list[Part] = [
            Plate(METAL, 0.22, ellipse(bow, bow * 1.05, -bow * 0.45, 0, 14), (ellipse(0.6, 0.6, -bow * 0.75, 0, 8),)),
            Plate(METAL, 0.22, blade),
        ]
        parts += moved(key, angle, 2.4 * np.cos(angle), 2.4 * np.sin(angle))
    if rng.random() < 0.4:
        parts += moved(
            [
                Plate(ORGANIC, 1.0, rounded(5.5, 3.2, 1.2)),
                Plate(METAL, 0.15, rectangle(2.5, 1.8)),
                Plate(METAL, 0.3, ellipse(2, 2, 1, 0, 12)),
            ],
            rng.uniform(0, 6),
            *rng.uniform(-3, 3, 2),
        )
    return parts


def cable(rng: Rng) -> list[Part]:
    """A coiled charging cable with a plug at each end."""
    turns, r = rng.uniform(1.5, 3.2), rng.uniform(2.2, 4.5)
    angle = np.linspace(0, 2 * np.pi * turns, int(16 * turns))
    radius = r * (1 + 0.12 * np.sin(angle * 0.7 + rng.uniform(0, 6)) + rng.normal(0, 0.04, angle.size))
    path = np.stack([radius * np.cos(angle) * rng.uniform(1, 1.7), radius * np.sin(angle)], axis=1)
    path = np.concatenate([path, path[-1:] + np.cumsum(rng.normal(0.8, 0.7, (4, 2)), axis=0)])
    path = smooth_path(path, 3)
    parts: list[Part] = [Wire(ORGANIC, 0.4, path), Wire(METAL, 0.13, path)]
    for end, before in ((path[0], path[3]), (path[-1], path[-4])):
        a = float(np.arctan2(*(end - before)[::-1]))
        parts += moved(
            [Plate(METAL, 0.15, rectangle(1.2, 0.9, 1.2)), Plate(ORGANIC, 0.8, rectangle(2, 1.2))],
            a,
            float(end[0]),
            float(end[1]),
        )
    return parts


def glasses(rng: Rng) -> list[Part]:
    parts: list[Part] = []
    for x in (-3.3, 3.3):
        lens = rounded(5.2, 3.8, 1.6, x, 0)
        parts += [Plate(ORGANIC, 0.3, lens), Wire(METAL, 0.16, closed(lens))]
    parts += [
        Wire(METAL, 0.18, smooth_path([(-0.8, -0.6), (0, -1.1), (0.8, -0.6)])),
        Wire(METAL, 0.15, points((-5.8, -1.2), (5.5, 1.8))),
        Wire(METAL, 0.15, points((5.8, -1.2), (-5.5, 2.0))),
    ]
    if rng.random() < 0.5:
        parts += [
            Plate(ORGANIC, 0.5, rounded(16, 6.5, 3), (rounded(15.2, 5.7, 2.6),)),
            Plate(METAL, 0.06, rounded(15.6, 6.1, 2.8)),
        ]
    return parts


def belt(rng: Rng) -> list[Part]:
    """A rolled or loosely laid belt with a frame buckle and eyelets."""
    if rng.random() < 0.5:
        turns = rng.uniform(2.5, 4)
        a = np.linspace(0, 2 * np.pi * turns, int(14 * turns))
        r = 1.6 + 0.42 * a / np.pi
        path = np.stack([r * np.cos(a), r * np.sin(a)], axis=1)
        parts: list[Part] = [Wire(ORGANIC, 0.45, path, 4.0)]
    else:
        path = smooth_path(
            np.cumsum(np.concatenate([rng.uniform(-8, -4, (1, 2)), rng.normal((4, 1), 2.5, (5, 2))]), axis=0)
        )
        parts = [Wire(ORGANIC, 2.8, path, 0.14)]
        parts += [Plate(METAL, 0.1, ellipse(0.5, 0.5, float(p[0]), float(p[1]), 8)) for p in path[2:12:2]]
    end, before = path[-1], path[-4]
    buckle: list[Part] = [
        Plate(METAL, 0.35, rounded(4.4, 4.0, 0.8), (rounded(3.3, 2.9, 0.5),)),
        Wire(METAL, 0.35, points((-1.9, 0), (2.1, 0.1))),
        Lathe(METAL, points((-1.9, -1.9), (-1.9, 1.9)), (0, 1), (0.3, 0.3)),
    ]
    return parts + moved(
        buckle, float(np.arctan2(*(end - before)[::-1])), float(end[0]), float(end[1]), tilt=rng.uniform(0, 1.0)
    )


def clips(rng: Rng) -> list[Part]:
    """Loose small metal: zip pulls, rings, safety pins, bottle caps."""
    parts: list[Part] = []
    for _ in range(int(rng.integers(2, 6))):
        which = int(rng.integers(4))
        small: list[Part]
        if which == 0:
            small = [
                Plate(METAL, 0.2, rounded(2.6, 0.9, 0.4), (ellipse(0.8, 0.45, 0.7, 0, 8),)),
                Plate(METAL, 0.4, rectangle(1.0, 1.0, -1.6)),
            ]
        elif which == 1:
            small = [Wire(METAL, 0.3, closed(rounded(2.4, 1.9, 0.4)))]
        elif which == 2:
            small = [
                Wire(METAL, 0.13, smooth_path([(2, 0.3), (-1.6, 0.5), (-2, 0), (-1.6, -0.5), (2, -0.4)])),
                Plate(METAL, 0.15, ellipse(0.9, 1.1, 2, 0, 8)),
            ]
        else:
            small = [Plate(METAL, 0.05, ellipse(2.8, 2.8)), Plate(METAL, 0.25, ellipse(3.0, 3.0), (ellipse(2.4, 2.4),))]
        parts += moved(small, rng.uniform(0, 2 * np.pi), *rng.normal(0, 5, 2), tilt=rng.uniform(0, 0.8))
    return parts


def hanger(rng: Rng) -> list[Part]:
    w = rng.uniform(26, 34)
    path = smooth_path([(-w / 2, 5), (-w / 4, 1.5), (0, -1), (w / 4, 1.5), (w / 2, 5)])
    hook = smooth_path([(0, -1), (0, -4), (1.6, -5.5), (2.4, -7), (0.6, -8.6), (-1.2, -7.6)])
    if rng.random() < 0.5:
        return [Wire(METAL, 0.25, path), Wire(METAL, 0.25, points((-w / 2, 5), (w / 2, 5))), Wire(METAL, 0.25, hook)]
    return [Wire(ORGANIC, 1.2, path), Wire(METAL, 0.3, hook)]


def earphones(rng: Rng) -> list[Part]:
    path = smooth_path(np.cumsum(rng.normal(0, 3.0, (14, 2)), axis=0) * 0.55, 5)
    path -= path.mean(axis=0)
    parts: list[Part] = [Wire(ORGANIC, 0.25, path), Wire(METAL, 0.09, path)]
    for p in (path[0], path[4]):
        parts += [
            Plate(METAL, 0.4, ellipse(0.9, 0.9, float(p[0]), float(p[1]), 8)),
            Plate(ORGANIC, 1.0, ellipse(1.6, 1.6, float(p[0]), float(p[1]), 10)),
        ]
    parts.append(Lathe(METAL, np.stack([path[-1], path[-1] + (1.6, 0.4)]), (0, 1), (0.17, 0.17)))
    return parts


# ---------------------------------------------------------------------------------------------------------- electronics


def _board(rng: Rng, w: float, h: float, count: int, x: float = 0.0, y: float = 0.0) -> list[Part]:
    """A circuit board: laminate, and chips, capacitors and connectors on a grid."""
    parts: list[Part] = [Plate(INORGANIC, 0.22, rectangle(w, h, x, y)), Plate(METAL, 0.012, rectangle(w, h, x, y))]
    for _ in range(count):
        cw, ch = rng.uniform(0.4, 2.2, 2)
        cx, cy = np.round(rng.uniform(-0.5, 0.5, 2) * (w - cw, h - ch) / 0.5) * 0.5
        chip = int(rng.integers(3))
        if chip == 0:
            parts.append(Plate(METAL, rng.uniform(0.03, 0.15), rectangle(cw, ch, x + cx, y + cy)))
        elif chip == 1:
            parts.append(Plate(METAL, rng.uniform(0.15, 0.35), ellipse(cw * 0.6, cw * 0.6, x + cx, y + cy, 8)))
        else:
            parts.append(Plate(INORGANIC, rng.uniform(0.3, 0.9), rectangle(cw * 1.3, ch, x + cx, y + cy)))
    return parts


def laptop(rng: Rng) -> list[Part]:
    w, h = rng.uniform(28, 34), rng.uniform(20, 23.5)
    parts: list[Part] = [
        Plate(INORGANIC, 0.28, rounded(w, h, 1.2)),
        Plate(ORGANIC, 0.8, rounded(w, h, 1.2)),
        Wire(METAL, 0.16, closed(rounded(w - 0.4, h - 0.4, 1.0)), 0.7),
        Lathe(METAL, points((-w * 0.4, -h / 2 + 0.8), (w * 0.4, -h / 2 + 0.8)), (0, 1), (0.35, 0.35), 0.15),
        *_board(rng, w * 0.62, h * 0.38, 22, -w * 0.1, -h * 0.2),
        *_board(rng, w * 0.2, h * 0.22, 6, w * 0.34, h * 0.1),
        Plate(METAL, 0.05, rectangle(w * 0.3, 0.9, 0.0, -h * 0.06)),
    ]
    for i in range(int(rng.integers(3, 6))):
        parts.append(Plate(METAL, 0.1, rounded(w * 0.15, h * 0.28, 0.4, -w * 0.36 + i * w * 0.16, h * 0.3)))
    fan = (w * 0.3, -h * 0.28)
    parts += [Wire(METAL, 0.2, closed(ellipse(5, 5, *fan))), Plate(METAL, 0.4, ellipse(1.8, 1.8, *fan, 10))]
    parts += [
        Plate(METAL, 0.4, ellipse(0.45, 0.45, sx * (w / 2 - 0.9), sy * (h / 2 - 0.9), 6))
        for sx in (-1, 0, 1)
        for sy in (-1, 1)
    ]
    return parts


def phone(rng: Rng) -> list[Part]:
    w, h = rng.uniform(13, 16), rng.uniform(6.6, 7.8)
    return [
        Plate(INORGANIC, 0.4, rounded(w, h, 0.9)),
        Wire(METAL, 0.16, closed(rounded(w, h, 0.9)), 0.7),
        Plate(METAL, 0.08, rounded(w * 0.5, h * 0.6, 0.3, -w * 0.1, h * 0.1)),
        *_board(rng, w * 0.3, h * 0.8, 7, w * 0.32, 0),
        Plate(METAL, 0.3, ellipse(1.1, 1.1, w * 0.4, -h * 0.3, 10)),
    ]


def tablet(rng: Rng) -> list[Part]:
    w, h = rng.uniform(20, 25), rng.uniform(14, 18)
    return [
        Plate(INORGANIC, 0.35, rounded(w, h, 1.0)),
        Wire(METAL, 0.15, closed(rounded(w, h, 1.0)), 0.7),
        *(Plate(METAL, 0.06, rounded(w * 0.3, h * 0.6, 0.4, x * w, 0)) for x in (-0.28, 0.06)),
        *_board(rng, w * 0.16, h * 0.8, 10, w * 0.36, 0),
    ]


def headphones(rng: Rng) -> list[Part]:
    band = arc(8, np.pi, 2 * np.pi) * (1, rng.uniform(0.7, 1.1))
    parts: list[Part] = [Wire(METAL, 0.2, band), Wire(ORGANIC, 1.2, band, 0.7)]
    for x in (-8, 8):
        parts += [
            Plate(ORGANIC, 1.6, ellipse(4.5, 7, x, 2)),
            Plate(METAL, 0.35, ellipse(2.6, 2.8, x, 2)),
            Wire(METAL, 0.12, closed(ellipse(3.8, 6, x, 2))),
        ]
    return parts


# ------------------------------------------------- dense objects: the ones that a threat stands in for (see `bag.py`)


def umbrella(rng: Rng) -> list[Part]:
    """A folded telescopic umbrella: shaft, ribs, canopy, handle."""
    length = rng.uniform(17, 24)
    x = length / 2
    parts: list[Part] = [
        Lathe(METAL, points((-x, 0), (x * 0.9, 0)), (0, 0.5, 0.5, 1), (0.5, 0.5, 0.4, 0.4), 0.12),
        Lathe(ORGANIC, points((-x * 0.7, 0), (x, 0)), (0, 0.2, 0.9, 1), (1.6, 2.2, 2.0, 0.8), None, 0.35),
        Lathe(ORGANIC, points((-x * 1.15, 0), (-x * 0.7, 0)), (0, 0.1, 1), (1.0, 1.3, 1.1), None, 0.8),
        Plate(METAL, 0.5, rectangle(1.0, 1.6, x * 0.75, 0)),
        Plate(METAL, 0.4, rectangle(0.9, 1.4, -x * 0.55, 0)),
    ]
    for y in np.linspace(-1.5, 1.5, 7):
        parts.append(
            Wire(
                METAL, 0.24, smooth_path([(x * 0.75, y * 0.3), (x * 0.3, y), (-x * 0.55, y * 0.9 + rng.normal(0, 0.1))])
            )
        )
        parts.append(Wire(METAL, 0.18, points((x * 0.1, y * 1.1), (-x * 0.5, y * 0.4))))
    return parts


def torch(rng: Rng) -> list[Part]:
    length = rng.uniform(12, 19)
    x = length / 2
    return [
        Lathe(INORGANIC, points((-x, 0), (x, 0)), (0, 0.02, 0.68, 0.78, 1), (1.5, 1.7, 1.7, 2.5, 2.5), 0.3),
        *(
            Lathe(
                METAL,
                points((-x * 0.94 + i * length * 0.3, 0), (-x * 0.94 + (i + 0.95) * length * 0.3, 0)),
                (0, 0.04, 0.96, 1),
                (0.6, 1.3, 1.3, 0.8),
                None,
                0.25,
            )
            for i in range(2)
        ),
        Lathe(METAL, points((x * 0.5, 0), (x * 0.95, 0)), (0, 1), (0.5, 2.2), 0.08),
    ]


def rods(rng: Rng) -> list[Part]:
    """A bundle of tubes: tent poles, a folded tripod, a rolled blind."""
    count, length, r = int(rng.integers(3, 7)), rng.uniform(14, 24), rng.uniform(0.35, 0.6)
    parts: list[Part] = []
    for y in (np.arange(count) - (count - 1) / 2) * (2 * r + 0.12):
        a, b = (-length / 2 + rng.normal(0, 0.4), length / 2 + rng.normal(0, 0.4))
        parts.append(Lathe(METAL, points((a, y), (b, y + rng.normal(0, 0.15))), (0, 1), (r, r), 0.09))
    for x in rng.uniform(-0.4, 0.4, 2) * length:
        parts.append(Plate(METAL, 0.15, rectangle(0.9, count * (2 * r + 0.12), x, 0)))
    return parts


def tin(rng: Rng) -> list[Part]:
    """A drink or food can: thin steel wall, rims, contents."""
    length, r = rng.uniform(8, 13), rng.uniform(2.8, 3.6)
    x = length / 2
    axis = points((-x, 0), (x, 0))
    parts: list[Part] = [
        Lathe(METAL, axis, (0, 0.06, 0.94, 1), (r * 0.88, r, r, r * 0.88), 0.04),
        Lathe(ORGANIC, points((-x * 0.95, 0), (x * 0.8, 0)), (0, 1), (r * 0.97, r * 0.97), None, 0.9),
    ]
    parts += [
        Lathe(METAL, points((s * x - 0.15, 0), (s * x + 0.15, 0)), (0, 1), (r * 0.9, r * 0.9), 0.25) for s in (-1, 1)
    ]
    return moved(parts, tilt=rng.uniform(0, 0.6), tilt_axis=np.pi / 2)


def spray(rng: Rng) -> list[Part]:
    """An aerosol can with valve and cap."""
    length, r = rng.uniform(13, 19), rng.uniform(2.0, 2.7)
    x = length / 2
    return [
        Lathe(METAL, points((-x, 0), (x * 0.7, 0)), (0, 0.03, 0.9, 1), (r * 0.9, r, r, r * 0.45), 0.05),
        Lathe(METAL, points((-x, 0), (-x + 0.6, 0)), (0, 1), (r, r), 0.2),
        Lathe(ORGANIC, points((-x * 0.95, 0), (x * 0.2, 0)), (0, 1), (r * 0.93, r * 0.93), None, 0.75),
        Lathe(METAL, points((x * 0.62, 0), (x * 0.8, 0)), (0, 1), (0.5, 0.35), None, 0.7),
        Lathe(ORGANIC, points((x * 0.6, 0), (x, 0)), (0, 0.9, 1), (r * 0.95, r * 0.9, r * 0.6), 0.2),
        Wire(ORGANIC, 0.25, points((x * 0.6, 0), (-x * 0.9, -r * 0.5))),
    ]


def hair_dryer(rng: Rng) -> list[Part]:
    """Motor, heating coil, shell, handle and a folded cord."""
    parts: list[Part] = [
        Lathe(ORGANIC, points((-8, 0), (9, 0)), (0, 0.15, 0.6, 1), (2.6, 3.6, 3.0, 2.2), 0.3),
        Plate(ORGANIC, 0.7, points((-4, 2), (-0.5, 2), (0.3, 11), (-2.8, 11.5))),
        Lathe(METAL, points((-6.5, 0), (-2.5, 0)), (0, 0.1, 0.9, 1), (0.8, 1.8, 1.8, 0.6), None, 0.3),
        Plate(METAL, 0.15, rectangle(1.4, 3.5, -1.6, 6.5)),
    ]
    for x in np.arange(-1, 7, 1.0):
        parts.append(Wire(METAL, 0.22, points((x, -2.0), (x + 0.5, 2.0))))
    cord = smooth_path([(-1.4, 11), *(tuple(v) for v in (rng.normal((0, 9), (5, 2.5), (6, 2))).tolist())], 5)
    return [*parts, Wire(METAL, 0.16, cord), Wire(ORGANIC, 0.5, cord)]


def camera(rng: Rng) -> list[Part]:
    parts: list[Part] = [
        Plate(ORGANIC, 1.2, rounded(12, 8, 1)),
        Plate(INORGANIC, 0.7, rounded(12, 8, 1)),
        *_board(rng, 9, 6, 10),
    ]
    r = rng.uniform(2.4, 3.4)
    for f, t in ((1.0, 0.5), (0.78, 0.35), (0.5, 0.3)):
        parts.append(
            Plate(METAL, t, ellipse(2 * r * f, 2 * r * f, 1, 0.3), (ellipse(2 * r * f - 0.7, 2 * r * f - 0.7, 1, 0.3),))
        )
    parts += [
        Plate(INORGANIC, 1.5, ellipse(r, r, 1, 0.3)),
        Plate(METAL, 0.3, rounded(2.4, 5, 0.3, -4.4, 0.5)),
        Plate(METAL, 0.25, rectangle(3, 1.2, 1, -3.9)),
    ]
    return parts


def padlock(rng: Rng) -> list[Part]:
    w = rng.uniform(4.0, 6.0)
    shackle = np.concatenate(
        [points((-w * 0.32, 0)), arc(w * 0.32, np.pi, 2 * np.pi, 0, -w * 0.5), points((w * 0.32, 0))]
    )
    parts: list[Part] = [
        Plate(
            METAL, rng.uniform(0.6, 1.0), rounded(w, w * 0.85, 0.5, 0, w * 0.42), (ellipse(0.5, 1.0, 0, w * 0.5, 8),)
        ),
        Wire(METAL, 0.7, shackle),
    ]
    if rng.random() < 0.5:  # a cable lock
        loop = smooth_path([(-w * 0.3, -w * 0.3), (-6, -6), (-1, -10), (6, -7), (w * 0.3, -w * 0.3)])
        parts.append(Wire(METAL, 0.45, loop))
    return parts


def power_bank(rng: Rng) -> list[Part]:
    n = int(rng.integers(2, 5))
    parts: list[Part] = [Plate(ORGANIC, 0.5, rounded(12, n * 2.0 + 1, 0.6)), *_board(rng, 2.4, n * 1.8, 5, 4.6, 0)]
    for y in (np.arange(n) - (n - 1) / 2) * 1.95:
        parts.append(Lathe(METAL, points((-5.4, y), (2.8, y)), (0, 0.03, 0.97, 1), (0.5, 0.92, 0.92, 0.9), None, 0.22))
    return parts


def adapter(rng: Rng) -> list[Part]:
    """A mains adapter: transformer or coil, capacitors, heat sink, a coil of cord."""
    w, h = rng.uniform(9, 12), rng.uniform(4.5, 6)
    parts: list[Part] = [Plate(ORGANIC, 0.7, rounded(w, h, 0.6)), *_board(rng, w * 0.9, h * 0.85, 8)]
    x = rng.uniform(-w * 0.2, w * 0.2)
    parts += [
        Plate(METAL, 0.8, rectangle(2.6, 3.0, x, 0)),
        Plate(METAL, 0.5, rectangle(1.5, 3.6, x, 0)),
        Lathe(METAL, points((-w * 0.4, h * 0.2), (-w * 0.2, h * 0.2)), (0, 1), (0.8, 0.8), None, 0.2),
        Plate(METAL, 0.15, rectangle(w * 0.6, 0.6, 0, -h * 0.35)),
    ]
    angle = np.linspace(0, 2 * np.pi * 2.4, 40)
    cord = np.stack(
        [w / 2 + 4 + 3.6 * np.cos(angle) + rng.normal(0, 0.2, 40), 2.4 * np.sin(angle) + 0.05 * angle], axis=1
    )
    return [*parts, Wire(METAL, 0.18, cord), Wire(ORGANIC, 0.5, cord)]


def alarm_clock(rng: Rng) -> list[Part]:
    parts: list[Part] = [
        Plate(METAL, 0.08, ellipse(8, 8)),
        Plate(METAL, 0.7, ellipse(8.4, 8.4), (ellipse(7.4, 7.4),)),
        Plate(INORGANIC, 0.3, ellipse(7, 7)),
    ]
    for x, y, r in ((0.0, 0.0, 2.6), (1.4, 1.2, 1.6), (-1.3, 1.0, 2.0), (0.4, -1.6, 1.4)):
        parts.append(
            Plate(METAL, rng.uniform(0.2, 0.45), ellipse(r, r, x, y, 14), (ellipse(r * 0.3, r * 0.3, x, y, 6),))
        )
    parts += [Plate(METAL, 0.5, ellipse(3.0, 2.0, x, -4.6, 12)) for x in (-2.6, 2.6)]
    parts += [Wire(METAL, 0.4, points((x, 3.6), (x * 1.3, 5.0))) for x in (-2.2, 2.2)]
    return parts


def shaver(rng: Rng) -> list[Part]:
    parts: list[Part] = [
        Lathe(ORGANIC, points((-7.5, 0), (6, 0)), (0, 0.1, 0.6, 1), (1.8, 2.4, 2.2, 2.6), 0.3),
        Lathe(METAL, points((-5.5, 0), (-0.5, 0)), (0, 0.03, 0.97, 1), (0.4, 0.75, 0.75, 0.7), None, 0.3),
        Lathe(METAL, points((0.6, 0), (3.6, 0)), (0, 0.05, 0.95, 1), (0.5, 1.2, 1.2, 0.4), None, 0.35),
        *_board(rng, 6, 2.4, 5, -2, 0),
    ]
    for y in (-1.7, 0, 1.7):
        parts += [
            Plate(METAL, 0.5, ellipse(1.9, 1.9, 6.6, y, 14), (ellipse(0.9, 0.9, 6.6, y, 8),)),
            Plate(METAL, 0.15, ellipse(1.9, 1.9, 6.6, y, 14)),
        ]
    return parts


def chain(rng: Rng) -> list[Part]:
    """A chain of rings: a bag's strap or a necklace."""
    path = smooth_path(np.cumsum(rng.normal((1.2, 0), (2.2, 2.8), (7, 2)), axis=0), 8)
    path -= path.mean(axis=0)
    step = np.r_[0, np.cumsum(np.hypot(*np.diff(path, axis=0).T))]
    at = np.arange(0, step[-1], 1.15)
    xs, ys = np.interp(at, step, path[:, 0]), np.interp(at, step, path[:, 1])
    parts: list[Part] = []
    for i, (x, y) in enumerate(zip(xs[:28], ys[:28], strict=True)):
        j = min(i, len(xs) - 2)
        a = float(np.arctan2(ys[j + 1] - ys[j], xs[j + 1] - xs[j]))
        parts += moved(
            [Wire(METAL, 0.38, closed(ellipse(1.6, 1.1 if i % 2 else 0.45, 0, 0, 10)))], a, float(x), float(y)
        )
    return parts


def toy_car(rng: Rng) -> list[Part]:
    body = points((-5, 0.8), (-5, -0.8), (-3, -1.2), (-1.8, -2.6), (2, -2.6), (3.2, -1.1), (5, -0.6), (5.2, 0.8))
    parts: list[Part] = [
        Plate(
            METAL,
            rng.uniform(0.25, 0.4),
            body,
            (
                points((-2.2, -1.2), (-1.4, -2.2), (0, -2.2), (0, -1.2)),
                points((0.4, -1.2), (0.4, -2.2), (1.7, -2.2), (2.4, -1.2)),
            ),
        ),
        Plate(METAL, 0.3, rectangle(9, 0.6, 0, 0.7)),
    ]
    for x in (-3, 3):
        parts += [Plate(ORGANIC, 1.6, ellipse(2.6, 2.6, x, 1, 14)), Plate(METAL, 0.6, ellipse(1.2, 1.2, x, 1, 10))]
    return parts


def mug(rng: Rng) -> list[Part]:
    """A steel travel mug: double wall, base, lid, handle."""
    length, r = rng.uniform(11, 16), rng.uniform(2.8, 3.4)
    x = length / 2
    return [
        Lathe(METAL, points((-x, 0), (x, 0)), (0, 0.05, 1), (r * 0.8, r * 0.85, r), 0.07),
        Lathe(METAL, points((-x * 0.9, 0), (x, 0)), (0, 0.05, 1), (r * 0.6, r * 0.7, r * 0.85), 0.06),
        Lathe(METAL, points((-x, 0), (-x + 0.7, 0)), (0, 1), (r * 0.82, r * 0.85), None, 0.12),
        Lathe(ORGANIC, points((x * 0.8, 0), (x * 1.1, 0)), (0, 1), (r, r), None, 0.5),
        Wire(METAL, 0.5, smooth_path([(-x * 0.4, r * 0.9), (-x * 0.3, r * 1.9), (x * 0.4, r * 1.9), (x * 0.5, r)])),
    ]


LIGHT: Final[tuple[Maker, ...]] = (
    book,
    bottle,
    bottle,
    toiletry,
    toiletry,
    fruit,
    packets,
    packets,
    blister,
    food,
    shoe,
    toy,
    cosmetics,
    wallet,
)
SMALL: Final[tuple[Maker, ...]] = (coins, keys, cable, cable, glasses, belt, clips, clips, hanger, earphones)
ELECTRONICS: Final[tuple[Maker, ...]] = (laptop, phone, phone, tablet, headphones)
DENSE: Final[tuple[Maker, ...]] = (
    umbrella, rods, torch, tin, spray, hair_dryer, camera, padlock, power_bank, adapter, alarm_clock, shaver, chain,
    toy_car, mug, keys, belt,
)  # fmt: skip
