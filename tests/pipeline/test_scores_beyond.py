"""Memory, self-supervision and the fitted score through the real stages, from training to calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.mlflow_warnings import MLFLOW_WARNINGS
from tests.unit.training.make_patches import train_section, write_patches
from vigil.calibration.calibration import read_calibration
from vigil.config import (
    AttentionSection,
    CalibrateSection,
    MemorySection,
    ModelSection,
    PatchSection,
    RegisterSection,
    ScoreSection,
    SelfSupervisionSection,
    StartSection,
)
from vigil.files import digest_file, digest_folder, write_json
from vigil.records import PATCH_SCORES
from vigil.scoring.reduction import components_of, image_scores, images_of
from vigil.stages import calibrate, layout, score, train

pytestmark = [pytest.mark.pipeline, *MLFLOW_WARNINGS]

MODEL = ModelSection(
    base_width=4,
    depth=2,
    discriminator_width=8,
    feature_channels=8,
    attention=AttentionSection(heads=2, key_channels=4, value_channels=4),
    self_supervision=SelfSupervisionSection(enabled=True, width=8),
    memory=MemorySection(enabled=True, features="self_supervision"),
)


def test_fitted_score_of_all_components_from_training_to_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, split in enumerate(("train", "calibration", "test")):
        write_patches(tmp_path / split, count=60, seed=number)
        target = tmp_path / layout.PATCHES[split]
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / split / "patches").rename(target)
    monkeypatch.chdir(tmp_path)
    patch = PatchSection(channels=1, patch_size_px=32, stride_px=32)
    write_json(layout.START / "start.json", {"parent": None})  # as the start stage does from scratch
    train.run(patch, MODEL, StartSection(), train_section(epochs=1.0), RegisterSection())
    scoring = ScoreSection(stamped_patches=20, device="cpu")
    score.run(scoring)
    calibrate.run(CalibrateSection(score="fitted"))

    table = PATCH_SCORES.read(layout.SCORES["calibration"])
    sources = np.asarray(table.column("source").to_pylist())
    assert (sources == "stamped").sum() == 20
    assert set(sources[-20:]) == {"stamped"}
    assert "stamped" not in PATCH_SCORES.read(layout.SCORES["test"]).column("source").to_pylist()
    assert list(components_of(table)) == ["contextual", "latent", "map_peak", "self_supervision", "memory"]
    record = read_calibration(layout.CALIBRATION)
    assert record.weights_fitted_on == "pseudo-anomalies"
    assert sum(c.weight for c in record.weighted) > 0
    images = images_of(table)
    scores = image_scores(record.patch_scores(images.components), images.patch_image, record.reduction)
    assert (len(scores), record.scale_max) == (record.n_normal, scores.max())
    assert json.loads(layout.CALIBRATION.read_text())["score"] == "fitted"

    # A second run writes the same bytes; without the switch, the table is that of the patches alone.
    before = digest_file(layout.SCORES["calibration"]), digest_folder(layout.MAPS["calibration"])
    score.run(scoring)
    assert (digest_file(layout.SCORES["calibration"]), digest_folder(layout.MAPS["calibration"])) == before
    score.run(scoring.model_copy(update={"stamped_patches": 0}))
    plain = PATCH_SCORES.read(layout.SCORES["calibration"])
    assert plain.equals(table.slice(0, len(plain)))
    assert len(plain) == len(table) - 20
