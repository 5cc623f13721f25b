"""The MLflow run of a training, on a real SQLite store: children, resumption, and a store that goes away."""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pipeline.mlflow_warnings import MLFLOW_WARNINGS
from vigil.config import RegisterSection
from vigil.delivery.mlflow_tracking import experiment_id, flattened, open_store, shortened, training_run
from vigil.errors import RegistryError
from vigil.training.recorder import StepRecord

pytestmark = [pytest.mark.pipeline, *MLFLOW_WARNINGS]

SETTINGS = {"train": {"epochs": 2, "weights": {"latent": 1.0}}}
DIGESTS = {"train": "abc"}


def step(images_seen: int, loss: float = 1.0) -> StepRecord:
    return StepRecord(images_seen, loss, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0, 50.0, 0.0)


def test_a_training_has_params_digests_children_and_curves(section: RegisterSection, tmp_path: Path) -> None:
    author = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run(["git", *command], check=True, cwd=tmp_path)
    with training_run(section, tmp_path / "work", SETTINGS, DIGESTS) as run:
        for name in ("seed-0", "seed-1"):
            with run.candidate(name, {"train": {"learning_rate": 1e-3}}) as recorder:
                recorder.record(step(10, 1.5))
                recorder.record(step(20, math.inf))
        run.log({"calibration_auroc": 0.7, "nothing": math.nan}, {"vigil.chosen": "seed-1"})
    client = open_store(section)
    parent = client.get_run(run.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"train.epochs": "2", "train.weights.latent": "1.0", "digest.train": "abc"}
    assert parent.data.metrics["calibration_auroc"] == 0.7
    assert "nothing" not in parent.data.metrics
    assert len(parent.data.tags["mlflow.source.git.commit"]) == 40
    assert parent.data.tags["vigil.git_changes"] == "True"
    query = f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    children = client.search_runs([experiment_id(client, section)], query)
    assert {c.data.tags["mlflow.runName"]: c.info.status for c in children} == {
        "seed-0": "FINISHED",
        "seed-1": "FINISHED",
    }
    curve = client.get_metric_history(children[0].info.run_id, "discriminator_loss")
    assert [(m.step, m.value) for m in curve] == [(10, 1.5)]  # a loss that is no number is left out
    assert [m.step for m in client.get_metric_history(children[0].info.run_id, "images_per_s")] == [10, 20]


def test_a_training_that_was_cut_off_continues_its_runs(section: RegisterSection, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_ids = []

    def cut_off() -> None:
        with training_run(section, work, SETTINGS, DIGESTS) as run, run.candidate("seed-0", {}) as recorder:
            run_ids.append(run.run_id)
            recorder.record(step(10))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cut_off()
    client = open_store(section)
    (first_id,) = run_ids
    assert client.get_run(first_id).info.status == "FAILED"

    with training_run(section, work, SETTINGS, DIGESTS) as second, second.candidate("seed-0", {}) as recorder:
        recorder.record(step(10))  # training hands over its earlier intervals again
        recorder.record(step(20))
    assert second.run_id == first_id
    assert client.get_run(first_id).info.status == "FINISHED"
    (child,) = client.search_runs([experiment_id(client, section)], f"tags.`mlflow.parentRunId` = '{first_id}'")
    assert [m.step for m in client.get_metric_history(child.info.run_id, "latent_loss")] == [10, 20]
    assert child.info.status == "FINISHED"

    with training_run(section, work, SETTINGS, DIGESTS) as third:  # a finished run is never reopened
        assert third.run_id != first_id


@pytest.mark.parametrize(("settings", "digests"), [({"train": {"epochs": 3}}, DIGESTS), (SETTINGS, {"train": "xyz"})])
def test_other_settings_or_data_begin_a_new_run(
    section: RegisterSection, tmp_path: Path, settings: dict[str, object], digests: dict[str, str]
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        training_run(section, tmp_path / "work", SETTINGS, DIGESTS) as first,
    ):
        raise KeyboardInterrupt
    assert open_store(section).get_run(first.run_id).info.status == "KILLED"
    with training_run(section, tmp_path / "work", settings, digests) as second:
        assert second.run_id != first.run_id


def test_a_store_that_was_deleted_begins_a_new_run(section: RegisterSection, tmp_path: Path, empty_store: Path) -> None:
    with pytest.raises(KeyboardInterrupt), training_run(section, tmp_path / "work", SETTINGS, DIGESTS) as first:
        raise KeyboardInterrupt
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with training_run(section, tmp_path / "work", SETTINGS, DIGESTS) as second:
        assert second.run_id != first.run_id


def test_a_store_that_goes_away_costs_a_warning_and_loses_nothing(
    section: RegisterSection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database, hidden = tmp_path / "mlflow.db", tmp_path / "hidden.db"
    with training_run(section, tmp_path / "work", SETTINGS, DIGESTS) as run, run.candidate("seed-0", {}) as recorder:
        recorder.record(step(10))
        caplog.clear()
        shutil.copy(database, hidden)
        database.write_bytes(b"not a database, " * 1000)
        with caplog.at_level(logging.WARNING):
            recorder.record(step(20))
            recorder.record(step(30))
        assert [r.message.split(":")[0] for r in caplog.records if r.name.startswith("vigil")] == [
            "MLflow does not answer, training goes on without it"
        ]
        shutil.copy(hidden, database)
        recorder.record(step(40))
    client = open_store(section)
    (child,) = client.search_runs([experiment_id(client, section)], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert [m.step for m in client.get_metric_history(child.info.run_id, "latent_loss")] == [10, 20, 30, 40]


@pytest.mark.parametrize("uri", ["file:///tmp/x", "mlruns", "sqlite://", ""])
def test_an_address_that_holds_no_registry_is_refused(uri: str) -> None:
    with pytest.raises(RegistryError, match=r"register\.tracking_uri: expected an address such as sqlite"):
        open_store(RegisterSection(tracking_uri=uri))


def test_a_dead_server_stops_the_training_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    section = RegisterSection(tracking_uri="http://127.0.0.1:9")
    with (
        pytest.raises(RegistryError, match=r"the MLflow store at 'http://127\.0\.0\.1:9' does not answer"),
        training_run(section, tmp_path / "work", SETTINGS, DIGESTS),
    ):
        pytest.fail("the training began")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, " * 1000)
    with pytest.raises(RegistryError, match="does not answer"):
        open_store(RegisterSection(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))


def test_settings_are_flattened_and_errors_shortened() -> None:
    assert flattened({"a": {"b": {"c": 1}}, "d": (1, 2), "e": {}}) == {"a.b.c": "1", "d": "(1, 2)", "e": "{}"}
    assert shortened("a\n  b" + "x" * 400).startswith("a bx")
    assert len(shortened("x" * 1000)) == 300
