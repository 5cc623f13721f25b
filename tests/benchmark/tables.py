"""Tables of a million images that do not exist, for stages that read tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vigil.images.shards import INDEX_NAME, PATCHES, bucket_file
from vigil.records import MANIFEST, PATCH_INDEX, SPLIT_TABLE, SPLITS

_ROWS = 10_000
_IMAGES_PER_BUCKET = 512
_SIDE, _PATCH = 256, 128
_CORNERS = [(y, x) for y in range(0, _SIDE, _PATCH) for x in range(0, _SIDE, _PATCH)]


def _name(number: int) -> str:
    return f"JPEGImages/N{number:07d}.jpg"


def write_manifest(path: Path, images: int) -> None:
    """A manifest that keeps the contract: every tenth image is anomalous, each is a group of its own."""

    def parts() -> Iterator[pa.Table]:
        for start in range(0, images, _ROWS):
            numbers = range(start, min(start + _ROWS, images))
            names = [_name(number) for number in numbers]
            values = np.random.default_rng(start).uniform(80, 120, len(names)).astype(np.float32)
            anomalous = [number % 10 == 0 for number in numbers]
            constant: dict[str, Any] = {"offset": None, "bytes": 50_000, "width": _SIDE, "height": _SIDE, "mode": "RGB"}
            constant |= {"official_split": None, "mask_path": None, "mask_pixels": None, "boxes": []}
            constant |= {"fault": None, "fault_of": None}
            columns: dict[str, list[Any]] = {name: [value] * len(names) for name, value in constant.items()}
            columns |= {"image_id": names, "path": names, "group": names, "brightness": values.tolist()}
            columns |= {
                "sha256": [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:048x}" for number in numbers],
                "label": [int(a) for a in anomalous],
                "kind": ["gun" if a else "normal" for a in anomalous],
            }
            yield pa.table({name: columns[name] for name in MANIFEST.schema.names}, schema=MANIFEST.schema)

    MANIFEST.write_parts(path, parts())


def write_patches(folders: Mapping[str, Path], splits: Path, images: int) -> None:
    """The split table of so many images, and for each split an index of 4 patches per image with sparse shards.

    Seven images in ten are for training, one for calibration, two for test; all are normal.
    """
    numbers = {"train": range(0, images * 7 // 10), "calibration": range(images * 7 // 10, images * 8 // 10)}
    numbers["test"] = range(images * 8 // 10, images)

    def rows() -> Iterator[pa.Table]:
        for split in SPLITS:
            for start in range(numbers[split].start, numbers[split].stop, _ROWS):
                names = [_name(n) for n in range(start, min(start + _ROWS, numbers[split].stop))]
                constant: dict[str, Any] = {"split": split, "label": 0, "kind": "normal"}
                columns: dict[str, list[Any]] = {name: [value] * len(names) for name, value in constant.items()}
                columns |= {"image_id": names, "group": names}
                yield pa.table({n: columns[n] for n in SPLIT_TABLE.schema.names}, schema=SPLIT_TABLE.schema)

    SPLIT_TABLE.write_parts(splits, rows())
    for split, folder in folders.items():
        folder.mkdir(parents=True)
        PATCH_INDEX.write_parts(folder / INDEX_NAME, _index(folder, numbers[split]))


def _index(folder: Path, numbers: range) -> Iterator[pa.Table]:
    for bucket, start in enumerate(range(numbers.start, numbers.stop, _IMAGES_PER_BUCKET)):
        names = [_name(n) for n in range(start, min(start + _IMAGES_PER_BUCKET, numbers.stop))]
        ids = [name for name in names for _ in _CORNERS]
        shape = (len(ids), _PATCH, _PATCH, 3)
        np.lib.format.open_memmap(bucket_file(folder, bucket, PATCHES), "w+", np.uint8, shape)
        constant: dict[str, Any] = {
            "bucket": bucket,
            "source": "grid",
            "image_height": _SIDE,
            "image_width": _SIDE,
            "label": 0,
        }
        constant |= {"overlap": 0.0, "image_label": 0, "kind": "normal"}
        columns: dict[str, list[Any]] = {name: [value] * len(ids) for name, value in constant.items()}
        columns |= {
            "patch_id": [f"{name}@{y},{x}" for name in names for y, x in _CORNERS],
            "image_id": ids,
            "group": ids,
            "row": list(range(len(ids))),
            "y": [y for _ in names for y, _ in _CORNERS],
            "x": [x for _ in names for _, x in _CORNERS],
        }
        yield pa.table({name: columns[name] for name in PATCH_INDEX.schema.names}, schema=PATCH_INDEX.schema)
