"""An MLflow store on SQLite for the tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
