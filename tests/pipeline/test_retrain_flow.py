"""The real flows against a Prefect test server: states, log lines, retries, artifacts, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.testing.utilities import prefect_test_harness

from flows import retrain as retrain_module
from flows.dvc_stages import StageFailed
from flows.promote import promote
from flows.retrain import GPU_SLOT, create_gpu_slot, retrain, worth_another_try
from flows.screen import screen
from tests.pipeline.mlflow_warnings import MLFLOW_WARNINGS
from tests.tiny_bundle import encoded, grey_image, write_tiny_bundle
from vigil.config import RegisterSection
from vigil.delivery.mlflow_registry import register

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.timeout(600),
    *MLFLOW_WARNINGS,
]

STAGES = """\
stages:
  report:
    cmd: mkdir -p reports && cp evaluation.txt reports/evaluation.json
    deps: [pair.txt, evaluation.txt]
    outs: [reports/evaluation.json]
  train:
    cmd: echo epoch 1 && python train.py && echo weights > pair.txt
    deps: [raw.txt, train.py]
    outs: [pair.txt]
  raw:
    cmd: echo pixels > raw.txt
    outs: [raw.txt]
"""
KILLED_ONCE = """\
import os, pathlib
tried = pathlib.Path("tried")
if not tried.exists():
    tried.touch()
    os.kill(os.getpid(), 9)
"""
EVALUATION = {"auroc": {"value": 0.75, "low": 0.7, "high": 0.8}, "threshold": 0.125}


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git and DVC project of three quick stages."""
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "train.py").write_text("print('loss 0.5')\n")
    (tmp_path / "evaluation.txt").write_text(json.dumps(EVALUATION))
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def run_retrain(project: Path, *, force: bool = False) -> tuple[State[Any], UUID]:
    state = retrain(force=force, project=str(project), return_state=True)
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    return state, run_id


def task_states(client: SyncPrefectClient, run_id: UUID) -> list[tuple[str, str, int]]:
    """Name, state and number of tries of the run's tasks, in the order in which they began."""
    # Task runs reach the server as events, which may be a moment behind the flow.
    for _ in range(100):
        found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        if found and all(run.state and run.state.is_final() for run in found):
            break
        time.sleep(0.2)
    found.sort(key=lambda run: str(run.start_time))
    return [(run.name, str(run.state_name), run.run_count) for run in found]


def log_lines(client: SyncPrefectClient, run_id: UUID, until: str) -> list[str]:
    """What the server keeps of the run's log, its tasks' lines included; lines are sent in batches."""
    for _ in range(100):
        found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200)
        lines = [log.message for log in found]
        if any(until in line for line in lines):
            return lines
        time.sleep(0.2)
    raise AssertionError(f"no line with {until!r} among {lines}")


def artifacts(client: SyncPrefectClient, run_id: UUID) -> dict[str, Any]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return {str(artifact.key): artifact.data for artifact in client.read_artifacts(artifact_filter=wanted)}


def test_run_reproduces_every_stage_and_the_next_one_nothing(project: Path, client: SyncPrefectClient) -> None:
    state, run_id = run_retrain(project)
    assert state.name == "Completed"
    assert state.message == "Reproduced raw, train, report; the other stages were unchanged."
    assert task_states(client, run_id) == [
        ("raw", "Reproduced", 1),
        ("train", "Reproduced", 1),
        ("report", "Reproduced", 1),
    ]
    lines = log_lines(client, run_id, "Running stage 'report'")
    assert lines.index("epoch 1") < lines.index("loss 0.5")
    assert any("concurrency limit 'gpu'" in line for line in lines)

    found = artifacts(client, run_id)
    assert "| auroc | 0.75 | 0.7 to 0.8 |" in found["retrain-report"]
    assert json.loads(found["retrain-results"])[0] == {"measure": "auroc", "value": "0.75", "interval": "0.7 to 0.8"}
    assert [row["state"] for row in json.loads(found["retrain-stages"])] == ["Reproduced"] * 3

    state, run_id = run_retrain(project)
    assert (state.name, state.is_completed()) == ("Unchanged", True)
    assert [(name, what) for name, what, _tries in task_states(client, run_id)] == [
        ("raw", "Cached"),
        ("train", "Cached"),
        ("report", "Cached"),
    ]

    (project / "evaluation.txt").write_text(json.dumps({**EVALUATION, "threshold": 0.5}))
    state, run_id = run_retrain(project)
    assert [what for _name, what, _tries in task_states(client, run_id)] == ["Cached", "Cached", "Reproduced"]
    state, run_id = run_retrain(project, force=True)
    assert [what for _name, what, _tries in task_states(client, run_id)] == ["Reproduced"] * 3


def test_killed_training_is_tried_again(
    project: Path, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_module, "RETRY_DELAY_S", 0.1)
    (project / "train.py").write_text(KILLED_ONCE)
    state, run_id = run_retrain(project)
    assert state.is_completed(), state.message
    assert ("train", "Reproduced", 2) in task_states(client, run_id)


@pytest.mark.parametrize(("code", "tries"), [(4, 1), (1, 3)])
def test_failed_stage_fails_the_run_with_its_last_lines(
    project: Path, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, code: int, tries: int
) -> None:
    """An error of Vigil's own (exit code 4, bad data) would come again, so it is not tried again."""
    monkeypatch.setattr(retrain_module, "RETRY_DELAY_S", 0.1)
    (project / "train.py").write_text(f"import sys\nprint('the disk is full')\nsys.exit({code})\n")
    state, run_id = run_retrain(project)
    assert state.is_failed()
    assert "stage 'train' failed. Its last lines:" in str(state.message)
    assert "the disk is full" in str(state.message)
    found = task_states(client, run_id)
    assert found == [("raw", "Reproduced", 1), ("train", "Failed", tries)]
    assert not (project / "reports").exists()


def test_other_stages_are_not_tried_again(project: Path, client: SyncPrefectClient) -> None:
    (project / "evaluation.txt").unlink()
    state, run_id = run_retrain(project)
    assert state.is_failed()
    assert task_states(client, run_id)[-1] == ("report", "Failed", 1)


def test_slot_is_made_once_and_a_larger_one_is_kept(client: SyncPrefectClient) -> None:
    create_gpu_slot()
    client.update_global_concurrency_limit(GPU_SLOT, GlobalConcurrencyLimitUpdate(limit=2))
    create_gpu_slot()
    found = client.read_global_concurrency_limit_by_name(GPU_SLOT)
    assert (found.limit, found.active_slots) == (2, 0)
    client.update_global_concurrency_limit(GPU_SLOT, GlobalConcurrencyLimitUpdate(limit=1))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StageFailed("killed", -9), True),
        (StageFailed("killed by the shell", 137), True),
        (StageFailed("of no known reason"), True),
        (StageFailed("wrong params", 3), False),
        (StageFailed("diverged", 6), False),
        (RuntimeError("lost the server"), True),
    ],
)
def test_what_is_worth_another_try(error: Exception, again: bool) -> None:
    assert worth_another_try(None, None, Failed(data=error)) is again  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- promotion, screening


@pytest.fixture
def params(tmp_path: Path, section: RegisterSection) -> str:
    path = tmp_path / "params.json"
    values = {"data": {"name": "folder", "root": "raw"}, "register": section.model_dump(mode="json")}
    path.write_text(json.dumps(values))
    return str(path)


def test_promote_then_screen_then_refuse(
    params: str, section: RegisterSection, tmp_path: Path, client: SyncPrefectClient
) -> None:
    write_tiny_bundle(tmp_path / "one", seed=1, auroc=0.8)
    register(tmp_path / "one", section)
    state = promote(who="ann", why="the first", params=params, return_state=True)
    assert (state.name, state.is_completed()) == ("Promoted", True)
    assert "v1 is now the champion" in str(state.message)

    images = tmp_path / "images"
    images.mkdir()
    (images / "good.png").write_bytes(encoded(grey_image(0)))
    (images / "torn.png").write_bytes(encoded(grey_image(0))[:40])
    state = screen(folder=str(images), out=str(tmp_path / "out"), params=params, return_state=True)
    assert state.is_completed(), state.message
    assert str(state.message).startswith("2 images: ")
    assert "1 REJECTED" in str(state.message)
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    rows = json.loads(artifacts(client, run_id)["screening"])
    assert {Path(row["path"]).name: row["verdict"] == "REJECTED" for row in rows} == {
        "good.png": False,
        "torn.png": True,
    }
    assert len(list((tmp_path / "out").glob("*.png"))) == 1

    (tmp_path / "dark").mkdir()
    for index in range(20):
        (tmp_path / "dark" / f"{index}.png").write_bytes(encoded(grey_image(index).point(lambda value: value // 2)))
    state = screen(folder=str(tmp_path / "dark"), params=params, return_state=True)
    assert (state.name, state.is_completed()) == ("Warned", True)
    assert str(state.message).endswith("; they look unlike calibration's")
    (described,) = [a.description for a in client.read_artifacts() if a.flow_run_id == state.state_details.flow_run_id]
    assert "Warning: the 20 images do not look like those that the threshold was calibrated on" in str(described)

    write_tiny_bundle(tmp_path / "two", seed=2, auroc=0.7)
    register(tmp_path / "two", section)
    state = promote(who="bob", why="hope", params=params, return_state=True)
    assert (state.name, state.is_failed()) == ("Refused", True)
    assert "AUROC 0.7000 does not exceed champion v1's 0.8000" in str(state.message)


def test_screening_an_empty_folder_fails(params: str, section: RegisterSection, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "one")
    register(tmp_path / "one", section)
    assert promote(who="ann", why="", params=params, return_state=True).is_completed()
    (tmp_path / "empty").mkdir()
    state = screen(folder=str(tmp_path / "empty"), params=params, return_state=True)
    assert state.is_failed()
    assert "no images found" in str(state.message)
    shutil.rmtree(tmp_path / "empty")


STARTING = """\
stages:
  start:
    cmd: grep parent params.yaml > start.txt
    params: [start]
    outs: [start.txt]
"""


def test_what_training_starts_from_is_pinned_before_the_stage_that_reads_it(
    project: Path, client: SyncPrefectClient
) -> None:
    (project / "dvc.yaml").write_text(STARTING)
    pinned = {"version": 1, "bundle": "b" * 64, "rehearsal": "c" * 64}
    (project / "params.yaml").write_text(
        json.dumps({"data": {"name": "folder", "root": "x"}, "start": {"parent": pinned}})
    )
    state = retrain(project=str(project), start_from="scratch", return_state=True)
    assert state.name == "Completed", state.message
    assert (project / "start.txt").read_text().split("parent")[1].strip('": ').startswith("null")
    state = retrain(project=str(project), start_from="champion", return_state=True)
    assert state.is_failed()
    assert "pinning the start failed" in str(state.message)
