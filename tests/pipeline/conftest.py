"""An MLflow store on SQLite, and a project whose pipeline has run, for the tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.pipeline.project import commit, make_project, run
from vigil.cli import STAGES
from vigil.config import RegisterSection
from vigil.delivery.mlflow_tracking import open_store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds MLflow's tables and nothing else; making them takes seconds, so each test copies this one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(RegisterSection(tracking_uri=f"sqlite:///{path}"))
    return path


@pytest.fixture
def section(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> RegisterSection:
    """A store of the test's own in `tmp_path`, which is the working directory too."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return RegisterSection(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A project on which `dvc repro` has run to its end, committed; the processes of one test run share it."""
    base = tmp_path_factory.getbasetemp()
    project = (base if worker_id == "master" else base.parent) / "built" / "project"
    project.parent.mkdir(exist_ok=True)
    with FileLock(project.parent / "lock"):
        if not (project.parent / "done").is_file():
            shutil.rmtree(project, ignore_errors=True)
            make_project(project)
            output = run(project, "dvc", "repro")
            for stage in STAGES:
                assert f"Running stage '{stage}'" in output
            commit(project, "results")
            (project.parent / "done").touch()
    return project
