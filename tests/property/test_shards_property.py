"""Shards after any sequence of changes, and rows read in any order."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vigil.config import PatchSection
from vigil.files import digest_bytes, digest_folder
from vigil.images.buckets import bucket_of
from vigil.images.extraction import extract_split
from vigil.images.shards import PatchShards
from vigil.records import MANIFEST

PATCH = PatchSection(patch_size_px=32, stride_px=16, buckets=3, workers=1, regions_of_interest=True)
SIZES = ((8, 8), (32, 40), (50, 33))

# An image: which picture it is (pixels and size), its label, and the box drawn on it where it is anomalous.
images = st.tuples(st.integers(0, 2), st.booleans(), st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(4, 8)))
ImageSpec = tuple[int, bool, tuple[int, int, int]]
DataSet = dict[str, ImageSpec]
data_sets = st.dictionaries(st.sampled_from("abcdefgh"), images, min_size=1)


@cache
def picture(number: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(number).integers(0, 256, SIZES[number], dtype=np.uint8)
        Image.fromarray(pixels).save(Path(folder) / "image.png")
        return (Path(folder) / "image.png").read_bytes()


def write(root: Path, data_set: DataSet) -> tuple[pa.Table, pa.Table]:
    rows = []
    for name, (number, anomalous, (x, y, end)) in data_set.items():
        content = picture(number)
        (root / name).write_bytes(content)
        rows.append(
            {"image_id": name, "path": name, "offset": None, "bytes": len(content), "sha256": digest_bytes(content)}
            | {"height": SIZES[number][0], "width": SIZES[number][1], "mode": "L", "label": int(anomalous)}
            | {"kind": "gun" if anomalous else "normal", "group": name, "official_split": None, "mask_path": None}
            | {"boxes": [{"kind": "gun", "x0": x, "y0": y, "x1": end, "y1": end}] if anomalous else [], "fault": None}
        )
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST.schema)
    splits = manifest.select(["image_id", "label", "kind", "group"])
    return manifest, splits.append_column("split", pa.array(["test"] * len(rows)))


def by_bucket(data_set: DataSet) -> set[tuple[object, ...]]:
    """What decides an image's rows, with the bucket they lie in; the box only counts where it marks an anomaly."""
    return {(bucket_of(name, PATCH.buckets), *made_of(image)) for name, image in data_set.items()}


def made_of(image: ImageSpec) -> tuple[object, ...]:
    number, anomalous, box = image
    return number, box if anomalous else None


@settings(max_examples=12, deadline=None)
@given(st.lists(data_sets, min_size=2, max_size=3))
def test_history_leaves_no_trace(versions: list[DataSet]) -> None:
    """After any additions, removals and changes, the folder is that of a single run from nothing, byte for byte, and
    only images that the bucket did not hold before were processed."""
    with tempfile.TemporaryDirectory() as base:
        root, folder = Path(base) / "raw", Path(base) / "test"
        root.mkdir()
        before: set[tuple[object, ...]] = set()
        for version in versions:
            manifest, splits = write(root, version)
            counts = extract_split("test", manifest, splits, root, PATCH, folder)
            new = [n for n, image in version.items() if (bucket_of(n, PATCH.buckets), *made_of(image)) not in before]
            assert (counts.images_processed, counts.images_reused) == (len(new), len(version) - len(new))
            before = by_bucket(version)
        extract_split("test", manifest, splits, root, PATCH, Path(base) / "from nothing")
        assert digest_folder(folder) == digest_folder(Path(base) / "from nothing")


@settings(max_examples=12, deadline=None)
@given(data_sets, st.integers(0, 2**32 - 1))
def test_rows_are_the_same_in_any_order(data_set: DataSet, seed: int) -> None:
    with tempfile.TemporaryDirectory() as base:
        root = Path(base) / "raw"
        root.mkdir()
        manifest, splits = write(root, data_set)
        counts = extract_split("test", manifest, splits, root, PATCH, Path(base) / "test")
        shards = PatchShards.open(Path(base) / "test")
        assert len(shards) == counts.patches == shards.index.num_rows
        everything, masks = shards.read(np.arange(len(shards))), shards.read_masks(np.arange(len(shards)))
        rows = np.random.default_rng(seed).permutation(len(shards))
        np.testing.assert_array_equal(shards.read(rows), everything[rows])
        np.testing.assert_array_equal(shards.read_masks(rows), masks[rows])
        # The index agrees with the pixels: share of the mask, and an anomalous patch in every anomalous image.
        np.testing.assert_allclose(shards.index["overlap"].to_numpy(), masks.mean(axis=(1, 2)), atol=1e-7)
        label, image_id = shards.index["label"].to_numpy(), np.array(shards.index["image_id"].to_pylist())
        for name, (_, anomalous, _) in data_set.items():
            assert label[image_id == name].any() == anomalous
