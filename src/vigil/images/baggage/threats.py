"""The six classes of threat of SIXray, each as a family of shapes drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from vigil.images.baggage.materials import METAL, ORGANIC
from vigil.images.baggage.shapes import (
    Lathe,
    Part,
    Plate,
    Points,
    Wire,
    arc,
    closed,
    ellipse,
    extent,
    moved,
    points,
    rectangle,
    rounded,
    smooth_path,
)

Rng = np.random.Generator


def gun(rng: Rng) -> list[Part]:
    """A pistol or a revolver, muzzle to the right."""
    return _pistol(rng) if rng.random() < 0.5 else _revolver(rng)


def _pistol(rng: Rng) -> list[Part]:
    steel = rng.uniform(0.5, 0.8)
    length, height = rng.uniform(16, 19), rng.uniform(2.4, 3.0)
    grip, slant = rng.uniform(8, 10), rng.uniform(1.2, 2.6)
    back = -length / 2
    grip_outline = points(
        (back + 0.6, 0.6), (back + 5.2, 0.6), (back + 4.8 - slant * 0.8, grip), (back + 0.2 - slant, grip - 0.4)
    )
    slide = points((back, -height), (-back, -height), (-back, 0), (back + 0.8, 0.2), (back, -0.8))
    frame = points((back + 0.5, -0.2), (length * 0.3, -0.2), (length * 0.3, 0.9), (back + 5.5, 1.1), (back + 0.5, 1.1))
    guard = smooth_path([(back + 5.0, 1.0), (back + 5.4, 3.2), (back + 7.4, 3.6), (back + 9.2, 2.8), (back + 9.2, 0.9)])
    parts: list[Part] = [
        Plate(METAL, steel, slide, (rectangle(length * 0.16, height * 0.35, length * 0.05, -height * 0.75),)),
        Plate(METAL, steel * 0.7, frame),
        Plate(ORGANIC, 2.0, grip_outline),
        Plate(METAL, steel * rng.uniform(0.35, 0.7), grip_outline * (0.8, 0.95) + (back * 0.2 + 0.5, 0.2)),
        Wire(METAL, 0.5, guard),
        Wire(METAL, 0.4, smooth_path([(back + 6.4, 1.0), (back + 6.9, 2.0), (back + 6.6, 2.8)])),
        Lathe(METAL, points((back + 4, -height * 0.55), (-back, -height * 0.55)), (0, 1), (0.6, 0.6), 0.25),
        Plate(METAL, 0.5, points((back - 0.5, -height * 0.9), (back + 0.5, -height * 0.7), (back + 0.3, -0.3))),
    ]
    return parts


def _revolver(rng: Rng) -> list[Part]:
    steel = rng.uniform(0.45, 0.75)
    barrel = rng.uniform(5.0, 10.0)
    grip = smooth_path([(-3.4, -0.8), (-4.6, 1.2), (-5.8, 4.2), (-6.4, 7.4), (-3.8, 7.8), (-3.0, 4.6), (-1.6, 1.6)])
    frame = points((-4.0, -1.9), (3.2, -2.1), (3.2, 1.4), (0.8, 1.9), (-1.6, 1.7), (-3.6, 0.4))
    parts: list[Part] = [
        Plate(METAL, steel, frame, (rectangle(3.6, 2.2, 0.6, -0.3),)),
        Lathe(
            METAL,
            points((-1.2, -0.3), (2.4, -0.3)),
            (0, 0.1, 0.9, 1),
            (1.5, 1.75, 1.75, 1.4),
            None,
            rng.uniform(0.28, 0.4),
        ),
        Lathe(METAL, points((3.0, -1.2), (3.0 + barrel, -1.2)), (0, 1), (0.75, 0.65), 0.38),
        Plate(METAL, 0.35, rectangle(barrel * 0.8, 0.5, 3.0 + barrel * 0.4, -0.2)),
        Plate(METAL, 0.4, points((2.2 + barrel, -2.6), (3.0 + barrel, -1.9), (1.8 + barrel, -1.9))),
        Plate(METAL, 0.6, points((-4.6, -3.2), (-3.6, -2.6), (-3.0, -1.2), (-4.0, -1.4))),
        Plate(ORGANIC, 2.6, grip),
        Plate(METAL, rng.uniform(0.25, 0.5), grip * (0.8, 0.92) + (-0.9, 0.2)),
        Wire(METAL, 0.5, smooth_path([(-1.4, 1.6), (-1.2, 3.6), (0.6, 4.2), (2.4, 3.2), (2.6, 1.2)])),
        Wire(METAL, 0.4, smooth_path([(0.0, 1.6), (0.5, 2.6), (0.2, 3.4)])),
    ]
    return parts


def knife(rng: Rng) -> list[Part]:
    """A sheath knife, a dagger, a kitchen knife or an open folding knife, point to the right."""
    variant = int(rng.integers(4))
    steel = rng.uniform(0.22, 0.42)
    blade, width = rng.uniform(10, 14), rng.uniform(2.0, 3.2)
    handle, w = rng.uniform(7.5, 10), width / 2
    parts: list[Part]
    if variant == 0:  # sheath knife: clip point, guard, pommel
        outline = points(
            (0, -w), (blade * 0.62, -w), (blade, -w * 0.1), (blade * 0.8, w * 0.8), (blade * 0.65, w), (0, w)
        )
        parts = [
            Plate(METAL, steel, outline),
            Plate(METAL, 0.9, rounded(0.9, width * 1.9, 0.3)),
            Plate(METAL, 0.8, rounded(1.3, width * 1.05, 0.5, -handle)),
            Plate(METAL, steel * 1.2, rectangle(handle, w * 1.1, -handle / 2)),
            Plate(ORGANIC, 2.0, rounded(handle, width, 0.6, -handle / 2)),
        ]
    elif variant == 1:  # dagger: symmetric, with a ridge
        w *= 0.85
        outline = points((0, -w), (blade * 0.7, -w * 0.8), (blade, 0), (blade * 0.7, w * 0.8), (0, w))
        parts = [
            Plate(METAL, steel * 0.8, outline),
            Plate(METAL, steel * 0.7, points((0, -w * 0.3), (blade * 0.95, 0), (0, w * 0.3))),
            Plate(METAL, 0.8, rounded(0.9, width * 2.1, 0.4)),
            Lathe(METAL, points((-handle, 0), (0, 0)), (0, 0.08, 0.5, 1), (0.9, 0.6, 0.75, 0.55), 0.3),
        ]
    elif variant == 2:  # kitchen knife: tall blade, straight spine, riveted handle
        w = width * rng.uniform(0.6, 0.9)
        edge = smooth_path([(blade * 1.1, -w * 0.8), (blade * 0.9, w * 0.2), (blade * 0.5, w * 0.9), (0, w)])
        parts = [
            Plate(METAL, steel * 0.8, np.concatenate([points((-0.4, -w), (blade * 0.9, -w)), edge])),
            Plate(METAL, steel, rectangle(handle, 1.4, -handle / 2, -w + 0.9)),
            Plate(ORGANIC, 1.8, rounded(handle, 2.1, 0.7, -handle / 2, -w + 1.0)),
            *(Plate(METAL, 0.9, ellipse(0.7, 0.7, -handle * f, -w + 0.95, 8)) for f in (0.2, 0.5, 0.8)),
        ]
    else:  # folding knife: slim blade with a thumb hole, liners, pivot, clip
        w *= 0.8
        edge = smooth_path([(blade, -w * 0.3), (blade * 0.7, w * 0.8), (blade * 0.3, w), (0, w * 0.7)])
        parts = [
            Plate(
                METAL,
                steel,
                np.concatenate([points((0, -w), (blade * 0.5, -w)), edge]),
                (ellipse(1.4, 0.6, blade * 0.2, -w * 0.4, 10),),
            ),
            Plate(
                METAL,
                0.3,
                rounded(handle, width * 0.95, 1.0, -handle / 2 + 0.6),
                (rectangle(handle * 0.5, 0.4, -handle * 0.5),),
            ),
            Plate(ORGANIC, 1.2, rounded(handle, width, 1.0, -handle / 2 + 0.6)),
            Plate(METAL, 1.0, ellipse(1.1, 1.1, 0, 0, 10)),
            Plate(METAL, 0.2, rectangle(handle * 0.5, 0.7, -handle * 0.65, 0.2)),
        ]
    return parts


def wrench(rng: Rng) -> list[Part]:
    """A double open-ended, a combination or an adjustable wrench."""
    variant = int(rng.integers(3))
    steel = rng.uniform(0.5, 0.75)
    half, neck, head = 8.0, rng.uniform(0.75, 1.05), rng.uniform(2.0, 2.6)

    def jaw(x: float, size: float, side: int, turn: float) -> Plate:
        around = arc(size, 0, 2 * np.pi, corners=25)[:-1]
        gap = size * 0.5
        mouth = points((0.1 * size, -gap), (size * 1.3, -gap), (size * 1.3, gap), (0.1 * size, gap), (-gap * 0.5, 0))
        c, s = np.cos(turn), np.sin(turn)
        at = np.array([x, 0.0])
        mouth = mouth @ np.array([[c, s], [-s, c]]) * (side, 1)
        return Plate(METAL, steel, around + at, (mouth + at,))

    parts: list[Part] = [
        Plate(METAL, steel * 0.75, rectangle(2 * half - head, 2 * neck)),
        Plate(METAL, -steel * 0.25, rectangle(half, 0.9 * neck)),
    ]
    if variant == 0:
        parts += [jaw(half, head, 1, 0.26), jaw(-half, head * 0.88, -1, 0.26)]
    elif variant == 1:
        ring = head * 0.9
        parts += [
            jaw(half, head, 1, 0.26),
            Plate(METAL, steel, ellipse(2 * ring, 2 * ring, -half), (ellipse(1.2 * ring, 1.2 * ring, -half, 0, 12),)),
        ]
    else:
        tall = head * 1.25
        parts += [
            Plate(
                METAL,
                steel,
                points(
                    (half - 2.4, -neck),
                    (half - 0.4, -tall),
                    (half + 2.4, -tall),
                    (half + 2.4, -tall * 0.3),
                    (half, -tall * 0.3),
                    (half - 0.2, neck * 0.8),
                    (half - 1.4, tall * 0.75),
                    (half - 2.4, neck),
                ),
            ),
            Plate(
                METAL,
                steel,
                points(
                    (half - 0.6, tall * 0.35),
                    (half + 2.2, tall * 0.35),
                    (half + 1.2, tall * 0.95),
                    (half - 0.8, tall * 0.9),
                ),
            ),
            Lathe(METAL, points((half - 1.8, tall * 0.5), (half - 0.6, tall * 0.5)), (0, 1), (0.5, 0.5)),
            Plate(METAL, steel, ellipse(2.2 * neck, 2.2 * neck, -half), (ellipse(neck, neck, -half, 0, 10),)),
        ]
    return parts


def pliers(rng: Rng) -> list[Part]:
    """Combination, long-nosed or side-cutting pliers, more or less open, jaws to the right."""
    variant = int(rng.integers(3))
    steel = rng.uniform(0.6, 0.9)
    nose = (4.2, 7.0, 2.6)[variant]
    tip = (0.9, 0.35, 0.8)[variant]
    opening = rng.uniform(0.06, 0.3)
    parts: list[Part] = [Plate(METAL, steel * 0.8, ellipse(2.8, 2.8, 0, 0, 14))]
    grips = rng.random() < 0.8
    for side in (-1, 1):
        jaw = points((-0.8, 0.0), (nose, 0.02), (nose, tip), (1.2, 1.5), (-0.6, 1.4)) * (1, side)
        if variant == 0:
            notch = ellipse(1.5, 0.9, nose * 0.4, 0.0, 10)
            half: list[Part] = [Plate(METAL, steel, jaw, (notch,))]
        else:
            half = [Plate(METAL, steel, jaw)]
        path = smooth_path(
            [(-0.2, 0.5 * side), (-2.6, 2.3 * side), (-6.0, 2.9 * side), (-9.0, 2.4 * side), (-10.6, 1.9 * side)]
        )
        half.append(Wire(METAL, 0.85, path))
        if grips:
            half.append(Wire(ORGANIC, 1.7, path[8:]))
        # The jaws and the handle of one half turn about the pivot in opposite senses on the page.
        parts += moved(half, angle=side * opening)
    return parts


def scissors(rng: Rng) -> list[Part]:
    """Scissors with plastic or steel loops, closed to wide open, tips to the right."""
    steel = rng.uniform(0.25, 0.42)
    blade, width = rng.uniform(8, 11), rng.uniform(1.1, 1.6)
    half_angle = rng.uniform(0.03, 0.42)
    plastic = rng.random() < 0.6
    loop, shank = rng.uniform(3.0, 4.0), rng.uniform(2.5, 4.5)
    parts: list[Part] = [Plate(METAL, 0.6, ellipse(1.1, 1.1, 0, 0, 10))]
    for side in (-1, 1):
        cutting = points(
            (-0.8, -0.3 * side),
            (blade * 0.6, -0.25 * side),
            (blade, 0.1 * side),
            (blade * 0.5, width * 0.8 * side),
            (-0.6, width * 0.8 * side),
        )
        bow = ellipse(loop * 1.35, loop, -shank - loop * 0.6, -loop * 0.55 * side, 18)
        # Long enough for the loops to clear each other whatever the opening is.
        arm = smooth_path([(0, 0.2 * side), (-shank * 0.6, -0.3 * side), (-shank, -loop * 0.4 * side)])
        half: list[Part] = [Plate(METAL, steel, cutting), Wire(METAL, 0.7, arm, 0.7)]
        if plastic:
            half += [Wire(ORGANIC, 1.0, closed(bow)), Wire(METAL, 0.3, closed(bow)[:14], 0.8), Wire(ORGANIC, 1.3, arm)]
        else:
            half.append(Wire(METAL, 0.6, closed(bow), 0.8))
        parts += moved(half, angle=side * half_angle)
    return parts


def hammer(rng: Rng) -> list[Part]:
    """A claw, a ball-peen or a cross-peen hammer, head to the right."""
    variant = int(rng.integers(3))
    density = rng.uniform(0.3, 0.5)
    length, head = rng.uniform(15, 18), rng.uniform(3.6, 4.6)
    x = length / 2
    face = Lathe(METAL, points((x, 0.2), (x, head)), (0, 0.55, 0.6, 1), (0.9, 0.9, 1.25, 1.25), None, density)
    parts: list[Part] = [face]
    if variant == 0:
        claw = smooth_path([(x, -0.6), (x - 0.2, -2.2), (x - 1.2, -3.6), (x - 2.6, -4.4)])
        for offset in (-0.25, 0.4):
            parts.append(Wire(METAL, 0.9, claw + np.array([offset, -offset * 0.5]), density * 1.6))
        parts.append(Plate(METAL, 0.9, rectangle(2.0, 1.6, x, 0)))
    elif variant == 1:
        ball = tuple(1.15 * float(np.sqrt(max(1 - (2 * f - 1) ** 2, 0))) for f in np.linspace(0, 1, 9))
        parts.append(
            Lathe(METAL, points((x, -3.4), (x, -1.2)), tuple(np.linspace(0, 1, 9).tolist()), ball, None, density)
        )
        parts.append(Lathe(METAL, points((x, -1.6), (x, 0.4)), (0, 1), (0.7, 0.95), None, density))
    else:
        parts.append(
            Plate(
                METAL,
                1.8 * density,
                points(
                    (x - 0.25, -3.6), (x + 0.25, -3.6), (x + 1.0, -0.6), (x + 1.0, 0.6), (x - 1.0, 0.6), (x - 1.0, -0.6)
                ),
            )
        )
    if rng.random() < 0.5:
        shaft = (0.0, 0.35, 0.6, 1.0)
        parts.append(Lathe(ORGANIC, points((-x, 0), (x, 0)), shaft, (1.4, 1.5, 0.9, 0.9), None, 0.8))
        parts.append(Plate(METAL, 0.25, rectangle(0.5, 1.2, x - 0.1, 0)))
    else:
        parts.append(Lathe(METAL, points((-x, 0), (x, 0)), (0, 1), (0.55, 0.55), 0.25))
        parts.append(Lathe(ORGANIC, points((-x, 0), (-x * 0.15, 0)), (0, 0.1, 0.9, 1), (1.2, 1.4, 1.3, 0.9), None, 0.9))
    return parts


THREATS: Final[Mapping[str, Callable[[Rng], list[Part]]]] = {
    "gun": gun,
    "knife": knife,
    "wrench": wrench,
    "pliers": pliers,
    "scissors": scissors,
    "hammer": hammer,
}
KINDS: Final = tuple(THREATS)
"""The classes, in the order in which a data set takes them in turn."""

_LENGTHS_CM: Final = {
    "gun": (13.0, 21.0),
    "knife": (17.0, 30.0),
    "wrench": (16.0, 26.0),
    "pliers": (14.5, 22.0),
    "scissors": (14.0, 21.0),
    "hammer": (19.0, 29.0),
}
"""Long sides before the lean. In SIXray's annotated scans guns span .11 to .33 of the picture's width (median .13) and
knives .24 to .60 (median .36); here 66 cm are one width."""


def draw_threat(kind: str, rng: Rng) -> list[Part]:
    """A threat of a class, of random make, size and lean, centred on the origin."""
    parts = THREATS[kind](rng)
    x0, y0, x1, y1 = extent(parts)
    centre: Points = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    scale = float(rng.uniform(*_LENGTHS_CM[kind])) / max(x1 - x0, y1 - y0)
    parts = moved(parts, x=-float(centre[0]), y=-float(centre[1]))
    # Smaller makes of a tool are not proportionally thinner: the metal's thickness is kept.
    return moved(
        parts,
        scale=scale,
        mirrored=bool(rng.random() < 0.5),
        tilt=float(rng.uniform(0, 0.7)),
        tilt_axis=float(rng.choice([0.0, np.pi / 2], p=[0.7, 0.3])),
        metal_density=float(rng.uniform(0.9, 1.2)) / scale**0.5,
    )
