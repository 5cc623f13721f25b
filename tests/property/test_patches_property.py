"""Extraction and stitching over random sizes; components and masks against naive loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from vigil.config import PatchSection
from vigil.images.patches import central_pixels, components, extract, grid_positions, padded_shape, stitch
from vigil.images.preprocessing import preprocess_mask, scaled_size

sides = st.integers(8, 150)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def grids(draw: st.DrawFn, edge: str) -> PatchSection:
    size = draw(st.sampled_from([32, 64]))
    return PatchSection(patch_size_px=size, stride_px=draw(st.integers(7, size)), edge=edge)


@settings(max_examples=60, deadline=None)
@given(sides, sides, seeds, grids("reflect"))
def test_stitch_inverts_extract(height: int, width: int, seed: int, patch: PatchSection) -> None:
    image = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    positions = grid_positions(height, width, patch)
    stitched = stitch(extract(image, positions, patch), positions, height, width, patch)
    assert stitched.dtype == np.float32
    np.testing.assert_allclose(stitched, image, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(sides, sides, seeds, grids("drop"))
def test_stitch_inverts_extract_where_the_grid_covers(height: int, width: int, seed: int, patch: PatchSection) -> None:
    image = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    positions = grid_positions(height, width, patch)
    assert (len(positions) == 0) == (min(height, width) < patch.patch_size_px)
    if len(positions):
        bottom, right = positions.max(axis=0) + patch.patch_size_px
        assert bottom > height - patch.stride_px
        assert right > width - patch.stride_px
        stitched = stitch(extract(image, positions, patch), positions, height, width, patch)
        assert stitched.shape == image.shape
        np.testing.assert_allclose(stitched[:bottom, :right], image[:bottom, :right], rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(sides, sides, grids("reflect"))
def test_the_grid_covers_every_pixel_and_nothing_needless(height: int, width: int, patch: PatchSection) -> None:
    positions = grid_positions(height, width, patch)
    covered = np.zeros(padded_shape(height, width, patch), dtype=bool)
    for y, x in positions:
        covered[y : y + patch.patch_size_px, x : x + patch.patch_size_px] = True
    assert covered.all()
    assert (positions % patch.stride_px == 0).all()
    assert len(np.unique(positions, axis=0)) == len(positions)
    # The patch before the last one must have left something over, along each axis.
    last = positions.max(axis=0)
    for axis, side in enumerate((height, width)):
        assert last[axis] == 0 or last[axis] - patch.stride_px + patch.patch_size_px < side


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([(32, 16), (64, 32), (32, 8)]))
def test_neighbouring_patches_leave_no_seam(seed: int, size_and_stride: tuple[int, int]) -> None:
    """Patches that disagree as 0 and 1: the map moves from one to the other over a whole stride, never in a step."""
    size, stride = size_and_stride
    patch = PatchSection(patch_size_px=size, stride_px=stride)
    positions = grid_positions(150, 130, patch)
    level = np.random.default_rng(seed).integers(0, 2, len(positions)).astype(np.float32)
    maps = np.broadcast_to(level[:, None, None], (len(positions), size, size))
    stitched = stitch(maps, positions, 150, 130, patch)
    steps = [np.abs(np.diff(stitched, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) <= 1 / stride + 1e-6


@settings(max_examples=100, deadline=None)
@given(npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_components_equal_a_flood_fill(mask: np.ndarray) -> None:
    expected = []
    left = mask.copy()
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        pixels, todo = [], [start]
        left[start] = False
        while todo:
            y, x = todo.pop()
            pixels.append((y, x))
            for ny in range(max(y - 1, 0), min(y + 2, mask.shape[0])):
                for nx in range(max(x - 1, 0), min(x + 2, mask.shape[1])):
                    if left[ny, nx]:
                        left[ny, nx] = False
                        todo.append((ny, nx))
        ys, xs = zip(*pixels, strict=True)
        expected.append(([min(ys), min(xs), max(ys) + 1, max(xs) + 1], len(pixels)))
    boxes, areas = components(mask)
    assert list(zip(boxes.tolist(), areas.tolist(), strict=True)) == expected
    for (y, x), (y0, x0, y1, x1) in zip(central_pixels(mask).tolist(), boxes.tolist(), strict=True):
        assert mask[y, x]
        assert y0 <= y < y1
        assert x0 <= x < x1


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(8, 70), seeds)
def test_a_scaled_mask_is_the_union_of_all_raw_pixels_it_touches(height: int, width: int, side: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.05
    patch = PatchSection(shorter_side_px=side)
    scaled = preprocess_mask(Image.fromarray(mask), (height, width), patch)
    rows, columns = scaled_size(height, width, patch)
    expected = np.zeros((rows, columns), dtype=bool)
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, -(-(i + 1) * height // rows)
            left, right = j * width // columns, -(-(j + 1) * width // columns)
            expected[i, j] = mask[top:bottom, left:right].any()
    np.testing.assert_array_equal(scaled, expected)
