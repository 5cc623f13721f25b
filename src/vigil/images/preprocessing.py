"""The one preprocessing of images, masks and boxes; training, scoring, screening and the bundle all call it.

Legend: H, W scaled pixels (after preprocessing), C channels. Scaled pixel `i` of `H` covers the raw interval
`[i * raw / H, (i + 1) * raw / H)`, for images (Pillow), masks and boxes alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from vigil.config import PatchSection
from vigil.errors import DataError
from vigil.images.source import MODE_ADVICE, decode_image, decode_pixels, reduces
from vigil.records import Box

MIN_RAW_SIDE_PX = 8
MAX_SCALED_PIXELS = 1 << 28
"""Bound on H * W, so that a long thin image enlarged to `shorter_side_px` cannot exhaust memory."""


def scaled_pixels(content: bytes, name: str, patch: PatchSection, raw_size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The scaled pixels of an encoded image, uint8 [H, W, C]: as `preprocess`, by the fastest way that there is.

    The pixels are those of `preprocess`, bit by bit, also where `decode_pixels` takes over. But an image that is four
    times as large as asked for is reduced by the JPEG decoder before it is resized: other pixels, by little.

    Args:
        content: The encoded image.
        name: Stands in the error message.
        patch: The preprocessing.
        raw_size: (height, width) of the image in raw pixels.

    Raises:
        DataError: As `decode_image` and `preprocess`, with the name; the image has more pixels than `raw_size` says.
    """
    max_pixels = raw_size[0] * raw_size[1]
    whole = not reduces(min(raw_size), patch.shorter_side_px) and min(raw_size) >= MIN_RAW_SIDE_PX
    pixels = decode_pixels(content, max_pixels=max_pixels) if whole else None
    fits = pixels is not None and pixels.shape[2] <= patch.channels and pixels.shape[:2] == raw_size
    image = None if fits else decode_image(content, name, max_pixels=max_pixels, shorter_side_px=patch.shorter_side_px)
    try:
        if image is not None:
            return preprocess(image, patch, raw_size)
        assert pixels is not None, "neither of the decoders was asked"
        return _as_channels(_resized(pixels, *scaled_size(*raw_size, patch)), patch)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def preprocess(
    image: Image.Image, patch: PatchSection, raw_size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """The scaled pixels of an 8-bit grey or RGB image, uint8 [H, W, C].

    Channels first: RGB becomes grey by Pillow's `convert("L")` (ITU-R 601-2 luma), grey becomes RGB by repetition.
    Then the image is resized so that its shorter side has `patch.shorter_side_px` pixels: bicubic, with the filter
    widened when shrinking (antialiased); small images are enlarged. By PyTorch, in integers: a seventh of Pillow's
    time, and values that differ from Pillow's by at most 2. Orientation tags (EXIF) are not applied, since masks and
    boxes refer to the stored pixels.

    Args:
        image: Completely decoded.
        patch: The preprocessing.
        raw_size: (height, width) in raw pixels, where the decoder reduced the image.

    Raises:
        DataError: The mode is not L or RGB (16-bit, CMYK, palette, alpha, ...), a raw side is shorter than 8 pixels,
            or the scaled image would exceed 2**28 pixels.
    """
    if image.mode not in ("L", "RGB"):
        advice = MODE_ADVICE.get(image.mode, "is not a grey or RGB image; convert it to RGB")
        raise DataError(f"expected an 8-bit L or RGB image, found mode {image.mode}: the file {advice}")
    if min(image.size) < MIN_RAW_SIDE_PX:
        raise DataError(
            f"expected sides of at least {MIN_RAW_SIDE_PX} px, found {image.width}x{image.height} px "
            f"(width x height): leave the image out, or replace it by a larger one"
        )
    raw_height, raw_width = raw_size or (image.height, image.width)
    height, width = scaled_size(raw_height, raw_width, patch)
    if image.mode == "RGB" and patch.channels == 1:
        image = image.convert("L")
    if image.size != (raw_width, raw_height):
        # The decoder reduces by 2, 4 or 8 and rounds up: part of its last row and column lies outside of the image,
        # which only Pillow's resize can leave out.
        reduced = round(raw_width / image.width)
        inside = (0, 0, raw_width / reduced, raw_height / reduced)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=inside)
    pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    return _as_channels(_resized(pixels, height, width), patch)


def _resized(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """`pixels` [h, w, C] at [height, width, C]; the same bytes on every processor.

    In one thread: as many processes as there are processors resize images, and their threads would wait for each other.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    import torch  # only where images are resized: a second, and 200 MB in every worker process

    image = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)[None]  # [1, C, h, w], not copied
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resized = torch.nn.functional.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
        scaled: npt.NDArray[np.uint8] = resized[0].permute(1, 2, 0).contiguous().numpy()
    finally:
        torch.set_num_threads(threads)
    return scaled


def _as_channels(pixels: npt.NDArray[np.uint8], patch: PatchSection) -> npt.NDArray[np.uint8]:
    """Grey repeated where colour is asked for."""
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] < patch.channels else pixels


def scaled_size(height: int, width: int, patch: PatchSection) -> tuple[int, int]:
    """(H, W) of an image of `height` x `width` raw pixels; the longer side is rounded to the nearest pixel.

    Raises:
        DataError: H * W would exceed 2**28 pixels.
    """
    side = patch.shorter_side_px
    shorter = min(height, width)
    # Integer rounding (half up), so that no platform's float arithmetic can shift the grid by a pixel.
    scaled = (
        (height, width)
        if side is None
        else ((2 * height * side + shorter) // (2 * shorter), (2 * width * side + shorter) // (2 * shorter))
    )
    if scaled[0] * scaled[1] > MAX_SCALED_PIXELS:
        raise DataError(
            f"expected at most {MAX_SCALED_PIXELS} pixels after scaling, found {scaled[1]}x{scaled[0]} "
            f"(from {width}x{height}): crop the image, or lower patch.shorter_side_px"
        )
    return scaled


def preprocess_mask(mask: Image.Image, raw_size: tuple[int, int], patch: PatchSection) -> npt.NDArray[np.bool_]:
    """The scaled mask, bool [H, W]; True where any non-zero raw pixel touches the scaled pixel.

    Any coverage counts, so that shrinking never loses a small defect; regions therefore grow by up to one scaled
    pixel on each side. A palette mask is read by its colours, and any colour but black counts.

    Args:
        mask: Bilevel, 8- or 16-bit grey, palette or RGB.
        raw_size: (height, width) of the image that the mask belongs to.
        patch: The preprocessing.

    Raises:
        DataError: The mask's size differs from the image's, or its mode has an alpha channel or is not known.
    """
    if (mask.height, mask.width) != tuple(raw_size):
        raise DataError(
            f"mask: expected the image's size {raw_size[1]}x{raw_size[0]} px (width x height), found "
            f"{mask.width}x{mask.height}: draw the mask on the image's own pixels"
        )
    if mask.mode not in ("1", "L", "P", "RGB", "I", "I;16", "I;16B", "I;16L", "I;16N"):
        raise DataError(f"mask: expected a grey or RGB mask, found mode {mask.mode}: save it as 8-bit grey (L)")
    values = np.asarray(mask.convert("RGB") if mask.mode == "P" else mask)
    inside: npt.NDArray[np.bool_] = np.asarray(values.any(axis=2) if values.ndim == 3 else values != 0)
    height, width = scaled_size(*raw_size, patch)
    return _any_coverage(_any_coverage(inside, height).T, width).T


def _any_coverage(inside: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.bool_]:
    """Axis 0 brought to `length`: True where any True of the raw interval lies, however small its share."""
    raw = inside.shape[0]
    if raw == length:
        return inside
    start, stop = _intervals(raw, length)
    # One row of False at the end, because reduceat accepts no index equal to the length. Every second result is
    # the union over [start, stop); those between are not used.
    padded = np.pad(inside, ((0, 1), (0, 0)))
    reduced = np.logical_or.reduceat(padded, np.stack([start, stop], axis=1).ravel(), axis=0)
    return np.asarray(reduced[::2], dtype=np.bool_)


def _intervals(raw: int, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and one-past-last raw pixel that each of `length` scaled pixels touches."""
    index = np.arange(length, dtype=np.int64)
    return index * raw // length, -(-(index + 1) * raw // length)


def scale_boxes(boxes: Sequence[Box], raw_size: tuple[int, int], patch: PatchSection) -> tuple[Box, ...]:
    """The boxes in scaled pixels, clipped to the image and rounded outwards (the rule of `preprocess_mask`).

    Args:
        boxes: In raw pixels, half-open.
        raw_size: (height, width) of the image in raw pixels.
        patch: The preprocessing.

    Raises:
        DataError: A box is empty, or lies outside the image altogether.
    """
    raw_height, raw_width = raw_size
    height, width = scaled_size(raw_height, raw_width, patch)
    scaled = []
    for box in boxes:
        x0, x1 = max(box.x0, 0), min(box.x1, raw_width)
        y0, y1 = max(box.y0, 0), min(box.y1, raw_height)
        if x0 >= x1 or y0 >= y1:
            raise DataError(
                f"box '{box.kind}': expected x0 < x1 and y0 < y1 inside {raw_width}x{raw_height} px, found "
                f"x {box.x0} to {box.x1}, y {box.y0} to {box.y1}: correct the annotation"
            )
        across = (x0 * width // raw_width, -(-x1 * width // raw_width))
        down = (y0 * height // raw_height, -(-y1 * height // raw_height))
        scaled.append(Box(box.kind, across[0], down[0], across[1], down[1]))
    return tuple(scaled)


def rasterise(boxes: Sequence[Box], height: int, width: int) -> npt.NDArray[np.bool_]:
    """The union of boxes (in scaled pixels) as a mask, bool [H, W]."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for box in boxes:
        mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return mask
