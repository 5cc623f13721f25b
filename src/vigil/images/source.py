"""The one way from a manifest row to pixels: safe paths, bounded sizes, complete decoding, clear refusals."""

from __future__ import annotations

import io
import os
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from vigil.errors import DataError

# Pillow also opens formats that run other programs (EPS) or that hold no photograph; these are enough, and harmless.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
_pillow_limit = threading.Lock()

MODE_ADVICE = {
    "1": "holds 1 bit per pixel; convert it to 8-bit grey (L)",
    "P": "is a palette image; convert it to RGB",
    "PA": "is a palette image with transparency; convert it to RGB",
    "LA": "has an alpha channel; convert it to 8-bit grey (L)",
    "RGBA": "has an alpha channel; convert it to RGB",
    "RGBX": "has a padding channel; convert it to RGB",
    "CMYK": "holds printing colours (CMYK); convert it to RGB",
    "YCbCr": "holds YCbCr colours; convert it to RGB",
    "LAB": "holds Lab colours; convert it to RGB",
    "I;16": "holds 16 bits per pixel; scale it to 8-bit grey (L) with a range of your own choice",
    "I;16B": "holds 16 bits per pixel; scale it to 8-bit grey (L) with a range of your own choice",
    "I;16L": "holds 16 bits per pixel; scale it to 8-bit grey (L) with a range of your own choice",
    "I": "holds 32 bits per pixel; scale it to 8-bit grey (L) with a range of your own choice",
    "F": "holds floating-point pixels; scale it to 8-bit grey (L) with a range of your own choice",
}
"""What an image of a Pillow mode other than L and RGB is, and what its owner should do."""


def open_image(root: Path, path: str, offset: int | None, length: int, *, max_pixels: int) -> Image.Image:
    """The fully decoded image of a manifest row.

    Args:
        root: Folder of the raw data set.
        path: File below `root`, as in the manifest.
        offset: Where the image's bytes start in the file; None for the whole file.
        length: Number of encoded bytes.
        max_pixels: Images whose header announces more are refused before they are decoded.

    Raises:
        DataError: The file is missing, lies outside `root`, has another length, or does not decode completely.
    """
    content = read_encoded(root, path, offset, length)
    return decode_image(content, path if offset is None else f"{path} at byte {offset}", max_pixels=max_pixels)


def read_encoded(root: Path, path: str, offset: int | None, length: int) -> bytes:
    """The `length` encoded bytes of an image; see `open_image`.

    Raises:
        DataError: The file is missing, lies outside `root`, or has another length.
    """
    return _read(str(resolve_below(root, path)), path, offset, length)


def _read(full: str, path: str, offset: int | None, length: int | None) -> bytes:
    """`length` bytes of a file from `offset`; with None, all of them."""
    try:
        # Unbuffered and without pathlib, which would take as long as decoding a small image.
        with open(full, "rb", buffering=0) as file:  # noqa: PTH123
            if offset is not None:
                file.seek(offset)
            elif length is not None and (size := os.fstat(file.fileno()).st_size) != length:
                raise DataError(f"{path}: expected {length} bytes, found {size}; the file changed, run `dvc repro`")
            content = file.read(-1 if length is None else length) or b""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if length is not None and len(content) != length:
        raise DataError(f"{path}: expected {length} bytes at {offset or 0}, found {len(content)}; the file is cut off")
    return content


def resolve_below(root: Path, path: str) -> Path:
    """`root / path`, where no `..` and no symbolic link leads out of `root`.

    Raises:
        DataError: It leads out of `root`.
    """
    full = os.path.join(root, path)  # noqa: PTH118 - pathlib would take as long as decoding a small image
    if "\0" in path:
        raise DataError(f"{path!r}: no file can have this name; run `dvc repro` to rebuild the table that names it")
    # A link farm made by DVC's cache.type=symlink leads out as well; the message says what to set instead.
    if not os.path.realpath(full).startswith(os.path.join(os.path.realpath(root), "")):  # noqa: PTH118
        raise DataError(
            f"{path}: leads out of the data folder {root} (symbolic link or '..'); put the file itself there "
            f"(with DVC: `dvc config cache.type reflink,hardlink,copy`)"
        )
    return Path(full)


class RawFolder:
    """The raw data set's folder, for reading many files: each folder below it is checked once, each file always.

    Meant for one piece of work: a folder that becomes a link while the object lives is not looked at again.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inside: set[str] = set()

    def read(self, path: str, offset: int | None, length: int) -> bytes:
        """As `read_encoded`."""
        self._check(path)
        return _read(os.path.join(self._root, path), path, offset, length)  # noqa: PTH118

    def read_whole(self, path: str) -> bytes:
        """The bytes of a whole file; errors as `read_encoded`."""
        self._check(path)
        return _read(os.path.join(self._root, path), path, None, None)  # noqa: PTH118

    def _check(self, path: str) -> None:
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder not in self._inside or "\0" in path or os.path.islink(os.path.join(self._root, path)):  # noqa: PTH114, PTH118
            resolve_below(self._root, path)
            resolve_below(self._root, os.path.join(folder, "file"))  # noqa: PTH118
            self._inside.add(folder)


def decode_image(content: bytes, name: str, *, max_pixels: int, shorter_side_px: int | None = None) -> Image.Image:
    """The completely decoded image held by `content`; `name` stands in the error message.

    With `shorter_side_px`, a JPEG whose shorter side is at least four times as long comes at a half, a quarter or an
    eighth of its size, the smallest that still has twice `shorter_side_px`: the decoder leaves out what a resize would
    throw away. The resized result differs by little, see docs/benchmarks/data.md.

    Raises:
        DataError: `content` is empty, no image, truncated or damaged, an animation, larger than `max_pixels`, or holds
            16 bits per colour channel, which Pillow would cut to 8 without a word.
    """
    if not content:
        raise DataError(f"{name}: the file is empty")
    with warnings.catch_warnings():
        # Pillow warns about damaged metadata (EXIF, TIFF tags) that the pixels do not need.
        warnings.simplefilter("ignore")
        try:
            image = _open(content)
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(f"{name}: {width}x{height} pixels, more than the limit of {max_pixels}; scale it down")
            if image.mode in ("RGB", "RGBA", "LA", "L") and any(
                ";16" in str(tile[3]) for tile in getattr(image, "tile", ())
            ):
                raise DataError(f"{name}: holds 16 bits per channel; convert it to 8 bits with a range of your own")
            frames = getattr(image, "n_frames", 1)
            if frames != 1 and image.format != "MPO":
                raise DataError(f"{name}: holds {frames} pictures, expected one; save each as a file of its own")
            if shorter_side_px is not None and image.format == "JPEG" and reduces(min(image.size), shorter_side_px):
                image.draft(None, (2 * shorter_side_px, 2 * shorter_side_px))  # Pillow takes the size above
            image.load()
        except UnidentifiedImageError as error:
            raise DataError(f"{name}: not an image in one of the formats {', '.join(_FORMATS)}") from error
        except DataError:
            raise
        # Decoders meet damaged bytes with nearly any exception (OSError, SyntaxError, struct.error, IndexError, ...).
        except Exception as error:
            reason = str(error) or type(error).__name__
            what = "truncated" if "truncated" in reason.lower() else "damaged"
            raise DataError(f"{name}: the image is {what} and does not decode ({reason})") from error
    return image


def reduces(shorter_raw_px: int, shorter_side_px: int | None) -> bool:
    """Whether `decode_image` has a JPEG whose shorter side is `shorter_raw_px` reduced by its decoder."""
    return shorter_side_px is not None and shorter_raw_px >= 4 * shorter_side_px


def decode_pixels(content: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    """The pixels of a sound grey or colour JPEG, uint8 [H, W, C], decoded faster by simplejpeg where that is installed
    (`vigil[fast]`); None: let `decode_image` decide. The pixels are those of `decode_image`, bit by bit: both hold
    libjpeg-turbo and ask it for the same transforms."""
    if (turbo := _simplejpeg()) is None or not content.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = turbo.decode_jpeg_header(content)
        if width * height > max_pixels or colours not in ("YCbCr", "Gray"):
            return None
        # Strict: what libjpeg only warns about is for Pillow to judge.
        pixels = turbo.decode_jpeg(content, "RGB" if colours == "YCbCr" else "GRAY", strict=True)
    except ValueError:
        return None
    return cast("npt.NDArray[np.uint8]", pixels)


@cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _open(content: bytes) -> Image.Image:
    """`Image.open` with our own limit on pixels in place of Pillow's global one (the caller checks it)."""
    with _pillow_limit:
        previous, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(content), formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = previous
