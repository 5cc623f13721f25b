"""Every way in which bytes fail to be an image has its own message, and no path leads out of the data folder."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vigil.errors import DataError
from vigil.images.source import (
    RawFolder,
    decode_image,
    decode_pixels,
    open_image,
    read_encoded,
    resolve_below,
)

LIMIT = 1_000_000


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def noise(width: int = 40, height: int = 30, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def png_16_bit_rgb(side: int = 4) -> bytes:
    """Pillow cannot write this, but reads it, cutting 16 bits to 8."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(6 * side)) for _ in range(side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_opens_a_whole_file_and_a_part_of_an_archive_alike(tmp_path: Path) -> None:
    content = encoded(noise())
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "all.tar").write_bytes(b"x" * 17 + content + b"y" * 5)
    whole = open_image(tmp_path, "a.png", None, len(content), max_pixels=LIMIT)
    part = open_image(tmp_path, "all.tar", 17, len(content), max_pixels=LIMIT)
    assert np.array_equal(np.asarray(whole), np.asarray(noise()))
    assert np.array_equal(np.asarray(whole), np.asarray(part))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, this is no picture", "not an image in one of the formats PNG, JPEG"),
        (encoded(noise(200, 200), "JPEG")[:4000], "truncated and does not decode"),
        (encoded(noise(200, 200))[:4000], "truncated and does not decode"),
        (encoded(noise(200, 200))[:40], "does not decode|not an image"),
        (encoded(Image.new("L", (1001, 1000))), r"1001x1000 pixels, more than the limit of 1000000"),
        (png_16_bit_rgb(), "holds 16 bits per channel"),
        (encoded(noise(), "GIF", save_all=True, append_images=[noise(41, 30)]), "holds 2 pictures, expected one"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_each_unusable_content_has_its_own_message(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decode_image(content, "bag 7", max_pixels=LIMIT)
    assert str(caught.value).startswith("bag 7: ")


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK", "LA", "RGBA", "I;16"])
def test_a_readable_image_of_any_mode_is_a_fact_and_not_a_fault(mode: str) -> None:
    image = Image.new(mode, (1, 1))
    assert decode_image(encoded(image, "TIFF"), "x", max_pixels=LIMIT).mode == mode


def test_a_telephones_jpeg_with_further_pictures_gives_the_first() -> None:
    content = encoded(noise(), "MPO", save_all=True, append_images=[noise(10, 8)])
    assert decode_image(content, "x", max_pixels=LIMIT).size == (40, 30)


def test_our_limit_on_pixels_replaces_pillows_and_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(encoded(noise()), "x", max_pixels=LIMIT).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_damaged_bytes_never_end_in_another_exception_than_ours() -> None:
    random = np.random.default_rng(1)
    sources = [encoded(noise(), kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")]
    refused = 0
    for number in range(400):
        content = bytearray(sources[number % len(sources)])
        for place in random.integers(0, len(content), 1 + number % 8):
            content[place] = random.integers(0, 256)
        if number % 3 == 0:
            del content[int(random.integers(1, len(content))) :]
        try:
            decode_image(bytes(content), "x", max_pixels=LIMIT).getpixel((0, 0))
        except DataError:
            refused += 1
    assert 100 < refused < 400


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"12345")
    with pytest.raises(DataError, match=r"a.png: expected 4 bytes, found 5; the file changed"):
        read_encoded(tmp_path, "a.png", None, 4)
    with pytest.raises(DataError, match=r"a.png: expected 4 bytes at 3, found 2; the file is cut off"):
        read_encoded(tmp_path, "a.png", 3, 4)
    with pytest.raises(DataError, match=r"b.png: cannot be read \(No such file"):
        read_encoded(tmp_path, "b.png", None, 4)


def test_no_path_leads_out_of_the_data_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(noise()))
    (tmp_path / "root-2").mkdir()
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inner.png").write_bytes(b"1")
    (root / "inner-link.png").symlink_to(root / "inner.png")
    for path in ("link.png", "../secret.png", "../root-2/a.png", str(tmp_path / "secret.png")):
        with pytest.raises(DataError, match="leads out of the data folder"):
            read_encoded(root, path, None, 1)
    assert read_encoded(root, "inner-link.png", None, 1) == b"1"
    assert resolve_below(root, "inner.png") == root / "inner.png"


# ---------------------------------------------------------------------------------------------------- the fast decoder


@pytest.mark.parametrize("options", [{"quality": 30}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
@pytest.mark.parametrize("size", [(40, 30), (257, 131), (9, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_fast_decoder_gives_pillows_pixels(
    options: dict[str, object], size: tuple[int, int], channels: int
) -> None:
    pytest.importorskip("simplejpeg", reason="needs vigil[fast]")
    content = encoded(noise(*size, channels), "JPEG", **options)
    pixels = decode_pixels(content, max_pixels=LIMIT)
    assert pixels is not None
    image = decode_image(content, "a.jpg", max_pixels=LIMIT)
    np.testing.assert_array_equal(pixels.squeeze(), np.asarray(image))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff and no more",
        encoded(noise(200, 200), "JPEG")[:4000],
        encoded(noise(200, 200), "JPEG")[:-2000] + b"\0" * 2000,
        encoded(Image.new("CMYK", (40, 40)), "JPEG"),
        encoded(noise()),
        encoded(Image.new("L", (1001, 1000)), "JPEG"),
    ],
    ids=["empty", "no JPEG", "truncated", "damaged", "CMYK", "PNG", "too large"],
)
def test_the_fast_decoder_leaves_what_is_not_sound_to_pillow(content: bytes) -> None:
    assert decode_pixels(content, max_pixels=LIMIT) is None


def test_a_folder_that_was_read_from_still_lets_no_link_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.png").write_bytes(b"inside")
    (tmp_path / "outside.png").write_bytes(b"outside")
    raw = RawFolder(root)
    assert raw.read("in/a.png", None, 6) == raw.read_whole("in/a.png") == b"inside"
    assert raw.read("in/a.png", 2, 3) == b"sid"
    (root / "in" / "b.png").symlink_to(tmp_path / "outside.png")
    (root / "out").symlink_to(tmp_path)
    for path in ("in/b.png", "out/outside.png", "in/../../outside.png", "../outside.png"):
        with pytest.raises(DataError, match="leads out of the data folder"):
            raw.read_whole(path)
    (root / "in" / "c.png").symlink_to(root / "in" / "a.png")
    assert raw.read_whole("in/c.png") == b"inside"
    with pytest.raises(DataError, match="expected 5 bytes, found 6"):
        raw.read("in/a.png", None, 5)
