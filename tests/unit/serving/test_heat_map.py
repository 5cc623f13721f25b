"""Regions and pictures, on maps drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vigil.serving.heat_map import Region, coloured, find_regions, heat_map


def drawn() -> np.ndarray:
    """10 x 20: one block of 3 x 4 with peak 5, one of 2 x 2 with peak 9, one single pixel."""
    values = np.zeros((10, 20), np.float32)
    values[1:4, 2:6] = 2
    values[2, 3] = 5
    values[6:8, 10:12] = 9
    values[9, 19] = 7
    return values


def test_regions_by_hand() -> None:
    assert find_regions(drawn(), 1.0, (10, 20)) == (
        Region((10, 6, 12, 8), 4, 9.0),
        Region((2, 1, 6, 4), 12, 5.0),
    )


def test_the_level_itself_is_not_above_the_level() -> None:
    assert [r.peak for r in find_regions(drawn(), 2.0, (10, 20))] == [9.0]
    assert find_regions(drawn(), 9.0, (10, 20)) == ()


def test_boxes_and_areas_are_in_raw_pixels_and_boxes_cover_the_region() -> None:
    double = find_regions(drawn(), 1.0, (20, 40))
    assert double == (Region((20, 12, 24, 16), 16, 9.0), Region((4, 2, 12, 8), 48, 5.0))
    (shrunk, _) = find_regions(drawn(), 1.0, (7, 13))  # 10 -> 7 and 20 -> 13: outwards to whole raw pixels
    assert shrunk.box == (10 * 13 // 20, 6 * 7 // 10, -(-12 * 13 // 20), -(-8 * 7 // 10)) == (6, 4, 8, 6)


def test_diagonal_neighbours_are_one_region() -> None:
    values = np.zeros((6, 6), np.float32)
    values[0:2, 0:2] = values[2:4, 2:4] = 1
    assert find_regions(values, 0.5, (6, 6)) == (Region((0, 0, 4, 4), 8, 1.0),)


def test_colours_depend_on_value_over_level_alone() -> None:
    values = np.array([[0, 1, 2, 50]], np.float32)
    colours = coloured(values, 2.0)
    assert colours.dtype == np.uint8
    assert colours[0, 0].tolist() == [255, 240, 80]
    assert colours[0, 1].tolist() == [255, 40, 60]
    assert colours[0, 2].tolist() == colours[0, 3].tolist() == [200, 0, 180]
    np.testing.assert_array_equal(coloured(values * 7, 14.0), colours)


def test_a_level_of_zero_is_no_division_by_zero() -> None:
    assert coloured(np.array([[0, 1e-3]], np.float32), 0.0)[0].tolist() == [[255, 240, 80], [200, 0, 180]]


def test_the_picture_shows_the_image_and_an_outline_where_the_region_is() -> None:
    image = Image.new("L", (260, 130), 200)
    regions = find_regions(drawn(), 1.0, (130, 260))
    assert regions[0].box == (130, 78, 156, 104)
    picture = np.asarray(heat_map(image, drawn(), 1.0, regions))
    assert picture.shape == (130, 528, 3)
    assert (picture[:, :260] == 200).all()
    right = picture[:, 268:]
    outline = (right == [255, 40, 40]).all(axis=2)
    assert outline[78, 130:156].all()
    assert outline[103, 130:156].all()
    assert outline[78:104, [130, 155]].all()
    assert not outline[82:100, 134:152].any()
    assert not outline[0].any()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4000, 1000), (1600, 400)),  # shrunk
        ((300, 200), (300, 200)),
        ((32, 32), (128, 128)),  # enlarged fourfold
        ((40, 30), (200, 150)),
        ((1000, 10), (1000, 10)),  # long and thin: neither
        ((5000, 10), (1600, 3)),
    ],
)
def test_pictures_can_be_looked_at(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = heat_map(Image.new("RGB", size), np.zeros((8, 9), np.float32), 1.0, ())
    assert picture.size == (2 * expected[0] + 8, expected[1])
