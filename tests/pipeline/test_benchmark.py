"""Real cells of the paper's experiments, on a few pictures in CIFAR-10's layout: stages, MLflow, kills, leaks."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.mlflow_warnings import MLFLOW_WARNINGS
from vigil.benchmark.cells import Cell, Record, Task, read_record, record_path
from vigil.benchmark.command import Options, planned, run_benchmark
from vigil.benchmark.locks import locked
from vigil.benchmark.raw_data import RawData
from vigil.benchmark.running import Workplace, make_cell, needs_making, prepare, remove_trainings
from vigil.benchmark.settings import Budget
from vigil.config import RegisterSection, parse_params
from vigil.delivery.mlflow_tracking import experiment_id, open_store
from vigil.files import read_json
from vigil.images.readers.cifar10 import CLASSES

pytestmark = [pytest.mark.pipeline, *MLFLOW_WARNINGS]

PROJECT = Path(__file__).parents[2]
TINY = Budget(
    48,
    4,
    32,
    batch_size=8,
    max_train_images=24,
    max_calibration_images=20,
    max_test_images=10,
    bootstrap_samples=100,
    latent_search_steps=2,
    audited_images=2,
    looks=3,
)
FROG = Task("cifar10", "frog", "one_class_anomalous")
SWITCHES = ("beyond", "beyond_turns")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of forty pictures; those of a class have about one brightness and one contrast."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / "cifar10" / "train" / name).mkdir(parents=True)
        for image in range(40):
            pixels = (
                random.normal(random.normal(100 + 3 * number, 20), 10 + 2 * number, (32, 32, 3))
                .clip(0, 255)
                .astype(np.uint8)
            )
            Image.fromarray(pixels).save(folder / "cifar10" / "train" / name / f"{image:04d}.png")
    return folder


def workplace(work: Path, pictures: Path, tracking_uri: str) -> Workplace:
    register = {"tracking_uri": tracking_uri, "experiment": "cells"}
    data = RawData(pictures, work / "raw")
    return Workplace(work, data, PROJECT / "presets", register, budgets={"cpu": {"cifar10": TINY}})


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """What all cells of the task share; making it takes seconds, so each test copies it."""
    work = tmp_path_factory.mktemp("prepared")
    place = workplace(work, pictures, "sqlite:///unused.db")
    prepare(place, cell("ganomaly"), place.settings(cell("ganomaly")))
    return work


@pytest.fixture
def place(tmp_path: Path, pictures: Path, prepared: Path, section: RegisterSection) -> Workplace:
    shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    return workplace(tmp_path / "work", pictures, section.tracking_uri)


def cell(system: str, seed: int = 0) -> Cell:
    return Cell(FROG, seed, system, "cpu")


def made(place: Workplace, system: str) -> Record:
    record = make_cell(place, cell(system))
    assert record is not None
    assert record.error is None
    return record


def test_an_experiment_makes_its_cells_once_and_shows_them(
    tmp_path: Path, pictures: Path, prepared: Path, section: RegisterSection
) -> None:
    shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    options = Options(
        name="table1",
        budget="cpu",
        seeds=1,
        data=pictures,
        work=tmp_path / "work",
        out=tmp_path / "results",
        presets=PROJECT / "presets",
        tracking_uri=section.tracking_uri,
        parts=["frog"],
        systems=["dense_skip_gan", "ganomaly"],
        budgets={"cpu": {"cifar10": TINY}},
    )
    assert [state for _, state in planned(options)] == ["to do"] * 4
    outcome = run_benchmark(options)
    assert not outcome.failed
    assert [state for _, state in planned(options)] == ["finished"] * 4
    names = [path.name for path in outcome.written]
    assert names == ["table1-cpu.md", "table1-cpu.csv", "what-holds.md"]

    assert "--seeds 1 --data PATH --classes frog\n" in outcome.written[0].read_text()

    # What the table says is what the pipeline's own evaluation says.
    folder = tmp_path / "work" / "cells" / cell("ganomaly").name
    with outcome.written[1].open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["part"], r["reading"]) == (FROG.part, FROG.reading)]
    by_protocol = {(r["system"], r["protocol"]): r for r in rows}
    evaluation = read_json(folder / "reports/evaluation.json")
    assert float(by_protocol["ganomaly", "strict"]["mean"]) == pytest.approx(evaluation["auroc"]["value"], rel=1e-5)
    assert by_protocol["ganomaly", "strict"]["images_seen"] == "48"
    assert by_protocol["ganomaly", "released (a leak)"]["mean"]
    assert by_protocol["trivial", "strict"]["mean"]
    assert by_protocol["anogan", "strict"]["missing"] == "not run"
    # A cell's settings are a whole params file, which DVC could run; weights and scores are gone.
    assert parse_params(read_json(folder / "params.json")).model.name == "ganomaly"
    assert not (folder / "models/pair").exists()
    assert not (folder / "data").exists()

    # One run per experiment, a child per cell, the training below its cell.
    client = open_store(section)
    wanted = section.model_copy(update={"experiment": "vigil-benchmark"})
    runs = client.search_runs([experiment_id(client, wanted)])
    by_id = {run.info.run_id: run.data.tags for run in runs}
    assert {run.info.status for run in runs} == {"FINISHED"}
    paths = []
    for tags in by_id.values():
        names, here = [tags["mlflow.runName"]], tags
        while (parent := here.get("mlflow.parentRunId")) is not None:
            here = by_id[parent]
            names.append(here["mlflow.runName"])
        paths.append("/".join(reversed(names)))
    assert f"table1-cpu/{cell('ganomaly').name}/train/seed-0" in paths
    assert len(paths) == 1 + 3 * 4
    (child,) = (run for run in runs if run.data.tags["mlflow.runName"] == cell("ganomaly").name)
    assert child.data.metrics["auroc.value"] == pytest.approx(evaluation["auroc"]["value"])

    # Nothing is made twice.
    before = record_path(tmp_path / "work", cell("ganomaly")).stat().st_mtime_ns
    again = run_benchmark(options)
    assert not again.failed
    assert record_path(tmp_path / "work", cell("ganomaly")).stat().st_mtime_ns == before
    assert len(client.search_runs([experiment_id(client, wanted)])) == len(runs)


def test_the_released_protocol_is_not_the_strict_one(place: Workplace) -> None:
    record = made(place, "skip_ganomaly")
    looks = record.measured["released"]["looks"]
    assert [int(images) for images in looks] == [16, 32, 48]
    assert record.measured["released"]["auroc"] == max(looks.values())
    # Same weights, same images: only the mode and the order of the test set differ.
    assert looks["48"] != pytest.approx(record.measured["auroc"]["value"], abs=1e-6)
    assert made(place, "dense_skip_gan").measured["released"] is None

    # A cell whose budget changed since is made again.
    assert not needs_making(place, cell("dense_skip_gan"))
    smaller = {"cpu": {"cifar10": replace(TINY, images_seen=24)}}
    assert needs_making(replace(place, budgets=smaller), cell("dense_skip_gan"))


def test_a_failing_cell_is_recorded_and_tried_again(place: Workplace) -> None:
    # Something of another shape lies where the training would write.
    pair = place.out / "cells" / cell("unet_autoencoder").name / "models"
    pair.parent.mkdir(parents=True)
    pair.write_text("in the way")
    record = make_cell(place, cell("unet_autoencoder"))
    assert record is not None
    assert record.status == "failed"
    assert "Error" in (record.error or "")
    assert read_record(place.out, cell("unet_autoencoder")) == record
    assert Path.cwd() == place.out.parent  # back where the command was started
    pair.unlink()
    assert made(place, "unet_autoencoder").status == "finished"


def test_a_cell_that_another_process_makes_is_left_to_it(place: Workplace) -> None:
    with locked(place.out / "cells" / cell("dense_skip_gan").name) as free:
        assert free
        assert make_cell(place, cell("dense_skip_gan")) is None


def test_processes_that_begin_together_lay_out_one_store(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # holds no data set, so that there is nothing to make but the run of the experiment
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    options = ["--data", "data", "--work", "work", "--presets", str(PROJECT / "presets"), "--out", "out"]
    command = [sys.executable, "-m", "vigil", "benchmark", "table2", *options]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in started]
    assert [code for _, code in ends] == [0, 0], "\n".join(errors for errors, _ in ends)
    assert (tmp_path / "mlflow.db").is_file()


_MAKER = """
import sys
from pathlib import Path
from tests.pipeline.test_benchmark import cell, workplace
from vigil.benchmark.running import make_cell
data, work, uri = sys.argv[1:]
make_cell(workplace(Path(work), Path(data), uri), cell("ganomaly"))
"""


def test_a_killed_cell_goes_on_where_it_was_and_ends_as_an_uninterrupted_one(
    tmp_path: Path, place: Workplace, pictures: Path, prepared: Path
) -> None:
    other = tmp_path / "killed"
    shutil.copytree(prepared, other, symlinks=True)
    folder = other / "cells" / cell("ganomaly").name
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'src'}{os.pathsep}{PROJECT}", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", _MAKER, str(pictures), str(other), place.register["tracking_uri"]]
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(folder.glob(".vigil/work/train/*/*/checkpoint-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not record_path(other, cell("ganomaly")).exists()
    kept = (folder / "params.json").read_bytes()

    resumed = make_cell(workplace(other, pictures, place.register["tracking_uri"]), cell("ganomaly"))
    assert resumed is not None
    assert (folder / "params.json").read_bytes() == kept
    assert json.dumps(resumed.measured) == json.dumps(made(place, "ganomaly").measured)


def test_a_switch_beyond_the_paper_runs_on_its_preset(place: Workplace, tmp_path: Path) -> None:
    text = (PROJECT / "presets" / "cifar10-one-class.yaml").read_text()
    small = {"epochs: 30\n": "epochs: 1\n", "width: 64": "width: 8", "fitted_patches: 4000": "fitted_patches: 50"}
    for old, new in small.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "cifar10-one-class.yaml").write_text(text)
    here = dataclasses.replace(place, presets=tmp_path)
    task = Task("cifar10", "frog", "one_class_normal")
    whole = make_cell(here, Cell(task, 0, SWITCHES[0], "cpu"))
    (trained,) = here.out.glob("trained/*/")
    with locked(trained):  # another process is at it
        assert make_cell(here, Cell(task, 0, SWITCHES[1], "cpu")) is None
    turns = make_cell(here, Cell(task, 0, SWITCHES[1], "cpu"))
    assert whole is not None
    assert turns is not None
    assert (whole.error, turns.error) == (None, None)
    params = parse_params(read_json(here.out / "cells" / Cell(task, 0, "beyond", "cpu").name / "params.json"))
    assert (params.calibrate.score, params.data.held_class) == ("memory", "frog")  # type: ignore[union-attr]
    # The two differ in the score alone, so that they share one training.
    assert whole.measured["auroc"]["value"] != turns.measured["auroc"]["value"]
    assert len(list(here.out.glob("trained/*/checkpoint-*"))) == 1
    assert whole.spent["images_seen"] == turns.spent["images_seen"]
    assert turns.spent["seconds"]["train"] == whole.spent["seconds"]["train"]
    losses = [here.out / "cells" / Cell(task, 0, name, "cpu").name / "reports/losses.csv" for name in SWITCHES]
    assert losses[0].read_bytes() == losses[1].read_bytes()
    assert whole.spent["seconds"]["score_ms_per_patch"] > 0
    assert whole.measured["leaks"] == []

    # The checkpoints go when nothing is left to make, unless someone is at them.
    with locked(trained):
        remove_trainings(here)
    assert trained.is_dir()
    remove_trainings(here)
    assert not trained.exists()
