"""The one preprocessing: what it accepts, what comes out, and that masks and boxes stay on the pixels they mark."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vigil.config import PatchSection
from vigil.errors import DataError
from vigil.images.preprocessing import preprocess, preprocess_mask, rasterise, scale_boxes, scaled_pixels, scaled_size
from vigil.records import Box


def grey(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def colour(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_native_resolution_keeps_every_pixel() -> None:
    image = colour(40, 50)
    pixels = preprocess(image, PatchSection(channels=3))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image))


def test_grey_becomes_colour_by_repetition() -> None:
    image = grey(20, 30)
    pixels = preprocess(image, PatchSection(channels=3))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[:, :, channel], np.asarray(image))


def test_colour_becomes_grey_by_pillows_luma() -> None:
    image = Image.new("RGB", (10, 9), (200, 100, 50))
    pixels = preprocess(image, PatchSection(channels=1))
    assert pixels.shape == (9, 10, 1)
    assert set(pixels.ravel().tolist()) == {round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}


@pytest.mark.parametrize(
    ("raw", "side", "expected"),
    [
        ((100, 200), 50, (50, 100)),
        ((200, 100), 50, (100, 50)),
        ((8, 8), 32, (32, 32)),  # enlarged, as the handwritten digits are
        ((30, 50), 40, (40, 67)),  # 66.67, rounded to the nearest
        ((100, 125), 50, (50, 63)),  # 62.5, half goes up
        ((77, 133), None, (77, 133)),
    ],
)
def test_the_shorter_side_gets_the_asked_length(
    raw: tuple[int, int], side: int | None, expected: tuple[int, int]
) -> None:
    patch = PatchSection(shorter_side_px=side, patch_size_px=32)
    assert scaled_size(*raw, patch) == expected
    assert preprocess(colour(*raw), patch).shape == (*expected, 3)


def test_shrinking_is_antialiased() -> None:
    """A checkerboard of single pixels becomes flat grey; without a filter its black or its white would remain."""
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = preprocess(Image.fromarray(board), PatchSection(channels=1, shorter_side_px=32, patch_size_px=32))
    assert np.abs(pixels.astype(int) - 127.5).max() <= 4


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(90, 121), (33, 257), (64, 64), (21, 17)])
def test_resizing_gives_pillows_pixels_but_for_two_grey_levels(size: tuple[int, int], mode: str) -> None:
    """On noise, the hardest there is: at most 2 of 255 off, and nearly everywhere not at all."""
    image = colour(*size).convert(mode)
    for side in (32, 47, 150):
        patch = PatchSection(shorter_side_px=side, patch_size_px=32, channels=1 if mode == "L" else 3)
        height, width = scaled_size(*size, patch)
        pillows = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
        difference = np.abs(preprocess(image, patch).astype(int) - pillows)
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.02


_THREADS = """
import os
import numpy as np
import torch
from PIL import Image
from vigil.config import PatchSection
from vigil.images.preprocessing import preprocess
torch.set_num_threads(2)
image = Image.fromarray(np.zeros((800, 640, 3), np.uint8))
before = len(os.listdir("/proc/self/task"))
preprocess(image, PatchSection(shorter_side_px=256, patch_size_px=64))
assert torch.get_num_threads() == 2
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_resizing_starts_no_thread_and_leaves_the_number_as_it_was() -> None:
    """Two processes that resized with two threads each took twice the time of one."""
    done = subprocess.run([sys.executable, "-c", _THREADS], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("I;16", "16 bits"),
        ("I", "32 bits"),
        ("F", "floating-point"),
        ("1", "1 bit"),
        ("P", "palette"),
        ("CMYK", "CMYK"),
        ("RGBA", "alpha"),
        ("LA", "alpha"),
        ("HSV", "convert it to RGB"),
    ],
)
def test_other_modes_are_refused_with_advice(mode: str, advice: str) -> None:
    with pytest.raises(DataError, match=rf"found mode {mode}: .*{advice}"):
        preprocess(Image.new(mode, (32, 32)), PatchSection())


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (200, 7)])
def test_tiny_images_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=rf"at least 8 px, found {size[0]}x{size[1]} px"):
        preprocess(Image.new("L", size), PatchSection(shorter_side_px=64))


def test_a_thin_image_cannot_exhaust_memory() -> None:
    with pytest.raises(DataError, match=r"at most 268435456 pixels after scaling, found .* \(from 500000x8\)"):
        preprocess(Image.new("L", (500_000, 8)), PatchSection(shorter_side_px=256))


def test_a_single_pixel_of_a_mask_survives_any_shrinking() -> None:
    patch = PatchSection(shorter_side_px=32, patch_size_px=32)
    for y, x in [(0, 0), (317, 500), (399, 799)]:
        mask = np.zeros((400, 800), dtype=np.uint8)
        mask[y, x] = 1
        scaled = preprocess_mask(Image.fromarray(mask), (400, 800), patch)
        assert scaled.shape == (32, 64)
        # 12.5 raw pixels per scaled pixel: the pixel lies in one or, across a border, in two per axis.
        assert scaled[int(y / 12.5), int(x / 12.5)]
        assert scaled.sum() <= 4


def test_an_unscaled_mask_is_kept_whatever_its_mode() -> None:
    inside = np.random.default_rng(0).random((16, 24)) < 0.2
    for mask in (
        Image.fromarray(inside),
        Image.fromarray(inside.astype(np.uint8)),
        Image.fromarray(inside.astype(np.uint16)),
        Image.fromarray(np.repeat(inside[..., None] * np.uint8(255), 3, axis=2)),
        Image.fromarray(inside.astype(np.uint8) * 255).convert("P"),
    ):
        np.testing.assert_array_equal(preprocess_mask(mask, (16, 24), PatchSection()), inside)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"image's size 24x16 px \(width x height\), found 16x24"):
        preprocess_mask(Image.new("L", (16, 24)), (16, 24), PatchSection())


def test_a_mask_with_an_alpha_channel_is_refused() -> None:
    with pytest.raises(DataError, match="found mode RGBA"):
        preprocess_mask(Image.new("RGBA", (24, 16)), (16, 24), PatchSection())


def test_boxes_scale_as_their_rasterised_masks_do() -> None:
    """A box drawn as a mask and scaled equals the box scaled and drawn: one rule for both."""
    patch = PatchSection(shorter_side_px=33, patch_size_px=32)
    rng = np.random.default_rng(0)
    for _ in range(50):
        x0, x1 = sorted(rng.choice(91, 2, replace=False).tolist())
        y0, y1 = sorted(rng.choice(71, 2, replace=False).tolist())
        box = Box("gun", x0, y0, x1, y1)
        drawn = Image.fromarray(rasterise([box], 70, 90))
        expected = preprocess_mask(drawn, (70, 90), patch)
        np.testing.assert_array_equal(rasterise(scale_boxes([box], (70, 90), patch), *expected.shape), expected)


def test_boxes_are_clipped_to_the_image() -> None:
    patch = PatchSection()
    assert scale_boxes([Box("gun", -5, 3, 200, 9)], (50, 100), patch) == (Box("gun", 0, 3, 100, 9),)


@pytest.mark.parametrize("box", [Box("gun", 4, 4, 4, 9), Box("gun", 100, 0, 120, 9), Box("gun", 9, 4, 4, 9)])
def test_boxes_without_a_pixel_are_refused(box: Box) -> None:
    with pytest.raises(DataError, match=r"box 'gun': expected x0 < x1 and y0 < y1 inside 100x50 px"):
        scale_boxes([box], (50, 100), PatchSection())


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def smooth(height: int, width: int) -> Image.Image:
    return colour(12, 16).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [None, 90, 47])
@pytest.mark.parametrize("image", [colour(90, 121), grey(90, 121)], ids=["colour", "grey"])
def test_an_encoded_image_gives_the_pixels_of_the_decoded_one(
    image: Image.Image, side: int | None, channels: int
) -> None:
    patch = PatchSection(channels=channels, shorter_side_px=side)  # type: ignore[arg-type]
    content = jpeg(image)
    expected = preprocess(Image.open(io.BytesIO(content)), patch)
    np.testing.assert_array_equal(scaled_pixels(content, "a.jpg", patch, (90, 121)), expected)


def test_a_large_jpeg_is_reduced_by_its_decoder_to_nearly_the_same_pixels() -> None:
    """4.2 times as large as wanted: decoded at a half, whose sides (455 x 336) are no multiples of the wanted ones."""
    patch, content = PatchSection(shorter_side_px=160), jpeg(smooth(671, 909))
    pixels = scaled_pixels(content, "a.jpg", patch, (671, 909))
    image = Image.open(io.BytesIO(content))
    whole = preprocess(image, patch)
    assert pixels.shape == whole.shape == (*scaled_size(671, 909, patch), 3)
    difference = np.abs(pixels.astype(int) - whole)
    assert 0 < difference.mean() < 0.5
    assert difference.max() <= 8
    # One that is less than four times as large is not, and other formats never are.
    np.testing.assert_array_equal(
        scaled_pixels(content, "a.jpg", PatchSection(shorter_side_px=168), (671, 909)),
        preprocess(image, PatchSection(shorter_side_px=168)),
    )


def test_an_encoded_image_that_would_exhaust_memory_is_refused_by_name() -> None:
    patch = PatchSection(shorter_side_px=4096)
    with pytest.raises(DataError, match=r"a\.jpg: expected at most 268435456 pixels after scaling"):
        scaled_pixels(jpeg(colour(8, 400)), "a.jpg", patch, (8, 400))


def test_an_image_of_another_size_than_the_manifest_says_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"a\.jpg: 40x30 pixels, more than the limit"):
        scaled_pixels(jpeg(colour(30, 40)), "a.jpg", PatchSection(), (20, 40))
    with pytest.raises(DataError, match=r"a\.png: expected sides of at least 8 px"):
        scaled_pixels(jpeg(colour(7, 40)), "a.png", PatchSection(), (7, 40))
