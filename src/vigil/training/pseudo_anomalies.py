"""Pseudo-anomalies: foreign shapes stamped into normal patches, and where they are.

A stamp is a shape (joined rods, blobs and polygons, cracks, clouds) and a paint: an absorber in the beam, a piece or a
colour of another training patch, a shift, or noise. Nothing is specific to one data set: all colours and textures come
from training patches.

Beyond arXiv 2211.13808, which trains on normal patches alone.

Legend: B batch, P patch size, C channels, H W the window that a stamp covers. Values are in [0, 1] inside, uint8
outside. The depth of a pixel is its distance to the shape's border in pixels, positive inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import reduce
from typing import Final

import numpy as np
import numpy.typing as npt

from vigil.config import PseudoAnomalySection
from vigil.seeding import numpy_generator

Array = npt.NDArray[np.float32]
Rng = np.random.Generator

_BLOCK: Final = 8
"""Side of the blocks in which structure is looked for; divides every patch size."""
_PLACES: Final = 5
"""Places among which a stamp that looks for structure takes the busiest."""
_SMALLEST_DEPTH: Final = 1e-3
_BOWED: Final = 1 / 3
"""How often a rod is bowed."""
_DECOY_DENSITY: Final = 0.3
"""Least density (-log lightness) beyond the surroundings that is laid in as a decoy: metal, in scans of bags."""
_DECOY_BORDER_PX: Final = 6.0
_LEAST_DENSITY: Final = 0.004
"""Below this, matter in the beam changes nothing."""
_GROUND_RANK: Final = 8
"""Of 25 blocks in order of density: the one taken for the ground that objects lie on."""
_STRONGEST_ENHANCEMENT: Final = 1.5
"""How much of the difference of an added density to its mean over 3 x 3 pixels is added to it once more, at most."""
_NEARLY_BLACK: Final = np.float32(0.02)
"""Added to lightness before logarithms are taken."""
_CRISPEST_PX: Final = 0.7
"""Width of the narrowest borders."""


def pseudo_anomalies(
    patches: npt.NDArray[np.uint8],
    donors: npt.NDArray[np.uint8],
    section: PseudoAnomalySection,
    colours: Array,
    *,
    seed: int,
    numbers: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Patches with stamps, and the pixels that visibly changed.

    Each result is a function of its patch, its donor, the section, the colours, `seed` and its number alone; so a
    resumed run meets the stamps of an uninterrupted one, however the batch is shared between processes. Where a pixel
    is not marked, it differs from the patch by `section.visible_difference` at most.

    Args:
        patches: Normal patches [B, P, P, C].
        donors: Other normal patches [B, P, P, C], whose texture and colours are used.
        section: How many, how large, which kinds.
        colours: The `colour_table` of the training patches.
        seed: Of the run.
        numbers: [B], the position of each patch in the run (images seen).

    Returns:
        The corrupted patches [B, P, P, C] and the masks [B, P, P].
    """
    corrupted, masks = patches.copy(), np.zeros(patches.shape[:3], np.bool_)
    for i, number in enumerate(numbers):
        rng = numpy_generator(seed, "pseudo anomalies", int(number))
        if rng.random() >= section.clean_fraction:
            corrupted[i], masks[i] = _stamped(patches[i], donors[i], section, colours, rng)
    return corrupted, masks


def decoys(
    patches: npt.NDArray[np.uint8],
    donors: npt.NDArray[np.uint8],
    section: PseudoAnomalySection,
    colours: Array,
    *,
    seed: int,
    numbers: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint8]:
    """Patches into whose beam matter of other normal patches was laid; what comes out counts as normal.

    Without them, that something was laid in at all gives a pseudo-anomaly away; with them, its shape must.

    Args:
        patches: Normal patches [B, P, P, C].
        donors: Other normal patches [B, P, P, C], whose matter is laid in.
        section: `decoy_fraction` says how many patches get some.
        colours: The `colour_table` of the training patches.
        seed: Of the run.
        numbers: [B], the position of each patch in the run (images seen).

    Returns:
        The patches [B, P, P, C].
    """
    result = patches.copy()
    for i, number in enumerate(numbers):
        rng = numpy_generator(seed, "decoys", int(number))
        if rng.random() < section.decoy_fraction:
            mixed = _with_decoy(_unit(patches[i]), _unit(donors[i]), colours, rng)
            result[i] = np.rint(np.clip(mixed, 0, 1) * 255).astype(np.uint8)
    return result


def _with_decoy(image: Array, donor: Array, colours: Array, rng: Rng) -> Array:
    """The image behind what a round window of the donor, turned and moved, holds beyond its surroundings."""
    side = len(image)
    donor = np.roll(np.rot90(donor, int(rng.integers(4))), rng.integers(side, size=2), axis=(0, 1))
    density = -np.log(np.clip(_light(donor), 0.02, 1))
    beyond = density - _surroundings(density)
    cy, cx = rng.integers(side, size=2)
    radius = np.float32(side * rng.uniform(0.2, 0.6))
    rows, columns = (slice(max(int(at - radius), 0), int(at + radius) + 2) for at in (cy, cx))
    y, x = (np.arange(side, dtype=np.float32)[kept] - np.float32(at) for kept, at in ((rows, cy), (columns, cx)))
    window = np.clip((radius - np.sqrt(x * x + (y * y)[:, None])) / _DECOY_BORDER_PX, 0, 1)
    beyond, factor = beyond[rows, columns], np.float32(rng.uniform(0.7, 1.3))
    laid_in = np.where(beyond > _DECOY_DENSITY, beyond, 0) * window * factor
    power, half = np.float32(rng.uniform(1.0, 1.8)), np.float32(rng.uniform(0.3, 0.6))
    mixed = image.copy()
    mixed[rows, columns] = _superposed(rng, image[rows, columns], laid_in, donor[rows, columns], colours, power, half)
    return mixed


def _surroundings(density: Array) -> Array:
    """The density of the ground around each block: low among the means of the 5 x 5 blocks about it, [P, P]."""
    blocks = len(density) // _BLOCK
    means = np.pad(density.reshape(blocks, _BLOCK, blocks, _BLOCK).mean(axis=(1, 3)), 2, mode="edge")
    around = np.stack([means[i : i + blocks, k : k + blocks] for i in range(5) for k in range(5)])
    ground = np.partition(around, _GROUND_RANK, axis=0)[_GROUND_RANK]
    return np.asarray(ground.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1), np.float32)


def _stamped(
    patch: npt.NDArray[np.uint8],
    donor: npt.NDArray[np.uint8],
    section: PseudoAnomalySection,
    colours: Array,
    rng: Rng,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """One patch with 1 to `most_stamps` stamps."""
    pixels, given = _unit(patch), _unit(donor)
    stamped, activity = pixels.copy(), _activity(pixels)
    for _ in range(int(rng.integers(1, section.most_stamps + 1))):
        _stamp(stamped, given, activity, section, colours, rng)
    result = np.rint(stamped * 255).astype(np.uint8)
    change = _largest(np.abs(_unit(result) - pixels))
    # Around a stamp's visible middle its faint rim counts, too; single changed pixels of a faint stamp do not.
    seen = (_mean3(change) > section.visible_difference) & (change > 0) | (change > section.visible_difference)
    return result, seen


def _stamp(
    image: Array, donor: Array, activity: Array, section: PseudoAnomalySection, colours: Array, rng: Rng
) -> None:
    """Puts one stamp into `image` [P, P, C], in place."""
    side = len(image)
    extent = side * float(np.exp(rng.uniform(np.log(section.smallest), np.log(section.largest))))
    places = rng.integers(side, size=(_PLACES if rng.random() < section.on_structure else 1, 2))
    cy, cx = places[np.argmax(activity[places[:, 0] // _BLOCK, places[:, 1] // _BLOCK])]
    reach = int(extent * 0.75) + 4
    rows = slice(max(cy - reach, 0), min(cy + reach, side))
    columns = slice(max(cx - reach, 0), min(cx + reach, side))
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(cy)
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(cx)

    depth = _SHAPES[_pick(section.shapes.model_dump(), rng)](rng, x, y, extent)
    softness = np.float32(np.exp(rng.uniform(np.log(_CRISPEST_PX), np.log(section.softest_px))))
    inside = depth > -softness / 2
    if not inside.any():
        return
    # From here on only the box around the shape, and one pixel more for the light rim of an enhanced edge.
    top, bottom = _span(np.asarray(inside.any(axis=1)))
    left, right = _span(np.asarray(inside.any(axis=0)))
    depth = depth[top:bottom, left:right]
    rows = slice(rows.start + top, rows.start + bottom)
    columns = slice(columns.start + left, columns.start + right)
    cover = np.clip(depth / softness + np.float32(0.5), 0, 1)  # H W
    if rng.random() < 0.4:  # rounded, thinner towards its border
        deepest = np.float32(max(float(depth.max()), _SMALLEST_DEPTH))
        cover = cover * np.sqrt(np.clip(depth / deepest, 0.15, 1))
    # Displays and cameras sharpen edges; a stamp must not be known by the lack of it.
    cover = cover + np.float32(rng.uniform(0, 1)) * (cover - _mean3(cover))
    window = image[rows, columns]
    paint = _pick(section.paints.model_dump(), rng)
    if paint == "absorber":
        mixed = _absorbed(rng, window, donor, cover, colours, section.absorber_pixels)
    else:
        colour = _PAINTS[paint](rng, window, donor)
        colour = colour + rng.standard_normal(cover.shape, np.float32)[:, :, None] * np.float32(rng.uniform(0, 0.02))
        opacity = np.float32(rng.uniform(section.least_opacity, 1))
        mixed = window + (colour - window) * (cover * opacity)[:, :, None]
    image[rows, columns] = np.clip(mixed, 0, 1)


# ------------------------------------------------------------------------------------------------------------- shapes

Shape = Callable[[Rng, Array, Array, float], Array]
"""(rng, x [1, W], y [H, 1], extent in pixels) -> depth [H, W]; x and y count from the stamp's centre."""


def _rods(rng: Rng, x: Array, y: Array, extent: float) -> Array:
    """One to five rods, joined end to end, branching or crossing, tapered or not; discs and rings at some ends."""
    count = int(rng.integers(1, 5) if rng.random() < 0.4 else rng.integers(2, 6))
    radius = max(0.7, extent * float(np.exp(rng.uniform(np.log(0.022), np.log(0.14)))))
    length = extent if count == 1 else extent / 1.6
    rods: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    ends, heading = [np.zeros(2)], rng.uniform(0, 2 * np.pi)
    for i in range(count):
        angle = heading if i == 0 else heading + rng.choice([-1, 1]) * rng.uniform(0.2, 2.2)
        along = length * (1.0 if count == 1 else rng.uniform(0.5, 1)) * np.array([np.cos(angle), np.sin(angle)])
        if i and rng.random() < 0.3:  # across an earlier rod
            first, last = rods[int(rng.integers(len(rods)))]
            start = first + rng.uniform(0.15, 0.85) * (last - first) - rng.uniform(0, 0.6) * along
            ends.append(start)
        else:
            start = ends[-1] if rng.random() < 0.6 else ends[int(rng.integers(len(ends)))]
        rods.append((start, start + along))
        ends.append(start + along)
        heading = angle if rng.random() < 0.5 else heading
    centre = (np.min(ends, axis=0) + np.max(ends, axis=0)) / 2
    depth = np.full(np.broadcast_shapes(x.shape, y.shape), -np.inf, np.float32)
    for start, end in rods:
        thick = radius * rng.uniform(0.5, 1.5)
        thin = thick if rng.random() < 0.5 else radius * rng.uniform(0.05, 1.8)
        for piece in _bent(rng, start - centre, end - centre, thick, thin):
            depth = np.maximum(depth, _rod_depth(x, y, *piece))
    for end in ends:
        kind = rng.random()
        if kind < 0.3:
            size = np.float32(radius * rng.uniform(1.2, 2.6))
            dx, dy = x - np.float32(end[0] - centre[0]), y - np.float32(end[1] - centre[1])
            disc = size - np.sqrt(dx * dx + dy * dy)
            wall = size * np.float32(rng.uniform(0.2, 0.45))
            # A ring's hole is cut out of the rods that end in it.
            depth = np.maximum(depth, disc) if kind < 0.13 else np.maximum(np.minimum(depth, -disc), _wall(disc, wall))
    return depth


def _bent(
    rng: Rng, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], first: float, last: float
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float]]:
    """A rod in one piece or, one time in three, bowed: in three pieces along an arc."""
    if rng.random() >= _BOWED:
        return [(start, end, first, last)]
    along = end - start
    sideways = np.array([-along[1], along[0]]) * rng.choice([-1, 1]) * rng.uniform(0.08, 0.3)
    points = [start, start + along / 3 + sideways, start + along * 2 / 3 + sideways, end]
    radii = np.linspace(first, last, 4)
    return [
        (a, b, float(r), float(q))
        for (a, b), (r, q) in zip(itertools.pairwise(points), itertools.pairwise(radii), strict=True)
    ]


def _cracks(rng: Rng, x: Array, y: Array, extent: float) -> Array:
    """A thin jagged line."""
    count = int(rng.integers(4, 9))
    angles = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5, count)
    steps = extent / count * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    radius = rng.uniform(0.4, 1.2) * max(1.0, extent / 40)
    depth = np.full(np.broadcast_shapes(x.shape, y.shape), -np.inf, np.float32)
    for start, end in itertools.pairwise(points):
        first, last = radius * rng.uniform(0.5, 1.3, 2)
        depth = np.maximum(depth, _rod_depth(x, y, start, end, first, last))
    return depth


def _blobs(rng: Rng, x: Array, y: Array, extent: float) -> Array:
    """A wavy blob, an ellipse or a box, or a polygon; one in five hollow."""
    radius, aspect, turn = extent / 2, float(np.exp(rng.uniform(np.log(0.25), 0))), rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u = (x * cosine + y * sine) / np.float32(radius)
    v = (y * cosine - x * sine) / np.float32(radius * aspect)
    kind = rng.random()
    if kind < 0.35:
        angle = np.arctan2(v, u)
        border = np.ones_like(angle)
        for wave in range(2, 6):
            swing, phase = np.float32(rng.uniform(0, 0.5) / wave), np.float32(rng.uniform(0, 2 * np.pi))
            border += swing * np.cos(np.float32(wave) * angle + phase)
        depth = border - np.sqrt(u * u + v * v)
    elif kind < 0.55:
        power = float(rng.choice([2, 4, 8]))
        depth = 1 - (np.abs(u) ** power + np.abs(v) ** power) ** np.float32(1 / power)
    else:
        sides = int(rng.integers(3, 8))
        depth = np.full(u.shape, np.inf, np.float32)
        for angle_of_side in np.arange(sides) * 2 * np.pi / sides + rng.uniform(-0.35, 0.35, sides):
            along = u * np.float32(np.cos(angle_of_side)) + v * np.float32(np.sin(angle_of_side))
            depth = np.minimum(depth, np.float32(rng.uniform(0.6, 1)) - along)
    depth = np.asarray(depth * np.float32(radius * np.sqrt(aspect)), np.float32)
    hollow = rng.random() < 0.2
    return _wall(depth, np.float32(max(0.8, radius * aspect * rng.uniform(0.12, 0.35)))) if hollow else depth


def _clouds(rng: Rng, x: Array, y: Array, extent: float) -> Array:
    """Where smooth noise is high, within a circle."""
    noise = _smooth_noise(rng, y.shape[0], x.shape[1], int(rng.integers(2, 6)))
    within = 1 - np.sqrt(x * x + y * y) / np.float32(extent * 0.6)
    high = noise + 2 * within - np.float32(rng.uniform(0.3, 1.2))
    return np.asarray(high * np.float32(extent * 0.12), np.float32)


def _tools(rng: Rng, x: Array, y: Array, extent: float) -> Array:
    """What a hand could hold: one profiled shaft with a jaw, a ring or a bar at its ends, or two arms that cross."""
    turn = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = x * cosine + y * sine, y * cosine - x * sine  # along the tool and across it
    return _crossed_arms(rng, u, v, extent) if rng.random() < 0.5 else _shaft(rng, u, v, extent)


def _crossed_arms(rng: Rng, u: Array, v: Array, extent: float) -> Array:
    """Two arms, mirrored, that cross at a pivot: bowed or ringed on one side of it, tapered on the other."""
    pivot = extent * rng.uniform(-0.1, 0.3)
    behind, ahead = -0.5 * extent - pivot, 0.5 * extent - pivot
    bow, spread, gape = extent * rng.uniform(0.02, 0.18), extent * rng.uniform(0.03, 0.2), rng.uniform(0.0, 0.4)
    thick = max(0.8, extent * float(np.exp(rng.uniform(np.log(0.021), np.log(0.07)))))
    wide = thick * rng.uniform(0.8, 2.2)
    tip = wide * rng.uniform(0.1, 1.0)
    ring = extent * rng.uniform(0.07, 0.15) if rng.random() < 0.5 else 0.0
    knots = np.array([[behind, spread], [behind / 2, bow], [0, 0], [ahead, -gape * ahead / 2]])
    radii = [thick * rng.uniform(0.7, 1.2), thick, wide, tip]
    u = u - np.float32(pivot)
    depth = np.float32(wide * rng.uniform(0.8, 1.5)) - np.sqrt(u * u + v * v)
    for side in (1, -1):
        across = v * np.float32(side)
        for (start, end), (first, last) in zip(itertools.pairwise(knots), itertools.pairwise(radii), strict=True):
            depth = np.maximum(depth, _rod_depth(u, across, start, end, first, last))
        if ring:
            du, dv = u - np.float32(behind), (across - np.float32(spread)) * np.float32(rng.uniform(1.0, 1.6))
            disc = np.float32(ring) - np.sqrt(du * du + dv * dv)
            wall = np.float32(thick * rng.uniform(0.8, 1.6))
            depth = np.maximum(np.minimum(depth, -disc), _wall(disc, wall))
    return depth


def _shaft(rng: Rng, u: Array, v: Array, extent: float) -> Array:
    """A shaft whose thickness steps or tapers along it; each end plain, forked, ringed or crossed by a bar."""
    knots = np.array([-0.5, rng.uniform(-0.35, 0.0), rng.uniform(0.0, 0.35), 0.5]) * extent
    radius = extent * float(np.exp(rng.uniform(np.log(0.028), np.log(0.14))))
    radii = radius * np.exp(rng.uniform(-0.9, 0.7, 4))
    depth = np.full(np.broadcast_shapes(u.shape, v.shape), -np.inf, np.float32)
    for k in range(3):
        first, last = radii[k], radii[k + 1] if rng.random() < 0.6 else radii[k]
        depth = np.maximum(depth, _rod_depth(u, v, np.array([knots[k], 0]), np.array([knots[k + 1], 0]), first, last))
    for end, outwards in ((knots[0], -1.0), (knots[3], 1.0)):
        kind = rng.random()
        size = max(1.5, radius * rng.uniform(1.4, 3.0))
        du = u - np.float32(end)
        disc = np.float32(size) - np.sqrt(du * du + v * v)
        if kind < 0.3:  # a jaw
            mouth = np.array([end + outwards * size * rng.uniform(-0.3, 0.6), 0])
            far = mouth + np.array([outwards * 2 * size, size * rng.uniform(-0.6, 0.6)])
            width = size * rng.uniform(0.3, 0.6)
            depth = np.minimum(np.maximum(depth, disc), -_rod_depth(u, v, mouth, far, width, width))
        elif kind < 0.45:  # a ring
            depth = np.maximum(np.minimum(depth, -disc), _wall(disc, np.float32(size * rng.uniform(0.25, 0.5))))
        elif kind < 0.65:  # a bar across
            reach, thick = extent * rng.uniform(0.08, 0.25), radius * rng.uniform(0.7, 1.8)
            shift = rng.uniform(-1, 1) * reach
            bar = np.array([[end, shift - reach], [end, shift + reach]])
            depth = np.maximum(depth, _rod_depth(u, v, bar[0], bar[1], thick, thick * rng.uniform(0.3, 1.2)))
    return depth


_SHAPES: Final[dict[str, Shape]] = {
    "rods": _rods,
    "tools": _tools,
    "blobs": _blobs,
    "cracks": _cracks,
    "clouds": _clouds,
}


def _rod_depth(
    x: Array, y: Array, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], first: float, last: float
) -> Array:
    """Depth within a rod with round ends whose radius runs from `first` to `last`."""
    px, py = np.float32(start[0]), np.float32(start[1])
    dx, dy = np.float32(end[0]) - px, np.float32(end[1]) - py
    along = ((x - px) * dx + (y - py) * dy) / np.float32(max(float(dx * dx + dy * dy), 1e-6))
    along = np.clip(along, 0, 1)
    rx, ry = x - px - along * dx, y - py - along * dy
    radius = np.float32(first) + np.float32(last - first) * along
    return np.asarray(radius - np.sqrt(rx * rx + ry * ry), np.float32)


def _wall(depth: Array, thickness: np.float32) -> Array:
    """Depth within the wall of the given thickness inside a shape's border."""
    return np.asarray(np.minimum(depth, thickness - depth), np.float32)


# ------------------------------------------------------------------------------------------------------------- paints

Paint = Callable[[Rng, Array, Array], Array]
"""(rng, the window of the patch [H, W, C], the donor [P, P, C]) -> [H, W, C]."""


def _colour(rng: Rng, window: Array, donor: Array) -> Array:
    """A colour of the donor, mostly one that stands out in it."""
    sample = _colours(rng, donor, 8)
    odd = int(np.argmax(np.abs(sample - np.median(sample, axis=0)).sum(axis=1)))
    colour = sample[odd if rng.random() < 0.7 else 0] * np.float32(rng.uniform(0.7, 1.15))
    return np.asarray(colour * _mottled(rng, window, 0.5), np.float32)


def _texture(rng: Rng, window: Array, donor: Array) -> Array:
    """A piece of the donor, turned, half of the time with its colour shifted."""
    turned = np.rot90(donor, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    height, width, channels = window.shape
    top, left = rng.integers(len(donor) - height + 1), rng.integers(len(donor) - width + 1)
    piece = turned[top : top + height, left : left + width]
    return piece + _shift(rng, channels, 0.2, 0.06) if rng.random() < 0.5 else piece


def _shifted(rng: Rng, window: Array, _: Array) -> Array:
    """What is there, lighter or darker and of another hue."""
    channels = window.shape[2]
    lighter = np.float32(rng.choice([-1, 1]) * rng.uniform(0.08, 0.45))
    return window + lighter + _shift(rng, channels, 0.0, 0.12 if channels > 1 else 0.0)


def _noisy(rng: Rng, window: Array, _: Array) -> Array:
    """What is there, with smooth noise."""
    height, width = window.shape[:2]
    cells = int(rng.integers(3, max(4, min(height, width) // 2 + 1)))
    return window + np.float32(rng.uniform(0.1, 0.4)) * _smooth_noise(rng, height, width, cells)[:, :, None]


_PAINTS: Final[dict[str, Paint]] = {
    "colour": _colour,
    "texture": _texture,
    "shifted": _shifted,
    "noisy": _noisy,
}


def _colours(rng: Rng, donor: Array, count: int) -> Array:
    """`count` pixels of the donor, [count, C]."""
    rows, columns = rng.integers(len(donor), size=(2, count))
    return np.asarray(donor[rows, columns], np.float32)


def _shift(rng: Rng, channels: int, common: float, each: float) -> Array:
    return np.asarray(rng.uniform(-common, common) + rng.uniform(-each, each, channels), np.float32)


def _mottled(rng: Rng, window: Array, share: float) -> Array:
    """A factor around 1 that varies smoothly over the window, in `share` of the cases; else 1."""
    height, width, _ = window.shape
    if rng.random() >= share:
        return np.ones((height, width, 1), np.float32)
    noise = _smooth_noise(rng, height, width, int(rng.integers(1, 8)))
    return 1 + np.float32(rng.uniform(0.03, 0.25)) * noise[:, :, None]


# ----------------------------------------------------------------------------------------------------------- absorbers

_HUES: Final = 36
_LIGHTS: Final = 48
_WHITE_CHROMA: Final = 0.08
"""Below this, a pixel's hue is mostly noise."""


def colour_table(patches: npt.NDArray[np.uint8]) -> Array:
    """The mean colour of the patches' pixels by hue and lightness, [36, 48, C] in [0, 1].

    Bins that hold next to no pixels take the colour of the nearest one that does, so that an absorber gets the colours
    that this data set's display gives to matter of that hue and density, and no others. Grey patches have one hue.

    Args:
        patches: Some hundred training patches [N, P, P, C].
    """
    pixels = _unit(patches).reshape(-1, patches.shape[-1])
    hue, light, chroma = _hue_light_chroma(pixels)
    bins = _bin(hue, _HUES) * _LIGHTS + _bin(light, _LIGHTS)
    count = np.bincount(bins, minlength=_HUES * _LIGHTS)
    known = np.flatnonzero(count >= max(5.0, 5e-6 * len(pixels)))
    weight = chroma + np.float32(1e-4)  # what is nearly white falls into a bin of any hue, and must not bleach it
    total = np.bincount(bins, weight, len(count))
    sums = np.stack([np.bincount(bins, weight * channel, len(count)) for channel in pixels.T], axis=1)
    means = sums[known] / total[known, None]
    every = np.arange(len(count))
    turn = np.abs(every[:, None] // _LIGHTS - known // _LIGHTS)
    turn = np.minimum(turn, _HUES - turn)
    step = every[:, None] % _LIGHTS - known % _LIGHTS
    nearest = (turn**2 + 4 * step**2).argmin(axis=1)
    lighter = step[every, nearest, None] / _LIGHTS
    return np.asarray(np.clip(means[nearest] + lighter, 0, 1).reshape(_HUES, _LIGHTS, -1), np.float32)


def _absorbed(rng: Rng, window: Array, donor: Array, cover: Array, colours: Array, seen: tuple[int, int]) -> Array:
    """The window behind an absorber whose thickness is `cover`: darker, and of the absorber's hue where that outweighs.

    The absorber is made of what stands out by hue and darkness among `seen` pixels of the donor (at least, at most); in
    a scan of a bag, where most is organic, that is metal, where enough are seen. Attenuations (-log lightness) add with
    an exponent, because displays compress them in ways that differ; the hue turns as the absorber's share grows, as in
    dual-energy scans from organic over mixed to metal.
    """
    sample = _colours(rng, donor, int(rng.integers(seen[0], seen[1] + 1)))
    lights = sample.mean(axis=1)
    tints = sample - lights[:, None]
    stands_out = np.abs(tints - np.median(tints, axis=0)).sum(axis=1) + 0.5 * (np.median(lights) - lights)
    own_hue, own_light, _ = _hue_light_chroma(sample[int(np.argmax(stands_out))])
    densest = -np.log(np.clip(own_light, 0.02, 0.95)) * np.float32(rng.uniform(0.6, 1.15))
    power, half = np.float32(rng.uniform(1.0, 1.8)), np.float32(rng.uniform(0.3, 0.6))

    thickness = np.maximum(cover, 0) * _mottled(rng, window, 0.3)[:, :, 0]
    return _superposed(rng, window, thickness * densest, own_hue, colours, power, half)


def _superposed(
    rng: Rng, window: Array, density: Array, own: Array, colours: Array, power: np.float32, half: np.float32
) -> Array:
    """The window behind matter of the given density (-log lightness) [H, W] and hue: one for all [], or that of an
    image of it [H, W, C]."""
    grain = rng.standard_normal(density.shape, np.float32) * np.float32(rng.uniform(0, 0.006))
    there = density > _LEAST_DENSITY  # most of a window is empty, and the rest of the work is done per pixel
    behind, dense, fine = window[there], density[there], grain[there]
    own_hue = own if own.ndim == 0 else _hue_light_chroma(own[there])[0]
    added = dense**power
    hue, light, chroma = _hue_light_chroma(behind)
    present = (-np.log(np.clip(light, 0.02, 1))) ** power
    share = np.clip(added / (added + present + np.float32(1e-6)) / half, 0, 1)
    # What has no hue of its own takes the absorber's at once; the rest turns the shorter way.
    turn = (own_hue - hue + np.float32(0.5)) % 1 - np.float32(0.5)
    turned = (own_hue - turn * (1 - share) * np.clip(chroma / np.float32(_WHITE_CHROMA), 0, 1)) % 1
    absorbed = _look_up(colours, turned, np.exp(-((added + present) ** (1 / power))))
    # The table knows mean colours; what the window has beyond them fades as the absorber takes over.
    texture = (behind - _look_up(colours, hue, light)) * (1 - np.clip(3 * share, 0, 1))[:, None]
    mixed = window.copy()
    mixed[there] = absorbed + texture + fine[:, None]
    return _edges_enhanced(mixed, window, np.float32(rng.uniform(0, _STRONGEST_ENHANCEMENT)))


def _edges_enhanced(mixed: Array, window: Array, gain: np.float32) -> Array:
    """The mixture [H, W, C], with what was added to the window's density sharpened: darker along its inner edge,
    lighter along the outer one.

    Scanners' displays do this to all that they show. Without it, matter that was in the beam from the start is known by
    its rims, and is taken for normal whatever its shape.
    """
    light, before = _light(np.clip(mixed, 0, 1)), _light(window)
    added = np.log((before + _NEARLY_BLACK) / (light + _NEARLY_BLACK))
    return np.asarray(mixed * np.exp(-gain * (added - _mean3(added)))[:, :, None], np.float32)


def _hue_light_chroma(colours: Array) -> tuple[Array, Array, Array]:
    """[..., C] -> hue in turns [0, 1), lightness and chroma in [0, 1], [...] each; grey has hue 0 and chroma 0."""
    light = _light(colours)
    if colours.shape[-1] == 1:
        return np.zeros_like(light), light, np.zeros_like(light)
    red, green, blue = (colours[..., k] for k in range(3))
    along, across = red - np.float32(0.5) * (green + blue), np.float32(np.sqrt(0.75)) * (green - blue)
    hue = np.arctan2(across, along) * np.float32(0.5 / np.pi) % 1
    return hue, light, np.sqrt(along * along + across * across)


def _light(colours: Array) -> Array:
    """[..., C] -> the mean of the channels [...], lightness in [0, 1]."""
    channels = colours.shape[-1]
    return np.asarray(reduce(np.add, (colours[..., k] for k in range(channels))) / channels, np.float32)


def _look_up(table: Array, hue: Array, light: Array) -> Array:
    """The table's colours [..., C], interpolated over lightness."""
    at = np.clip(light * _LIGHTS - np.float32(0.5), 0, _LIGHTS - np.float32(1.001))
    below = at.astype(np.int64)
    fraction = (at - below.astype(np.float32))[..., None]
    row = _bin(hue, _HUES)
    return np.asarray(table[row, below] * (1 - fraction) + table[row, below + 1] * fraction, np.float32)


def _bin(values: Array, count: int) -> npt.NDArray[np.int64]:
    return np.clip((values * count).astype(np.int64), 0, count - 1)


# ------------------------------------------------------------------------------------------------------------ helpers


def _pick(weights: dict[str, float], rng: Rng) -> str:
    """One of the names, drawn by weight."""
    cumulative = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]


def _smooth_noise(rng: Rng, height: int, width: int, cells: int) -> Array:
    """Noise of about unit variance [H, W] with about `cells` features along each side."""
    knots = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    (top, fy), (left, fx) = (_knots_between(length, cells) for length in (height, width))
    rows = knots[top] * (1 - fy)[:, None] + knots[top + 1] * fy[:, None]
    return np.asarray(rows[:, left] * (1 - fx) + rows[:, left + 1] * fx, np.float32)


def _knots_between(length: int, cells: int) -> tuple[npt.NDArray[np.int64], Array]:
    """For each pixel the knot before it and the weight of the next one."""
    at = np.linspace(0, cells, length, endpoint=False, dtype=np.float32)
    before = at.astype(np.int64)
    fraction = at - before.astype(np.float32)
    return before, np.asarray(fraction * fraction * (3 - 2 * fraction), np.float32)


def _activity(pixels: Array) -> Array:
    """The range of lightness (that of the middle channel) within each block, [P / 8, P / 8]."""
    blocks = len(pixels) // _BLOCK
    light = np.ascontiguousarray(pixels[:, :, pixels.shape[2] // 2])
    cut = light.reshape(blocks, _BLOCK, -1)
    highest, lowest = (m.reshape(blocks, blocks, _BLOCK) for m in (cut.max(axis=1), cut.min(axis=1)))
    return np.asarray(highest.max(axis=2) - lowest.min(axis=2), np.float32)


def _span(inside: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """From one before the first true element to two past the last, within the array."""
    indices = np.flatnonzero(inside)
    return max(int(indices[0]) - 1, 0), min(int(indices[-1]) + 2, len(inside))


def _mean3(values: Array) -> Array:
    """The mean over 3 x 3 pixels, [P, P] -> [P, P]."""
    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9, np.float32)


def _largest(values: Array) -> Array:
    """The largest over the channels, [P, P, C] -> [P, P]; many times faster than a maximum along so short an axis."""
    return np.asarray(reduce(np.maximum, (values[:, :, k] for k in range(values.shape[2]))), np.float32)


def _unit(pixels: npt.NDArray[np.uint8]) -> Array:
    return pixels.astype(np.float32) / np.float32(255)
