"""Screens image files with a bundle: a verdict for every file, whatever state it is in."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vigil.delivery.bundle import Bundle
from vigil.delivery.verdict import Judgement, Pixels, Verdict, judge, pixels_of, rejected
from vigil.files import written_aside
from vigil.images.appearance import Appearance, Look, Shift, look_of, shifts
from vigil.serving.heat_map import Region, find_regions, heat_map

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"))
"""What is taken from a folder; a file that is named itself is opened whatever its suffix."""


@dataclass(frozen=True, slots=True)
class Screening:
    """The result for one file."""

    path: Path
    verdict: Verdict
    score: float | None
    """Higher is more anomalous; None exactly where the verdict is REJECTED."""
    scaled_score: float | None
    """Eq. (7), arXiv 2211.13808, with the calibration's extremes."""
    threshold: float
    reason: str | None
    """Why the file is REJECTED, in plain words."""
    regions: tuple[Region, ...] = ()
    """Where the anomaly map stands out, highest peak first; a NORMAL image may have some."""
    appearance: Look | None = None
    """How the image looks as a whole (images.appearance.look_of); None exactly where the verdict is REJECTED."""
    heat_map: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self),
            "path": str(self.path),
            "heat_map": None if self.heat_map is None else str(self.heat_map),
        }


def screen(
    bundle: Bundle,
    paths: Iterable[Path],
    *,
    device: str = "auto",
    batch_size: int = 64,
    heat_map_folder: Path | None = None,
) -> Iterator[Screening]:
    """One result per image file, in the order of `paths`; a file that cannot be screened is REJECTED and never stops
    the rest.

    Args:
        bundle: From `load_bundle`.
        paths: Files, and folders, which stand for all image files below them in sorted order.
        device: Where the networks run: `auto`, `cpu` or `cuda`.
        batch_size: Patches per forward pass. Small images share a pass; no score depends on that.
        heat_map_folder: Where a PNG per screened image is written: the image beside its map. None: no pictures.
    """
    opened: deque[tuple[Path, Image.Image | None, Look | None]] = deque()

    def pixels() -> Iterator[Pixels | Judgement]:
        for path in expanded(paths, leave_out=heat_map_folder):
            try:
                found, image = pixels_of(bundle, content_of(path), path.name)
            except OSError as error:
                found, image = rejected(bundle, f"{path.name}: cannot be read ({error.strerror})"), None
            opened.append((path, image, None if isinstance(found, Judgement) else look_of(found)))
            yield found

    for judgement in judge(bundle, pixels(), device=device, batch_size=batch_size):
        path, image, look = opened.popleft()
        yield _result(bundle, path, image, look, judgement, heat_map_folder)


def appearance_shifts(bundle: Bundle, looks: Sequence[Look]) -> list[Shift]:
    """How far screened images look from the normal ones that the bundle was calibrated on.

    Anomalies may be among them: what is compared is the picture as a whole, which they change little. Empty where the
    bundle does not say how its images look, or nothing was screened.
    """
    return shifts(bundle.appearance, Appearance.of(looks)) if bundle.appearance is not None and looks else []


def _result(
    bundle: Bundle,
    path: Path,
    image: Image.Image | None,
    look: Look | None,
    judgement: Judgement,
    folder: Path | None,
) -> Screening:
    regions: tuple[Region, ...] = ()
    picture = None
    if image is not None and judgement.anomaly_map is not None:
        level = bundle.record.map_level
        regions = find_regions(judgement.anomaly_map, level, (image.height, image.width))
        if folder is not None:
            picture = Path(folder) / heat_map_name(path)
            with written_aside(picture) as new:
                heat_map(image, judgement.anomaly_map, level, regions).save(new, "PNG")
    return Screening(
        path,
        judgement.verdict,
        judgement.score,
        judgement.scaled_score,
        judgement.threshold,
        judgement.reason,
        regions,
        None if judgement.verdict == "REJECTED" else look,
        picture,
    )


def content_of(path: Path) -> bytes:
    """What a file holds; `expanded` gives its path.

    Raises:
        OSError: It cannot be read, or is no file: reading a pipe or a device could last for ever.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "the folder cannot be listed" if path.is_dir() else "not a file")
    return path.read_bytes()


def heat_map_name(path: Path) -> str:
    """The picture's file name: the image's, and a mark of its folder, since names repeat between folders."""
    folder = hashlib.sha256(str(path.resolve().parent).encode()).hexdigest()[:8]
    return f"{path.name}-{folder}.png"


def expanded(paths: Iterable[Path], leave_out: Path | None = None) -> Iterator[Path]:
    """Every file of `paths`; folders are replaced by the image files below them, sorted.

    Symbolic links are followed, once. A link that leads nowhere and a folder that cannot be listed are yielded too, so
    that they are REJECTED and not passed over in silence. Files below `leave_out` are not taken from a folder, so that
    pictures of an earlier screening are not screened.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from _images_below(path, None if leave_out is None else Path(leave_out).resolve())
        else:
            yield path


def _images_below(folder: Path, leave_out: Path | None) -> list[Path]:
    found: list[Path] = []
    seen: set[Path] = set()
    for base, folders, names in os.walk(folder, onerror=lambda e: found.append(Path(e.filename)), followlinks=True):
        real = Path(base).resolve()
        if real in seen or real == leave_out:
            folders.clear()
            continue
        seen.add(real)
        found.extend(Path(base) / name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    return sorted(found)
