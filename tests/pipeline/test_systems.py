"""Baselines through the real stages, from training to calibration, by `model.name` alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.mlflow_warnings import MLFLOW_WARNINGS
from tests.tiny_systems import tiny_spec
from tests.unit.training.make_patches import train_section, write_patches
from vigil.calibration.calibration import read_calibration
from vigil.config import CalibrateSection, PatchSection, RegisterSection, ScoreSection, StartSection
from vigil.errors import CalibrationError
from vigil.files import write_json
from vigil.networks.pair import load_pair
from vigil.records import PATCH_SCORES
from vigil.scoring.reduction import components_of, image_scores, images_of
from vigil.stages import calibrate, layout, score, train

pytestmark = [pytest.mark.pipeline, *MLFLOW_WARNINGS]

COMPONENTS = {
    "egbad": ["contextual", "latent", "map_peak", "published"],
    "patch_svdd": ["map_peak", "published"],  # reconstructs nothing, and brings a memory from the train stage
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_baseline_from_training_to_calibration(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, split in enumerate(("train", "calibration", "test")):
        write_patches(tmp_path / split, count=24, seed=number)
        target = tmp_path / layout.PATCHES[split]
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / split / "patches").rename(target)
    monkeypatch.chdir(tmp_path)
    write_json(layout.START / "start.json", {"parent": None})  # as the start stage does from scratch
    patch = PatchSection(channels=1, patch_size_px=32, stride_px=32)
    train.run(patch, tiny_spec(name).model, StartSection(), train_section(epochs=1.0), RegisterSection())
    pair, record = load_pair(layout.PAIR)
    assert pair.spec == tiny_spec(name)
    assert record["model"]["name"] == name
    assert json.loads(layout.TRAIN_REPORT.read_text())["selection"]["criterion"] == "calibration_mean_published_score"

    score.run(ScoreSection(device="cpu"))
    table = PATCH_SCORES.read(layout.SCORES["calibration"])
    assert list(components_of(table)) == COMPONENTS[name]
    if name == "patch_svdd":
        with pytest.raises(CalibrationError, match=r"no such component as \['contextual', 'latent'\]"):
            calibrate.run(CalibrateSection(score="eq6"))
    calibrate.run(CalibrateSection(score="published"))
    fitted, images = read_calibration(layout.CALIBRATION), images_of(table)
    expected = image_scores(images.components["published"], images.patch_image, fitted.reduction)
    assert (fitted.score, fitted.scale_min, fitted.scale_max) == ("published", expected.min(), expected.max())
