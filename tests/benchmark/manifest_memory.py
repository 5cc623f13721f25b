"""Peak memory of manifest, validate and the contract on the patch index, at several sizes of the data set.

`python -m tests.benchmark.manifest_memory 1000 10000 100000` prints a table; `measure` gives its rows. Every stage runs
in a process of its own on a synthetic set: as many PNG files as images (8x8 pixels, so that files and rows are what
costs), a manifest of as many rows, and an index of four patches per image with sparse shards.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from vigil.config import PatchSection
from vigil.images.buckets import bucket_of
from vigil.records import MANIFEST, PATCH_INDEX

PATCH = PatchSection(channels=1, patch_size_px=32, stride_px=32, buckets=16)
_PATCHES, _SIDE = 4, 64
_STAGES = {
    "manifest": "from vigil.stages.manifest import run; run(FolderData(name='folder', root='raw'))",
    "validate": "from vigil.stages.validate import run; run(FolderData(name='folder', root='raw'), ValidateSection())",
    "patch index": (
        "from vigil.images.validation import validate_patch_index; from tests.benchmark.manifest_memory import PATCH; "
        "validate_patch_index({'train': Path('shards')}, PATCH, Path('report'))"
    ),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """What one stage needed for a set of one size."""

    stage: str
    images: int
    peak_mib: float
    seconds: float


def measure(sizes: Sequence[int], stages: Sequence[str] = tuple(_STAGES)) -> list[Memory]:
    """Peak resident memory and time of each stage at each size, each in a fresh process."""
    found = []
    for stage in stages:
        for images in sizes:
            with tempfile.TemporaryDirectory() as folder:
                _prepare(Path(folder), stage, images)
                found.append(_run(Path(folder), stage, images))
    return found


def bytes_per_image(rows: Sequence[Memory]) -> float:
    """Growth between the smallest and the largest size of one stage."""
    small, large = min(rows, key=lambda r: r.images), max(rows, key=lambda r: r.images)
    return (large.peak_mib - small.peak_mib) * 2**20 / max(large.images - small.images, 1)


def _run(folder: Path, stage: str, images: int) -> Memory:
    code = (
        "import resource, time; from pathlib import Path; from vigil.config import FolderData, ValidateSection\n"
        f"start = time.perf_counter()\n{_STAGES[stage]}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{stage} at {images} images: {done.stderr[-2000:]}")
    peak, seconds = done.stdout.split()
    return Memory(stage, images, float(peak), float(seconds))


def _prepare(folder: Path, stage: str, images: int) -> None:
    if stage == "manifest":
        _write_images(folder / "raw", images)
    elif stage == "validate":
        MANIFEST.write_parts(folder / "data/manifest.parquet", _manifest(images))
    else:
        _write_shards(folder / "shards", images)


def _write_images(root: Path, images: int) -> None:
    for number in range(images):
        folder = root / ("anomalous/dent" if number % 10 == 0 else "normal")
        if number < 10:
            folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.frombytes("L", (8, 8), number.to_bytes(8) * 8).save(buffer, "PNG")
        (folder / f"bag-{number:07d}.png").write_bytes(buffer.getvalue())


def _manifest(images: int) -> Iterator[pa.Table]:
    for start in range(0, images, 10_000):
        numbers = range(start, min(start + 10_000, images))
        names = [f"JPEGImages/N{number:07d}.jpg" for number in numbers]
        values = np.random.default_rng(start).uniform(80, 120, len(names)).astype(np.float32)
        anomalous = [number % 10 == 0 for number in numbers]
        constant = {"offset": None, "bytes": 50_000, "width": 256, "height": 256, "mode": "RGB", "official_split": None}
        constant |= {"mask_path": None, "mask_pixels": None, "boxes": [], "fault": None, "fault_of": None}
        columns = {name: [value] * len(names) for name, value in constant.items()}
        columns |= {"image_id": names, "path": names, "group": names, "brightness": values.tolist()}
        columns |= {
            "sha256": [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:048x}" for number in numbers],
            "label": [int(a) for a in anomalous],
            "kind": ["dent" if a else "normal" for a in anomalous],
        }
        yield pa.table({name: columns[name] for name in MANIFEST.schema.names}, schema=MANIFEST.schema)


def _write_shards(folder: Path, images: int) -> None:
    folder.mkdir()
    buckets: dict[int, list[str]] = {}
    for number in range(images):
        name = f"JPEGImages/N{number:07d}.jpg"
        buckets.setdefault(bucket_of(name, PATCH.buckets), []).append(name)
    for bucket, names in buckets.items():
        shape = (len(names) * _PATCHES, PATCH.patch_size_px, PATCH.patch_size_px, PATCH.channels)
        np.lib.format.open_memmap(folder / f"bucket-{bucket:04d}.npy", "w+", np.uint8, shape)

    def parts() -> Iterator[pa.Table]:
        for bucket, names in sorted(buckets.items()):
            ids = [name for name in names for _ in range(_PATCHES)]
            corners = [(y, x) for _ in names for y in (0, 32) for x in (0, 32)]
            constant = {"bucket": bucket, "source": "grid", "image_height": _SIDE, "image_width": _SIDE, "label": 0}
            constant |= {"overlap": 0.0, "image_label": 0, "kind": "normal"}
            columns = {name: [value] * len(ids) for name, value in constant.items()}
            columns |= {
                "patch_id": [f"{i}@{y},{x}" for i, (y, x) in zip(ids, corners, strict=True)],
                "image_id": ids,
                "group": ids,
                "row": list(range(len(ids))),
                "y": [y for y, _ in corners],
                "x": [x for _, x in corners],
            }
            yield pa.table({name: columns[name] for name in PATCH_INDEX.schema.names}, schema=PATCH_INDEX.schema)

    PATCH_INDEX.write_parts(folder / "index.parquet", parts())


def main() -> None:
    """Prints the table for the sizes named on the command line."""
    sizes = [int(text) for text in sys.argv[1:]] or [1_000, 10_000, 100_000]
    rows = measure(sizes)
    sys.stdout.write("| stage | images | peak MiB | seconds |\n|---|---|---|---|\n")
    for row in rows:
        sys.stdout.write(f"| {row.stage} | {row.images} | {row.peak_mib:.0f} | {row.seconds:.1f} |\n")
    for stage in _STAGES:
        growth = bytes_per_image([row for row in rows if row.stage == stage])
        sys.stdout.write(f"{stage}: {growth:.0f} bytes per image\n")


if __name__ == "__main__":
    main()
