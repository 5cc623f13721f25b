"""The patch grid of an image: where patches lie, how they are cut, and how maps are put together again.

Legend: H, W scaled pixels of the image; P patch side, S stride; N patches. Positions are int64 [N, 2], upper left
corners (y, x) in row-major order. With edge `reflect` the image is continued below and to the right by reflection
(as often as needed) up to `padded_shape`, so that the grid covers every pixel; with `drop` the rest is left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vigil.config import PatchSection

Positions = npt.NDArray[np.int64]
Pixel = TypeVar("Pixel", bound=np.generic)


def _counts(height: int, width: int, patch: PatchSection) -> tuple[int, int]:
    """Grid rows and columns."""
    return _grid_counts(height, width, patch.patch_size_px, patch.stride_px, patch.edge)


@lru_cache(maxsize=256)  # images of a set have few sizes
def _grid_counts(height: int, width: int, size: int, stride: int, edge: str) -> tuple[int, int]:
    steps = [
        -(-max(side - size, 0) // stride) if edge == "reflect" else (side - size) // stride for side in (height, width)
    ]
    down, across = (step + 1 if step >= 0 else 0 for step in steps)
    return (down, across) if down and across else (0, 0)


def grid_positions(height: int, width: int, patch: PatchSection) -> Positions:
    """The grid's positions, not writable; none where edge is `drop` and a side is shorter than the patch."""
    return _grid(*_counts(height, width, patch), patch.stride_px)


@lru_cache(maxsize=256)
def _grid(down: int, across: int, stride: int) -> Positions:
    positions = np.empty((down, across, 2), dtype=np.int64)
    positions[..., 0] = stride * np.arange(down)[:, None]
    positions[..., 1] = stride * np.arange(across)
    positions.setflags(write=False)
    return positions.reshape(-1, 2)


def padded_shape(height: int, width: int, patch: PatchSection) -> tuple[int, int]:
    """(H, W) that patches are cut from: what the grid spans with `reflect`, the image itself with `drop`."""
    if patch.edge == "drop":
        return height, width
    return _spanned(height, width, patch)


def _spanned(height: int, width: int, patch: PatchSection) -> tuple[int, int]:
    down, across = _counts(height, width, patch)
    size, stride = patch.patch_size_px, patch.stride_px
    return (size + (down - 1) * stride, size + (across - 1) * stride) if down else (0, 0)


def pad(image: npt.NDArray[Pixel], patch: PatchSection) -> npt.NDArray[Pixel]:
    """`image` [H, W, ...] continued below and to the right by reflection up to `padded_shape`."""
    height, width = image.shape[:2]
    padded_height, padded_width = padded_shape(height, width, patch)
    below, right = padded_height - height, padded_width - width
    if not below and not right:
        return image
    return np.pad(image, ((0, below), (0, right)) + ((0, 0),) * (image.ndim - 2), mode="reflect")


def extract(image: npt.NDArray[Pixel], positions: Positions, patch: PatchSection) -> npt.NDArray[Pixel]:
    """The patches at `positions`, [N, P, P, ...], of an image or a map [H, W, ...] of any type."""
    return cut(pad(image, patch), positions, patch)


def cut(padded: npt.NDArray[Pixel], positions: Positions, patch: PatchSection) -> npt.NDArray[Pixel]:
    """As `extract`, from an image that is already padded.

    Raises:
        ValueError: A patch does not lie inside the padded image.
    """
    size = patch.patch_size_px
    last_y, last_x = (side - size for side in padded.shape[:2])
    patches = np.empty((len(positions), size, size, *padded.shape[2:]), dtype=padded.dtype)
    for target, (y, x) in zip(patches, positions.tolist(), strict=True):
        if not (0 <= y <= last_y and 0 <= x <= last_x):
            raise ValueError(f"a patch at ({y}, {x}) with side {size} leaves the image {padded.shape[:2]}")
        target[...] = padded[y : y + size, x : x + size]
    return patches


def stitch(
    maps: npt.NDArray[np.floating[Any]], positions: Positions, height: int, width: int, patch: PatchSection
) -> npt.NDArray[np.float32]:
    """The maps [N, P, P] of an image's grid patches as one map, float32 [H, W]: the inverse of `extract`.

    Overlaps are averaged with weights that fall linearly from the patch's centre to its border (separable triangle,
    never zero), so that neighbouring patches blend without seams. Pixels that the grid leaves out (edge `drop`) take
    the value of the nearest covered pixel.

    Raises:
        ValueError: Maps and positions differ in number or shape, or leave a part of the grid uncovered.
    """
    size = patch.patch_size_px
    if maps.shape != (len(positions), size, size):
        raise ValueError(f"expected maps of shape {(len(positions), size, size)}, found {maps.shape}")
    stitched = blended(maps, positions, _spanned(height, width, patch))[:height, :width].astype(np.float32)
    missing = np.subtract((height, width), stitched.shape)
    return np.pad(stitched, ((0, missing[0]), (0, missing[1])), mode="edge")


def blended(
    maps: npt.NDArray[np.floating[Any]], positions: Positions, spanned: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """The maps [N, P, P] laid over each other with the weights of `stitch`, float64 [H, W], padding included.

    Args:
        maps: Of an image's grid patches.
        positions: Of their first pixels, [N, 2].
        spanned: H and W of what the positions cover.

    Raises:
        ValueError: The positions leave a part of it uncovered.
    """
    size = maps.shape[-1]
    total, weight_sum = np.zeros(spanned), np.zeros(spanned)
    triangle = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size)) / (size / 2)
    weight = np.outer(triangle, triangle)
    for values, (y, x) in zip(maps, positions.tolist(), strict=True):
        total[y : y + size, x : x + size] += weight * values
        weight_sum[y : y + size, x : x + size] += weight
    if not total.size or not weight_sum.all():
        height, width = spanned
        raise ValueError(f"{len(positions)} positions do not cover the grid of an image of {width}x{height} px")
    return total / weight_sum


def components(mask: npt.NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """The connected components of a mask (diagonal neighbours are connected), ordered by their first pixel.

    Returns:
        Bounding boxes int64 [N, 4] (y0, x0, y1, x1), half-open, and areas int64 [N] in pixels.
    """
    row, start, stop, label = _runs(mask)
    count, last = int(label.max(initial=-1)) + 1, np.iinfo(np.int64).max
    boxes = np.tile(np.array([last, last, 0, 0], dtype=np.int64), (count, 1))
    for column, values in enumerate((row, start, row + 1, stop)):
        (np.minimum if column < 2 else np.maximum).at(boxes[:, column], label, values)
    areas = np.zeros(count, dtype=np.int64)
    np.add.at(areas, label, stop - start)
    return boxes, areas


def central_pixels(mask: npt.NDArray[np.bool_]) -> Positions:
    """Of each component (in the order of `components`) the pixel nearest to the centre of its bounding box, int64
    [N, 2] (y, x); the centre itself may lie outside a ring or a crescent."""
    row, start, stop, label = _runs(mask)
    boxes, _ = components(mask)
    centre = (boxes[:, :2] + boxes[:, 2:]) // 2
    nearest = np.stack([row, np.clip(centre[label, 1], start, stop - 1)], axis=1)
    distance = ((nearest - centre[label]) ** 2).sum(axis=1)
    order = np.lexsort((distance, label))
    found: Positions = nearest[order[np.unique(label[order], return_index=True)[1]]]
    return found


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[Positions, Positions, Positions, Positions]:
    """The horizontal runs of True in row-major order: row, first and one-past-last column, number of the component."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    rows, starts, stops = row.tolist(), start.tolist(), stop.tolist()
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0  # first run that may touch the current one from the row above
    for run, (y, x0, x1) in enumerate(zip(rows, starts, stops, strict=True)):
        while rows[above] < y - 1 or (rows[above] == y - 1 and stops[above] < x0):
            above += 1
        other = above
        while rows[other] == y - 1 and starts[other] <= x1:
            first, second = sorted((root(other), root(run)))
            parent[second] = first
            other += 1

    roots = np.array([root(run) for run in range(len(rows))], dtype=np.int64)
    return row, start, stop, np.unique(roots, return_inverse=True)[1]


def centred_positions(centres: Positions, height: int, width: int, patch: PatchSection) -> Positions:
    """One position per centre [N, 2] (y, x): the patch around it, moved as little as needed to lie inside the image
    (at 0 along an axis on which the image is smaller than the patch)."""
    last = np.maximum(np.array([height, width]) - patch.patch_size_px, 0)
    positions: Positions = np.minimum(np.maximum(centres - patch.patch_size_px // 2, 0), last)
    return positions
