"""Where each artefact lies, relative to the project folder. `dvc.yaml` names the same paths; a test compares them."""

from __future__ import annotations

from pathlib import Path

REFERENCE = Path("data/reference.json")
"""Statistics of the data sets that were accepted, by `vigil data accept`; git keeps it, not DVC."""
MANIFEST = Path("data/manifest.parquet")
ACCEPTED = Path("data/accepted.parquet")
SPLITS = Path("data/splits.parquet")
PATCHES = {split: Path("data/patches") / split for split in ("train", "calibration", "test")}
REHEARSAL = {split: Path("data/rehearsal") / f"{split}.parquet" for split in ("train", "test")}
"""What the parent version learned from and was tested on; empty from scratch."""
HANDED_ON = Path("data/rehearsal/next")
"""What is kept with the version that this run makes."""
START = Path("models/start")
PARENT_BUNDLE = "bundle"
"""Below `START`, where training does not start from scratch."""
SCORES = {split: Path("data/scores") / f"{split}.parquet" for split in ("calibration", "test")}
MAPS = {split: Path("data/scores/maps") / split for split in ("calibration", "test")}

PAIR = Path("models/pair")
CALIBRATION = Path("models/calibration.json")
BUNDLE = Path("models/bundle")
REGISTERED = Path("models/registered.json")

VALIDATION_REPORT = Path("reports/validation")
PATCH_VALIDATION_REPORT = Path("reports/patch-validation")
TRAIN_REPORT = Path("reports/train.json")
LOSSES = Path("reports/losses.csv")
EVALUATION = Path("reports/evaluation.json")
TEST_IMAGES = Path("reports/test_images.csv")
ROC = Path("reports/roc.csv")
AUDIT = Path("reports/audit.json")
PLOTS = Path("reports/plots")
REPORT = Path("reports/index.html")

PATCH_COUNTS = Path(".vigil/metrics/patch.json")
"""What the last run of the patch stage did; depends on what was there before, so it is no artefact."""
WORK = Path(".vigil/work")
"""Scratch of stages that resume after a kill; not an artefact, and safe to delete."""
