"""The patch grid, stitching, mask components: answers that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vigil.config import PatchSection
from vigil.images.patches import (
    central_pixels,
    centred_positions,
    components,
    extract,
    grid_positions,
    padded_shape,
    stitch,
)

REFLECT = PatchSection(patch_size_px=32, stride_px=16)
DROP = PatchSection(patch_size_px=32, stride_px=16, edge="drop")


def test_grid_of_an_image_that_fits() -> None:
    assert grid_positions(32, 64, REFLECT).tolist() == [[0, 0], [0, 16], [0, 32]]
    assert grid_positions(32, 64, DROP).tolist() == [[0, 0], [0, 16], [0, 32]]
    assert padded_shape(32, 64, REFLECT) == (32, 64)


def test_the_rest_is_padded_or_dropped() -> None:
    assert grid_positions(33, 40, REFLECT).tolist() == [[0, 0], [0, 16], [16, 0], [16, 16]]
    assert padded_shape(33, 40, REFLECT) == (48, 48)
    assert grid_positions(33, 40, DROP).tolist() == [[0, 0]]
    assert padded_shape(33, 40, DROP) == (33, 40)


def test_an_image_smaller_than_the_patch() -> None:
    assert grid_positions(8, 100, DROP).shape == (0, 2)
    assert grid_positions(8, 8, REFLECT).tolist() == [[0, 0]]
    row = np.arange(8, dtype=np.uint8)
    patch = extract(np.tile(row, (8, 1)), grid_positions(8, 8, REFLECT), REFLECT)[0]
    # Reflected as often as needed: 0..7, 6..0, 1..7, 6..0, 1..3
    there_and_back = [*range(8), *range(6, 0, -1)]
    assert patch[0].tolist() == [there_and_back[i % 14] for i in range(32)]


def test_extract_keeps_channels_and_type() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    patches = extract(image, grid_positions(64, 48, REFLECT), REFLECT)
    assert patches.shape == (6, 32, 32, 3)
    assert patches.dtype == np.uint8
    np.testing.assert_array_equal(patches[3], image[16:48, 16:48])


def test_positions_outside_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves the image"):
        extract(np.zeros((64, 64)), np.array([[0, 48]]), DROP)
    with pytest.raises(ValueError, match="leaves the image"):
        extract(np.zeros((64, 64)), np.array([[-1, 0]]), REFLECT)


def test_two_patches_blend_along_a_straight_ramp() -> None:
    """Left patch 0, right patch 1, half overlapping: weights (15.5 - i) / 16 and (i + 0.5) / 16 add up to one."""
    maps = np.stack([np.zeros((32, 32)), np.ones((32, 32))]).astype(np.float32)
    stitched = stitch(maps, grid_positions(32, 48, REFLECT), 32, 48, REFLECT)
    ramp = [0.0] * 16 + [(i + 0.5) / 16 for i in range(16)] + [1.0] * 16
    np.testing.assert_allclose(stitched, np.tile(ramp, (32, 1)), atol=1e-6)


def test_constant_maps_stitch_to_the_same_constant() -> None:
    positions = grid_positions(100, 77, REFLECT)
    maps = np.full((len(positions), 32, 32), 0.1, dtype=np.float32)
    assert (stitch(maps, positions, 100, 77, REFLECT) == np.float32(0.1)).all()


def test_stitching_does_not_depend_on_the_order_of_patches() -> None:
    positions = grid_positions(70, 90, REFLECT)
    maps = np.random.default_rng(0).random((len(positions), 32, 32)).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(positions))
    np.testing.assert_allclose(
        stitch(maps[order], positions[order], 70, 90, REFLECT), stitch(maps, positions, 70, 90, REFLECT), atol=1e-6
    )


def test_dropped_pixels_take_the_nearest_value() -> None:
    positions = grid_positions(40, 40, DROP)
    maps = np.arange(32 * 32, dtype=np.float32).reshape(1, 32, 32)
    stitched = stitch(maps, positions, 40, 40, DROP)
    np.testing.assert_array_equal(stitched[:32, :32], maps[0])
    np.testing.assert_array_equal(stitched[32:, :32], np.tile(maps[0, 31], (8, 1)))
    assert (stitched[32:, 32:] == maps[0, 31, 31]).all()


def test_stitch_refuses_maps_that_do_not_cover_the_grid() -> None:
    positions = grid_positions(64, 64, REFLECT)
    maps = np.zeros((len(positions), 32, 32), dtype=np.float32)
    with pytest.raises(ValueError, match="do not cover the grid of an image of 64x64 px"):
        stitch(maps[:-1], positions[:-1], 64, 64, REFLECT)
    with pytest.raises(ValueError, match="expected maps of shape"):
        stitch(maps[:-1], positions, 64, 64, REFLECT)
    with pytest.raises(ValueError, match="do not cover"):
        stitch(maps[:0], positions[:0], 20, 64, DROP)


def test_components_join_diagonally_and_report_box_and_area() -> None:
    mask = np.array(
        [
            [1, 0, 0, 0, 1, 1],
            [0, 1, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 1],
            [1, 0, 0, 1, 1, 1],
        ],
        dtype=bool,
    )
    boxes, areas = components(mask)
    assert boxes.tolist() == [[0, 0, 2, 2], [0, 4, 1, 6], [2, 3, 4, 6], [3, 0, 4, 1]]
    assert areas.tolist() == [2, 2, 5, 1]


def test_an_empty_mask_has_no_component() -> None:
    boxes, areas = components(np.zeros((5, 7), dtype=bool))
    assert boxes.shape == (0, 4)
    assert areas.shape == (0,)


def test_the_central_pixel_belongs_to_its_component() -> None:
    mask = np.zeros((9, 20), dtype=bool)
    mask[0:9, 0:9] = True
    mask[1:8, 1:8] = False  # a ring: its centre (4, 4) lies outside
    mask[2:5, 12:17] = True
    ring, block = central_pixels(mask).tolist()
    assert ring in ([0, 4], [4, 0], [4, 8], [8, 4])
    assert block == [3, 14]
    assert central_pixels(np.zeros((3, 3), dtype=bool)).shape == (0, 2)


def test_centred_positions_stay_inside_the_image() -> None:
    centres = np.array([[45, 50], [2, 2], [98, 119]])
    assert centred_positions(centres, 100, 120, REFLECT).tolist() == [[29, 34], [0, 0], [68, 88]]
    assert centred_positions(centres[:1], 20, 120, REFLECT).tolist() == [[0, 34]]
