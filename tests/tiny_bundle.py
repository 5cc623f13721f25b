"""A whole bundle of a few kilobytes: real networks with random weights, a real fit on random components."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from vigil.calibration.calibration import Calibration, fit_calibration
from vigil.config import AttentionSection, CalibrateSection, ModelSection, PatchSection, ValidateSection
from vigil.delivery.bundle import (
    APPEARANCE,
    RECORD,
    AuditSummary,
    BundleRecord,
    EvaluationSummary,
    write_bundle,
)
from vigil.files import digest_json, read_json, write_json
from vigil.images.appearance import Appearance, look_of
from vigil.networks.pair import PairSpec, build_pair, save_pair
from vigil.records import PATCH_SCORES
from vigil.seeding import numpy_generator

ATTENTION = AttentionSection(heads=2, key_channels=4, value_channels=4)
MODEL = ModelSection(base_width=4, depth=2, max_width=8, discriminator_width=8, feature_channels=8, attention=ATTENTION)
PATCH = PatchSection(channels=1, patch_size_px=32, stride_px=16, workers=1)


def tiny_calibration(**changes: Any) -> Calibration:
    """Fitted on 40 normal images of one patch with random components."""
    random, count = numpy_generator(0, "tiny calibration"), 40
    texts = {"source": "grid", "kind": "normal"}
    columns: dict[str, Any] = {}
    for field in PATCH_SCORES.schema:
        if pa.types.is_string(field.type):
            columns[field.name] = [texts.get(field.name, f"{field.name}-{i}") for i in range(count)]
        else:
            floating = pa.types.is_floating(field.type)
            columns[field.name] = random.uniform(0.1, 0.9, count) if floating else np.zeros(count, np.int64)
    fitted = fit_calibration(pa.table(columns).cast(PATCH_SCORES.schema), CalibrateSection())
    return Calibration.model_validate({**fitted.model_dump(), **changes})


def write_tiny_bundle(folder: Path, *, seed: int = 0, **changes: Any) -> BundleRecord:
    """Writes a bundle at `folder` and its pair beside it; `auroc`, `recall`, `fpr` and everything that
    `write_bundle` takes can be changed."""
    pair = folder.with_name(f"{folder.name}-pair")
    save_pair(pair, build_pair(PairSpec(channels=1, patch_size_px=32, model=MODEL), seed), {"seed": seed})
    figures = {key: changes.pop(key, value) for key, value in (("auroc", 0.8), ("recall", 0.9), ("fpr", 0.1))}
    settings: dict[str, Any] = {
        "pair": pair,
        "calibration": tiny_calibration(),
        "patch": PATCH,
        "accept": ValidateSection(),
        "appearance": Appearance.of([look_of(np.asarray(grey_image(i))[..., None]) for i in range(40)]),
        "data_set": "tiny",
        "kinds": ["scratch", "dent"],
        "data_digest": "d" * 64,
        "test_digest": "t" * 64,
        "map_level": 0.5,
        "audit": AuditSummary(leaks=(), findings={}, digest="a" * 64),
        "evaluation": EvaluationSummary.of({**figures, "threshold": 0.5}),
    }
    return write_bundle(folder, **{**settings, **changes})


def without_appearance(folder: Path) -> None:
    """Makes the bundle one of a version of Vigil that kept no looks."""
    record = {key: value for key, value in read_json(folder / RECORD).items() if key != "digest"}
    del record["files"][APPEARANCE]
    (folder / APPEARANCE).unlink()
    write_json(folder / RECORD, record | {"digest": digest_json(record)})


def grey_image(index: int, width: int = 48, height: int = 40) -> Image.Image:
    """Noise on a ramp, 8-bit grey, another one for every index."""
    noise = numpy_generator(0, "grey image", index).uniform(0, 120, (height, width))
    return Image.fromarray((noise + np.linspace(0, 120, width)).astype(np.uint8))


def encoded(image: Image.Image, image_format: str = "PNG") -> bytes:
    """The image's file content."""
    file = io.BytesIO()
    image.save(file, image_format)
    return file.getvalue()
