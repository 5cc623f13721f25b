"""`vigil benchmark` on the command line: what it refuses, what it lists, and what a failing cell ends with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.benchmark.planted import finished
from vigil.benchmark.cells import Cell, Task, write_record
from vigil.benchmark.experiments import experiment
from vigil.benchmark.figures import write_curves, write_figures
from vigil.benchmark.raw_data import RawData
from vigil.benchmark.running import Workplace, settings_digest
from vigil.benchmark.systems import PAIR
from vigil.benchmark.tables import Results
from vigil.cli import main
from vigil.config import CalibrateSection
from vigil.errors import ConfigError
from vigil.stages import layout

PRESETS = Path(__file__).parents[3] / "presets"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a data folder in which CIFAR-10 is a file that is no archive."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("data: {name: folder, root: data/raw/folder}\n")
    (tmp_path / "sets" / "cifar10").mkdir(parents=True)
    (tmp_path / "sets" / "cifar10" / "train.tar").write_bytes(b"no archive")
    return tmp_path


def run(*more: str) -> int:
    return main(["benchmark", "table1", "--data", "sets", "--out", "results", "--presets", str(PRESETS), *more])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--classes", "toad"], "--classes: unknown toad"),
        (["--systems", "gan"], "--systems: unknown gan"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--params", "none.yaml"], "none.yaml: params file not found"),
    ],
)
def test_a_wrong_option_is_named_and_leaves_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == ConfigError.exit_code
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml", "sets"]


def test_the_list_says_what_is_finished_and_what_is_not(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--classes", "frog", "--systems", PAIR, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "cifar10-frog-anomalous-dense_skip_gan-seed0-cpu  to do",
        "cifar10-frog-normal-dense_skip_gan-seed0-cpu  to do",
    ]


def planted(cell: Cell, auroc: float, settings: str | None = None) -> None:
    """A record in the project's benchmark folder, made with the settings of now where no others are given."""
    place = Workplace(Path(".vigil/benchmark"), RawData(Path("sets"), Path("raw")), PRESETS, {})
    record = finished(cell, auroc).model_copy(update={"settings": settings or settings_digest(place, cell)})
    write_record(place.out, cell, record)


def test_tables_are_written_from_the_records_that_there_are(project: Path) -> None:
    cell = Cell(Task("cifar10", "frog", "one_class_anomalous"), 1, PAIR, "cpu")
    planted(cell, 0.625)
    planted(Cell(cell.task, 0, PAIR, "cpu"), 0.375)
    assert run("--tables-only") == 0
    # One seed was asked for; the records of a second one are shown all the same.
    assert "| the paper's pair | 0.500 ± 0.177 (2) |" in (project / "results/table1-cpu.md").read_text()
    assert "No cell of a system with batch normalisation" in (project / "results/what-holds.md").read_text()


def test_no_mean_mixes_cells_of_todays_settings_with_others(project: Path) -> None:
    cell = Cell(Task("cifar10", "frog", "one_class_anomalous"), 0, PAIR, "cpu")
    planted(cell, 0.625)
    planted(Cell(cell.task, 1, PAIR, "cpu"), 0.375, settings="of an older preset")
    automobile = Task("cifar10", "automobile", "one_class_anomalous")
    planted(Cell(automobile, 0, PAIR, "cpu"), 0.875, settings="of an older preset")
    assert run("--tables-only") == 0
    page = (project / "results/table1-cpu.md").read_text()
    assert "| the paper's pair | 0.625 (1 of 2) [2] |" in page
    assert "- [2] made with other settings than today's" in page
    assert "1 of 320 cells are finished" in page
    assert "2 cells were made with other settings than today's; their numbers are not shown" in page
    assert "0.875" not in page
    assert "--classes automobile frog" in page  # the command that makes them anew
    assert "0.375" not in (project / "results/what-holds.md").read_text()


@pytest.mark.pipeline
def test_a_failing_cell_ends_the_command_with_an_error_and_stands_in_the_table(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--classes", "frog", "--systems", PAIR, "unet_autoencoder") == 1
    said = capsys.readouterr().err
    assert "failed: cifar10-frog-anomalous-unet_autoencoder-seed0-cpu: DataError: " in said
    assert "4 cell(s) failed" in said
    table = (project / "results/table1-cpu.md").read_text()
    assert "0 of 160 cells are finished" in table
    assert "failed: DataError: " in table


def test_figures_are_drawn_of_what_is_there(tmp_path: Path) -> None:
    import pyarrow as pa

    from vigil.calibration.calibration import fit_calibration, write_calibration
    from vigil.records import PATCH_SCORES

    count = 40
    scores = PATCH_SCORES.schema.empty_table().to_pydict()
    for number in range(count):
        row = {"patch_id": f"{number}", "image_id": f"{number}", "contextual": 0.1 * number, "latent": 0.0}
        row |= {"map_peak": 0.0, "label": 0, "image_label": 0, "kind": "normal", "group": f"{number}", "source": "grid"}
        for name, column in scores.items():
            column.append(row.get(name, 0))
    table = pa.table(scores).cast(PATCH_SCORES.schema)
    cell = Cell(Task("baggage", "all"), 0, PAIR, "cpu")
    folder = tmp_path / "cells" / cell.name
    write_calibration(folder / layout.CALIBRATION, fit_calibration(table, CalibrateSection()))
    (folder / layout.TEST_IMAGES).parent.mkdir(parents=True)
    (folder / layout.TEST_IMAGES).write_text("image_id,label,score\na,0,0.5\nb,0,1.0\nc,1,2.0\n")
    (tmp_path / "data").mkdir()
    made = experiment("figures", RawData(tmp_path / "data", tmp_path))
    results = Results(made, 1, "cpu", {cell: finished(cell, 1.0)}, {}, "command")
    written = write_figures(results, tmp_path / "cells", tmp_path / "plots")
    assert [path.name for path in written] == ["figure6-baggage-all-cpu.svg", "figure7-baggage-cpu.svg"]
    assert "normal (2 images)" in written[0].read_text().lower()
    assert "simulated baggage" in written[1].read_text()
    assert write_figures(results, tmp_path / "elsewhere", tmp_path / "plots") == []  # records alone, copied


def test_curves_are_drawn_of_records_alone(tmp_path: Path) -> None:
    (tmp_path / "data" / "mvtec" / "bottle" / "train" / "good").mkdir(parents=True)
    made = experiment("beyond-parts", RawData(tmp_path / "data", tmp_path))
    task = Task("magnetic_tile", "all")
    low, high, losses = [0.0] * 101, [1.0] * 101, [{"images_seen": 4.0, "pointing_loss": 0.5}]
    records = {
        Cell(task, seed, "beyond", "cpu"): finished(Cell(task, seed, "beyond", "cpu"), 0.5, roc=roc, losses=losses)
        for seed, roc in ((0, low), (1, high))
    }
    without = Cell(task, 0, "beyond_copies", "cpu")  # made before records had curves
    results = Results(made, 2, "cpu", {**records, without: finished(without, 0.5)}, {}, "command")
    roc, training = write_curves(results, tmp_path / "plots")
    assert [path.name for path in (roc, training)] == [
        "beyond-roc-magnetic_tile-all-cpu.svg",
        "beyond-losses-magnetic_tile-all-cpu.svg",
    ]
    text = roc.read_text()
    assert "all together: the preset (2)" in text
    assert "paper" not in text
    line = re.findall(r'<path d="(M [^"]*)"[^>]*stroke: #0072b2', text)[0]
    heights = {point.split()[1] for point in re.split("[ML]", line) if point.strip()}
    assert len(heights) == 1  # half of the anomalies at every rate: the mean of none and all
    assert "seed 1" in training.read_text()
