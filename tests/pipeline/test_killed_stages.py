"""Stages that are killed in the middle: the next `dvc repro` ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.project import digests, kill_when, make_project, run
from vigil.cli import STAGES

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("stage", "sign"),
    [
        ("patch", "data/patches/train/bucket-*.json"),
        ("train", ".vigil/work/train/a/*/checkpoint-*/checkpoint.json"),
        ("score", "data/scores/maps/*/bucket-*.npy"),
    ],
)
def test_killed_stage_ends_with_the_same_digests(
    request: pytest.FixtureRequest, tmp_path: Path, stage: str, sign: str
) -> None:
    """SIGKILL to dvc and all its children in the middle of a stage, then `dvc repro`."""
    project = make_project(tmp_path / "project")
    run(project, "dvc", "repro", *STAGES[: STAGES.index(stage)])
    kill_when(project, ["dvc", "repro", stage], lambda: any(project.glob(sign)))
    finished = {"patch": "data/patches/test/index.parquet", "train": "models/pair/pair.json"}
    assert not (project / finished.get(stage, "data/scores/test.parquet")).exists(), "the kill came too late"
    output = run(project, "dvc", "repro")
    assert f"Running stage '{stage}'" in output
    # Asked for only now: the process that makes it has ended by this time, and nobody waited.
    assert digests(project) == digests(request.getfixturevalue("built"))
