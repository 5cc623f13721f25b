"""What DVC recorded of the stages that choose something."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from vigil.errors import DataError
from vigil.stages.leakage_audit import locked_lineage


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("data/scores/calibration.parquet", "models/calibration.json", "reports/train.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def lock(project: Path, train: str = "data/patches/train", calibrate: str = "data/scores/calibration.parquet") -> Path:
    def entry(path: str) -> str:
        md5 = hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()  # each file holds its own name
        return f"    - path: {path}\n      hash: md5\n      md5: {md5}\n"

    path = project / "dvc.lock"
    path.write_text(
        "schema: '2.0'\nstages:\n"
        f"  train:\n    cmd: vigil stage train\n    deps:\n{entry(train)}    outs:\n{entry('reports/train.json')}"
        f"  calibrate:\n    cmd: x\n    deps:\n{entry(calibrate)}    outs:\n{entry('models/calibration.json')}"
    )
    return path


def test_a_record_without_test_data_passes(project: Path) -> None:
    assert locked_lineage(lock(project)).status == "passed"


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("train", "data/patches/test"),
        ("train", "data/patches"),
        ("train", "data/scores/test.parquet"),
        ("train", "reports/evaluation.json"),
        ("calibrate", "data/scores/test.parquet"),
        ("calibrate", "data/scores"),
        ("calibrate", "reports/test_images.csv"),
    ],
)
def test_a_stage_that_chose_with_test_data_in_sight_is_a_leak(project: Path, stage: str, path: str) -> None:
    check = locked_lineage(lock(project, **{stage: path}))
    assert check.status == "leak"
    assert f"'{stage}' read {path}" in check.text


def test_a_missing_record_and_one_of_another_run_prove_nothing(project: Path) -> None:
    assert locked_lineage(project / "dvc.lock").status == "not_checked"
    path = lock(project)
    (project / "models/calibration.json").write_text("changed")
    check = locked_lineage(path)
    assert check.status == "not_checked"
    assert "models/calibration.json changed since" in check.text
    path.write_text("schema: '2.0'\nstages: {}\n")
    assert locked_lineage(path).status == "not_checked"
    path.write_text("a: [")
    with pytest.raises(DataError, match=r"dvc\.lock: not readable"):
        locked_lineage(path)
