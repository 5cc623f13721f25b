"""From cells to params: valid for every cell of every experiment, one budget for all systems, nothing from test."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigil.benchmark.cells import Cell, Task
from vigil.benchmark.experiments import NAMES, experiment
from vigil.benchmark.raw_data import RawData
from vigil.benchmark.settings import BEYOND_PRESETS, BUDGETS, Budget, budget_of, params_of, settings_of
from vigil.benchmark.systems import ABLATIONS, BEYOND_PARTS, BEYOND_SCANS, BEYOND_SMALL, PAIR, SYSTEMS, is_beyond
from vigil.config import Params, load_params
from vigil.errors import ConfigError
from vigil.networks.registry import SYSTEMS as REGISTERED

PRESETS = Path(__file__).parents[3] / "presets"
OWN = {
    "anogan": ("model.latent_search", "score.batch_size"),
    "ganomaly": ("train.weights",),
    "patch_svdd": ("train.weights",),
}
"""What a system's own description decides, beside its name and its score."""


@pytest.fixture
def data(tmp_path: Path) -> RawData:
    (tmp_path / "data").mkdir()
    return RawData(tmp_path / "data", tmp_path / "work")


def params(cell: Cell, train_patches: int = 3000) -> Params:
    budget = budget_of(cell, BUDGETS, PRESETS)
    return params_of(settings_of(cell, budget, PRESETS), budget, train_patches, {})


def flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def test_the_systems_of_the_tables_are_those_that_there_are() -> None:
    assert set(SYSTEMS) == set(REGISTERED)


@pytest.mark.parametrize("budget", sorted(BUDGETS))
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_has_valid_params(name: str, budget: str, data: RawData) -> None:
    cells = experiment(name, data).cells(1, budget)
    seen = {(cell.task.data, cell.system): cell for cell in cells}  # classes differ in a name alone
    for cell in seen.values():
        made = params(cell)
        assert made.data.name == cell.task.data
        assert made.split.calibration_anomaly_fraction == 0 or is_beyond(cell.system)
        assert made.train.candidates[0].seed == made.split.seed == cell.seed


def test_all_systems_of_a_task_have_one_budget() -> None:
    task = Task("cifar10", "frog", "one_class_normal")
    of_pair = flat(params(Cell(task, 1, PAIR, "cpu")).model_dump(mode="json", by_alias=True))
    for name in SYSTEMS:
        own = flat(params(Cell(task, 1, name, "cpu")).model_dump(mode="json", by_alias=True))
        differing = {key for key in own.keys() | of_pair.keys() if own.get(key) != of_pair.get(key)}
        allowed = ("model.name", "calibrate.score", *OWN.get(name, ()))
        assert not {key for key in differing if not key.startswith(allowed)}


def test_the_budget_in_images_is_what_is_trained() -> None:
    made = params(Cell(Task("cifar10", "frog", "one_class_normal"), 0, PAIR, "cpu"), train_patches=1000)
    assert made.train.epochs == pytest.approx(16.384)
    assert made.train.checkpoint_every_images == made.train.log_every_images == 2731  # a sixth of 16384


def test_an_ablation_turns_one_switch() -> None:
    cells = {name: params(Cell(Task("baggage", "all"), 0, name, "cpu")) for name in ABLATIONS}
    assert [cells[name].model.attention.enabled for name in ABLATIONS] == [True, False, True, True]
    assert [cells[name].model.spectral_norm for name in ABLATIONS] == [True, True, False, True]
    assert [cells[name].train.adversarial for name in ABLATIONS] == ["log", "log", "log", "wasserstein_gp"]


def test_the_readings_hold_the_class_in_two_ways() -> None:
    for reading in ("one_class_anomalous", "one_class_normal"):
        made = params(Cell(Task("cifar10", "frog", reading), 0, PAIR, "cpu"))
        assert (made.data.held_class, made.data.protocol) == ("frog", reading)


def test_the_paper_budget_states_epochs() -> None:
    assert params(Cell(Task("mvtec", "bottle"), 0, PAIR, "paper")).train.epochs == 20


def test_a_missing_preset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cifar10\.yaml: params file not found"):
        settings_of(Cell(Task("cifar10", "frog", "one_class_normal"), 0, PAIR, "cpu"), Budget(8, 4, 32), tmp_path)


@pytest.mark.parametrize(
    ("parts", "systems", "message"),
    [(["frog", "toad"], None, "--classes: unknown toad; .*truck"), (None, ["gan"], "--systems: unknown gan; .*anogan")],
)
def test_an_unknown_class_or_system_is_named(
    data: RawData, parts: list[str] | None, systems: list[str] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment("table1", data, parts, systems)


def test_a_part_of_an_experiment_has_its_cells_alone(data: RawData) -> None:
    cells = experiment("table1", data, ["frog"], ["anogan", PAIR]).cells(2, "cpu")
    assert len(cells) == 2 * 2 * 2
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4  # a row of every system first
    assert {cell.system for cell in cells} == {"anogan", PAIR}


def test_the_data_that_are_there_decide_what_can_be_run(tmp_path: Path) -> None:
    for part in ("cifar10", "mvtec/bottle/train/good", "sixray/JPEGImages"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "sixray/JPEGImages/N1.jpg").touch()
    there = RawData(tmp_path, tmp_path / "work")
    assert there.missing(Task("cifar10", "frog")) is None
    assert there.missing(Task("mvtec", "bottle")) is None
    assert there.missing(Task("mvtec", "tile")) == "mvtec/tile is not there"
    assert there.missing(Task("magnetic_tile", "all")) == "magnetic_tile is not there"
    assert there.missing(Task("sixray", "A")) == "needs 10,000 normal scans, 1 are there"
    assert there.missing(Task("sixray", "slice")) is None
    assert there.missing(Task("baggage", "all")) is None
    with pytest.raises(ConfigError, match="no such folder"):
        RawData(tmp_path / "nowhere", tmp_path)


BEYOND_TASKS = {
    "baggage": (Task("baggage", "all"), BEYOND_SCANS),
    "mvtec": (Task("mvtec", "bottle"), BEYOND_PARTS),
    "magnetic_tile": (Task("magnetic_tile", "all"), BEYOND_PARTS),
    "cifar10": (Task("cifar10", "automobile", "one_class_normal"), BEYOND_SMALL),
}
TURNED = {
    "beyond": set(),
    "beyond_one_view": {"model.pointing_views"},
    "beyond_restores": {"model.pointing", "train.generator_share", "calibrate.score"},
    "beyond_points_at_restorations": {"model.pointing_sees", "train.generator_share"},
    "beyond_patches_alone": {"calibrate.score"},
    "beyond_sharp_colour": {"model.pointing_colour"},
    "beyond_without_decoys": {"train.pseudo_anomalies.decoy_fraction"},
    "beyond_narrow_photometric": {"train.photometric_range"},
    "beyond_without_photometric": {"train.photometric_share"},
    "beyond_memory": {"model.memory.enabled", "calibrate.score"},
    "beyond_fitted": {"model.memory.enabled", "score.stamped_patches", "calibrate.score"},
    "beyond_adversarial": {"train.generator_share", "train.weights.adversarial", "train.weights.latent"},
    "beyond_turns": {"calibrate.score"},
}
"""Which keys a switch turns, at the most."""


@pytest.mark.parametrize("data_set", sorted(BEYOND_TASKS))
def test_a_switch_beyond_the_paper_is_the_users_preset_with_one_thing_changed(data_set: str) -> None:
    task, switches = BEYOND_TASKS[data_set]
    preset = flat(load_params(PRESETS / BEYOND_PRESETS[data_set]).model_dump(mode="json", by_alias=True))
    for name in switches.keys() & TURNED.keys():
        made = params(Cell(task, 0, name, "cpu"), train_patches=5000)
        own = flat(made.model_dump(mode="json", by_alias=True))
        differing = {key for key in own.keys() | preset.keys() if own.get(key) != preset.get(key)}
        # Where things lie, how much is recorded, and a column that is added to the report.
        beside = (
            "data.root",
            "register.",
            "promote.",
            "start.keep_",
            "evaluate.protocol",
            "train.log_",
            "train.checkpoint_",
            "train.epochs",
        )
        assert {key for key in differing if not key.startswith(beside)} <= TURNED[name], name
        share = {"cifar10": 1, "baggage": 1 / 3, "sixray": 1 / 3}.get(data_set, 1 / 9)
        assert made.train.epochs == pytest.approx(share * load_params(PRESETS / BEYOND_PRESETS[data_set]).train.epochs)


def test_each_switch_of_a_preset_makes_other_settings() -> None:
    for task, switches in BEYOND_TASKS.values():
        cells = [Cell(task, 0, name, "cpu") for name in switches]
        made = {repr(settings_of(cell, budget_of(cell, BUDGETS, PRESETS), PRESETS)) for cell in cells}
        assert len(made) == len(cells)
    larger = budget_of(Cell(Task("baggage", "all"), 0, "beyond", "gpu"), BUDGETS, PRESETS)
    assert larger.epochs == 8 * load_params(PRESETS / BEYOND_PRESETS["baggage"]).train.epochs


def test_a_default_that_was_replaced_by_another_preset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "params.yaml").write_text((PRESETS / "digits.yaml").read_text())
    with pytest.raises(ConfigError, match=r"expected the default for baggage, found one for digits"):
        budget_of(Cell(Task("baggage", "all"), 0, "beyond", "cpu"), BUDGETS, tmp_path / "presets")
