"""Simulated bags by the hundred thousand, in SIXray's layout: a few hundred simulated ones, put together anew.

The simulator takes some 60 ms per bag. An image here is the product of two simulated bags, as X-rays through both would
see them, each mirrored and shifted at random: millions of different images for 2 ms each, with the statistics of scans,
that the search for near-repeats tells apart.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vigil.files import write_bytes, write_text, written_aside
from vigil.images.baggage import simulate_bag
from vigil.images.baggage.bag import Box
from vigil.images.baggage.dataset import voc_annotation
from vigil.images.baggage.threats import KINDS
from vigil.progress import track
from vigil.seeding import numpy_generator

_WORKERS = 2
_CHUNK = 250
_POSITIVES = 10  # one image in ten has a threat
_APART = 3  # between the numbers in the names: neighbouring numbers would be two views of one bag

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Bags:
    """What the images of a set are like."""

    height: int
    width: int
    simulated: int
    """How many bags are simulated."""
    quality: int = 92
    subsampling: str = "4:4:4"


SMALL = Bags(256, 256, 300)
"""As `vigil stage raw` writes its simulated bags."""
LARGE = Bags(800, 640, 40, 85, "4:2:0")
"""The size and encoding of an image of SIXray (median of a slice of 300: 642 x 840 pixels, 107 kB)."""


def write_bags(root: Path, images: int, bags: Bags = SMALL) -> None:
    """Writes the first `images` of the set that `bags` describes below `root`; a tenth has a threat and its box.

    Images that are there already are left alone, so that a killed run goes on where it was.

    Args:
        root: Gets `JPEGImages/`, `Annotation/`, and beside them the simulated bags for the worker processes.
        images: How many; a larger set begins with the images of a smaller one.
        bags: Size, encoding and variety.
    """
    for folder in ("JPEGImages", "Annotation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    simulated = root / "simulated.npz"
    with ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as pool:
        if not simulated.exists():
            found = list(pool.map(partial(_simulate, bags), range(bags.simulated), chunksize=10))
            with written_aside(simulated) as new, new.open("wb") as file:
                np.savez(file, pixels=np.stack([p for p, _ in found]), boxes=np.array([b for _, b in found], np.int64))
        starts = range(0, images, _CHUNK)
        write = partial(_write, root, bags, images)
        for _ in track(pool.map(write, starts), "benchmark images", len(starts), "chunks"):
            pass
    simulated.unlink()


def _simulate(bags: Bags, number: int) -> tuple[Pixels, tuple[int, int, int, int]]:
    """A bag; one in four has a threat in the box (x0, y0, x1, y1)."""
    threat = KINDS[number // 4 % len(KINDS)] if number % 4 == 0 else None
    scan = simulate_bag(0, number, threat, bags.width, bags.height)
    box = scan.boxes[0] if scan.boxes else Box("", 0, 0, 0, 0)
    return scan.image, (box.x0, box.y0, box.x1, box.y1)


@lru_cache(maxsize=1)
def _simulated(path: Path) -> tuple[Pixels, npt.NDArray[np.int64]]:
    with np.load(path) as file:
        return file["pixels"], file["boxes"]


def _write(root: Path, bags: Bags, images: int, start: int) -> None:
    pixels, boxes = _simulated(root / "simulated.npz")
    for number in range(start, min(start + _CHUNK, images)):
        positive = number % _POSITIVES == 0
        name = f"{'P' if positive else 'N'}{number * _APART:07d}"
        if (root / f"JPEGImages/{name}.jpg").exists():
            continue
        random = numpy_generator(0, "benchmark bag", number)
        # Threats stand at every fourth place.
        first = int(random.integers(len(pixels) // 4) * 4 if positive else random.integers(len(pixels) // 4) * 4 + 1)
        second = int(random.integers(len(pixels) // 4) * 4 + 2)
        image, box = _moved(pixels[first], boxes[first].tolist(), random, inside=positive)
        other, _ = _moved(pixels[second], [0, 0, 0, 0], random, inside=False)
        both = (image.astype(np.uint16) * other // 255).astype(np.uint8)
        if positive:
            kind = KINDS[first // 4 % len(KINDS)]
            xml = voc_annotation(f"{name}.jpg", bags.width, bags.height, (Box(kind, *box),))
            write_text(root / f"Annotation/{name}.xml", xml)
        encoded = io.BytesIO()
        Image.fromarray(both).save(encoded, "JPEG", quality=bags.quality, subsampling=bags.subsampling)
        write_bytes(root / f"JPEGImages/{name}.jpg", encoded.getvalue())


def _moved(
    pixels: Pixels, box: Sequence[int], random: np.random.Generator, inside: bool
) -> tuple[Pixels, tuple[int, int, int, int]]:
    """The bag mirrored and shifted around the edges at random, and its box, which with `inside` meets no edge."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    if random.random() < 0.5:
        pixels, x0, x1 = pixels[:, ::-1], width - x1, width - x0
    if random.random() < 0.5:
        pixels, y0, y1 = pixels[::-1], height - y1, height - y0
    down = int(random.integers(-y0, height - y1 + 1) if inside else random.integers(height))
    right = int(random.integers(-x0, width - x1 + 1) if inside else random.integers(width))
    return np.roll(pixels, (down, right), (0, 1)), (x0 + right, y0 + down, x1 + right, y1 + down)
