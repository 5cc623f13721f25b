"""The simulated bags on disk, in SIXray's layout.

JPEGImages/N00001.jpg ...   harmless bags
JPEGImages/P00001.jpg ...   bags with one threat
Annotation/P00001.xml ...   its class and box, Pascal VOC
labels/labels.csv           per image and class 1 or -1 (SIXray's own has no column for hammers)
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from PIL import Image

from vigil.config import BaggageData
from vigil.files import written_aside
from vigil.images.baggage.bag import Box, simulate_bag
from vigil.images.baggage.threats import KINDS
from vigil.progress import Progress
from vigil.seeding import derive_seed

_QUALITY: Final = 92
_WORKERS: Final = 2
_CHUNK: Final = 25
"""Bags per task of a worker."""


def write_baggage(data: BaggageData, root: Path) -> None:
    """Simulates a data set into `root`, aside then renamed; its bytes are a pure function of the section.

    Threat bags take the six classes in turn. A bag depends on the seed and its own number alone, so that a larger set
    begins with the bags of a smaller one.
    """
    with written_aside(Path(root)) as new:
        for folder in ("JPEGImages", "Annotation", "labels"):
            (new / folder).mkdir(parents=True)
        numbers = [("N", i) for i in range(data.normal_bags)] + [("P", i) for i in range(data.threat_bags)]
        chunks = [numbers[i : i + _CHUNK] for i in range(0, len(numbers), _CHUNK)]
        progress = Progress("simulate bags", len(numbers), "bags")
        for done in _each(data, new, chunks):
            progress.advance(done)
        progress.close()
        (new / "labels" / "labels.csv").write_bytes(_labels(data).encode())


def _each(data: BaggageData, root: Path, chunks: list[list[tuple[str, int]]]) -> Iterator[int]:
    """Writes all chunks, in two processes where there is enough to do, and yields the number of bags of each."""
    if len(chunks) < 4:
        for chunk in chunks:
            yield _write_bags(data, root, chunk)
        return
    # Spawned, not forked: the caller may hold threads (torch, a server), which a fork would leave locked.
    with ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_bags, [data] * len(chunks), [root] * len(chunks), chunks)


def _write_bags(data: BaggageData, root: Path, numbers: list[tuple[str, int]]) -> int:
    for letter, i in numbers:
        threat = KINDS[i % len(KINDS)] if letter == "P" else None
        # Streams of their own, so that no threat bag is the twin of a harmless one.
        seed = derive_seed(data.seed, "baggage harmless" if threat is None else "baggage threat")
        bag = simulate_bag(seed, i, threat, data.width_px, data.height_px)
        name = f"{letter}{i + 1:05d}"
        encoded = io.BytesIO()
        Image.fromarray(bag.image).save(encoded, "JPEG", quality=_QUALITY, subsampling="4:4:4")
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(encoded.getvalue())
        if bag.boxes:
            xml = voc_annotation(f"{name}.jpg", data.width_px, data.height_px, bag.boxes)
            (root / "Annotation" / f"{name}.xml").write_bytes(xml.encode())
    return len(numbers)


def voc_annotation(filename: str, width_px: int, height_px: int, boxes: tuple[Box, ...]) -> str:
    """The boxes in the form of SIXray's annotations: Pascal VOC XML, capitalised class names, tabs.

    `xmin, ymin, xmax, ymax` are the half-open box's edges in pixels, as SIXray's (which are fractional) are.
    """
    lines = [
        "<annotation>",
        "\t<folder>X_ray</folder>",
        f"\t<filename>{filename}</filename>",
        "\t<source>",
        "\t\t<database>Vigil simulated baggage</database>",
        "\t\t<annotation>Vigil simulated baggage</annotation>",
        "\t\t<image>X_ray</image>",
        "\t</source>",
        "\t<size>",
        f"\t\t<width>{width_px}</width>",
        f"\t\t<height>{height_px}</height>",
        "\t\t<depth>3</depth>",
        "\t</size>",
        "\t<segmented>0</segmented>",
    ]
    for box in boxes:
        lines += [
            "\t<object>",
            f"\t\t<name>{box.kind.capitalize()}</name>",
            "\t\t<pose>Unspecified</pose>",
            "\t\t<truncated>0</truncated>",
            "\t\t<difficult>0</difficult>",
            "\t\t<bndbox>",
            *(
                f"\t\t\t<{tag}>{v}</{tag}>"
                for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), (box.x0, box.y0, box.x1, box.y1), strict=True)
            ),
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>"]) + "\n"


def _labels(data: BaggageData) -> str:
    rows = [",".join(["name", *(kind.capitalize() for kind in KINDS)])]
    rows += [f"N{i + 1:05d}" + ",-1" * len(KINDS) for i in range(data.normal_bags)]
    for i in range(data.threat_bags):
        rows.append(f"P{i + 1:05d}," + ",".join("1" if j == i % len(KINDS) else "-1" for j in range(len(KINDS))))
    return "".join(row + "\r\n" for row in rows)
