"""Patches for training tests, written through the real patch stage's code."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from vigil.config import AttentionSection, ModelSection, PatchSection, TrainSection
from vigil.files import digest_file
from vigil.images.extraction import extract_split
from vigil.images.shards import PatchShards
from vigil.networks.pair import PairSpec
from vigil.records import MANIFEST, NORMAL, SPLIT_TABLE

MODEL = ModelSection(
    base_width=4,
    depth=2,
    discriminator_width=8,
    feature_channels=8,
    attention=AttentionSection(heads=2, key_channels=4, value_channels=4),
)
SPEC = PairSpec(channels=1, patch_size_px=32, model=MODEL)


def train_section(**changes: object) -> TrainSection:
    """Four batches of four images per sixteen, recorded every eight, saved every twelve, in 32 bits on the CPU."""
    values = {
        "epochs": 2.0,
        "batch_size": 4,
        "precision": "32-true",
        "device": "cpu",
        "horizontal_flip": True,
        "log_every_images": 8,
        "checkpoint_every_images": 12,
    }
    return TrainSection.model_validate({**values, **changes})


def write_patches(folder: Path, count: int = 10, seed: int = 0) -> PatchShards:
    """`count` images of 32x32 grey pixels as shards, one patch each."""
    rng = np.random.default_rng(seed)
    images = folder / "images"
    images.mkdir(parents=True)
    rows = []
    for number in range(count):
        path = images / f"{number}.png"
        ramp = np.linspace(0, 1, 32)[None, :] * rng.uniform(40, 200) + rng.uniform(0, 55) + rng.normal(0, 3, (32, 32))
        Image.fromarray(ramp.clip(0, 255).astype(np.uint8)).save(path)
        row = dict.fromkeys(MANIFEST.schema.names)
        row |= {"image_id": f"{number}", "path": path.name, "bytes": path.stat().st_size, "sha256": digest_file(path)}
        row |= {"width": 32, "height": 32, "mode": "L", "label": NORMAL, "kind": "normal", "group": f"{number}"}
        rows.append(row | {"boxes": []})
    manifest = pa.Table.from_pylist(rows, MANIFEST.schema)
    split_rows = [{k: r[k] for k in ("image_id", "label", "kind", "group")} | {"split": "train"} for r in rows]
    splits = pa.Table.from_pylist(split_rows, SPLIT_TABLE.schema)
    patch = PatchSection(channels=1, patch_size_px=32, stride_px=32, buckets=2, workers=1)
    extract_split("train", manifest, splits, images, patch, folder / "patches")
    return PatchShards.open(folder / "patches")
