"""The heat map with the truth drawn in."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vigil.serving.heat_map_panel import heat_map_panel

CYAN = np.array([0, 230, 255])


def opened(png: bytes) -> npt.NDArray[np.int64]:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(np.int64)


def cyan(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.abs(pixels - CYAN).sum(axis=2) < 30
    return found


def grey(height: int, width: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    return np.full((height, width, channels), 128, np.uint8)


def test_box_is_drawn_around_the_truth_on_the_left_alone() -> None:
    picture = opened(heat_map_panel(grey(200, 300), np.zeros((200, 300), np.float32), 1.0, boxes=[(50, 40, 120, 90)]))
    assert picture.shape == (200, 608, 3)
    rows, columns = np.nonzero(cyan(picture))
    assert (columns.min(), columns.max()) == (50, 119)
    assert (rows.min(), rows.max()) == (40, 89)


def test_mask_is_outlined_and_its_inside_left_visible() -> None:
    mask = np.zeros((200, 300), bool)
    mask[40:90, 50:120] = True
    picture = opened(heat_map_panel(grey(200, 300), np.zeros((200, 300), np.float32), 1.0, mask))
    found = cyan(picture)
    assert found[40, 50]
    assert found[89, 119]
    assert not found[60, 80]
    assert not found[:, 300:].any()


def test_mask_at_the_border_of_the_image_is_outlined_there_too() -> None:
    found = cyan(
        opened(heat_map_panel(grey(200, 200), np.zeros((200, 200), np.float32), 1.0, np.ones((200, 200), bool)))
    )
    assert found[0, :200].all()
    assert found[199, :200].all()
    assert found[:, 0].all()
    assert not found[100, 100]


def test_small_image_is_enlarged_with_its_box() -> None:
    picture = opened(heat_map_panel(grey(32, 32, 1), np.zeros((32, 32), np.float32), 1.0, boxes=[(8, 8, 24, 24)]))
    assert picture.shape[0] == 192
    _rows, columns = np.nonzero(cyan(picture))
    assert (columns.min(), columns.max()) == (48, 143)


def test_hot_pixels_show_on_the_right() -> None:
    anomaly_map = np.zeros((200, 200), np.float32)
    anomaly_map[50:100, 50:100] = 2.0
    picture = opened(heat_map_panel(grey(200, 200), anomaly_map, 1.0))
    hot, cold = picture[75, 208 + 75], picture[150, 208 + 150]
    assert hot[0] > hot[2]
    assert (cold == 128).all()  # what is not suspicious stays as it is


def test_equal_arguments_give_equal_bytes() -> None:
    anomaly_map = np.linspace(0, 2, 64 * 64, dtype=np.float32).reshape(64, 64)
    assert heat_map_panel(grey(64, 64), anomaly_map, 1.0) == heat_map_panel(grey(64, 64), anomaly_map, 1.0)


def test_map_or_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="of different sizes"):
        heat_map_panel(grey(64, 64), np.zeros((64, 32), np.float32), 1.0)
    with pytest.raises(ValueError, match="of different sizes"):
        heat_map_panel(grey(64, 64), np.zeros((64, 64), np.float32), 1.0, np.zeros((32, 64), bool))
