"""Tables from planted records: means and spreads by hand, published numbers apart, and a reason for every gap."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.unit.benchmark.planted import failed, finished
from vigil.benchmark.cells import Cell, Record, Task
from vigil.benchmark.experiments import ExperimentName, experiment
from vigil.benchmark.raw_data import RawData
from vigil.benchmark.systems import PAIR
from vigil.benchmark.tables import Results, csv_text, markdown
from vigil.benchmark.what_holds import what_holds

FROG = Task("cifar10", "frog", "one_class_anomalous")
FROG_NORMAL = Task("cifar10", "frog", "one_class_normal")
CAR = Task("cifar10", "automobile", "one_class_anomalous")


@pytest.fixture
def data(tmp_path: Path) -> RawData:
    for part in ("cifar10", "mvtec/bottle/train/good", "mvtec/tile/train/good", "sixray/JPEGImages"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number in range(3):
        (tmp_path / "data/sixray/JPEGImages" / f"N{number}.jpg").touch()
    return RawData(tmp_path / "data", tmp_path / "work")


def results(data: RawData, records: dict[Cell, Record], name: ExperimentName = "table1", seeds: int = 2) -> Results:
    made = experiment(name, data)
    absent = {
        task: reason
        for section in made.sections
        for task in section.tasks
        if (reason := data.missing(task)) is not None
    }
    return Results(made, seeds, "cpu", records, absent, f"vigil benchmark {name}")


def cell(task: Task, system: str, seed: int = 0) -> Cell:
    return Cell(task, seed, system, "cpu")


def rows_of(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by the text of their first column."""
    part = page.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return {(cells := [c.strip() for c in line.strip("|").split("|")])[0]: cells[1:] for line in lines}


def test_a_number_is_the_mean_and_the_spread_over_seeds_with_the_published_one_beside(data: RawData) -> None:
    records = {
        **{(c := cell(FROG, PAIR, seed)): finished(c, auroc) for seed, auroc in enumerate((0.5, 0.6))},
        (c := cell(FROG_NORMAL, PAIR)): finished(c, 0.8),
    }
    rows = rows_of(markdown(results(data, records)), "frog")
    assert rows["system"][:2] == ["this class anomalous", "this class normal"]
    # Standard deviation of .5 and .6 with one degree of freedom: .1 / sqrt(2).
    assert rows["the paper's pair"][0] == "0.550 ± 0.071 (2)"
    assert rows["the paper's pair"][1].startswith("0.800 (1 of 2) [")
    assert rows["the paper's pair"][-1] == "1.000"
    assert rows["Skip-GANomaly"][-1] == "0.931"
    assert rows["*best trivial image feature*"][0] == "0.700 ± 0.000 (2)"
    assert rows["*Laplacian energy*"][0] == "0.600 ± 0.000 (2)"
    assert rows["*untrained discriminator, Mahalanobis*"][0] == "0.650 ± 0.000 (2)"


def test_what_is_missing_says_why_and_what_is_not_defined_is_empty(data: RawData) -> None:
    records = {
        (c := cell(FROG, PAIR)): finished(c, 0.5),
        (d := cell(FROG, "anogan")): failed(d, "TrainingDiverged: a | b"),
        (e := cell(FROG, "ganomaly")): finished(e, 0.6, released={"auroc": 0.9, "images_seen": 1, "looks": {}}),
    }
    page = markdown(results(data, records, seeds=1))
    rows = rows_of(page, "frog")
    assert (rows["AnoGAN"][0], rows["EGBAD"][0]) == ("- [1]", "- [2]")
    assert "## Why a number is missing\n\n- [1] failed: TrainingDiverged: a \\| b\n- [2] not run\n" in page
    leak = rows["system"].index("this class anomalous, `released` (a leak)")
    assert rows["GANomaly"][leak] == "0.900 (1)"
    assert rows["the paper's pair"][leak] == ""
    assert "2 of 160 cells are finished" in page
    assert rows["*Laplacian energy*"][leak] == ""
    assert "- airplane, automobile, bird, cat, deer, dog, horse, ship, truck: not run\n" in page


def test_the_mean_over_classes_needs_every_class_that_was_begun(data: RawData) -> None:
    records = {
        **{(c := cell(FROG, PAIR, seed)): finished(c, value) for seed, value in enumerate((0.4, 0.6))},
        **{(c := cell(CAR, PAIR, seed)): finished(c, value) for seed, value in enumerate((0.8, 0.8))},
        **{(c := cell(CAR, "unet_autoencoder", seed)): finished(c, 0.9) for seed in range(2)},
    }
    page = markdown(results(data, records))
    rows = rows_of(page, "Mean of the classes above (automobile, frog)")
    # Seed 0: (.4 + .8) / 2, seed 1: (.6 + .8) / 2.
    assert rows["the paper's pair"][0] == "0.650 ± 0.071 (2)"
    assert rows["U-Net autoencoder"][0].startswith("- [")
    assert "only 1 of 2 have all seeds" in page


def test_the_csv_says_everything_of_each_number(data: RawData) -> None:
    records = {(c := cell(FROG, PAIR, seed)): finished(c, auroc) for seed, auroc in enumerate((0.5, 0.6))}
    rows = list(csv.DictReader(io.StringIO(csv_text(results(data, records)))))
    (row,) = (r for r in rows if (r["part"], r["reading"], r["system"]) == ("frog", "one_class_anomalous", PAIR))
    assert (row["mean"], row["spread"], row["seeds"], row["values"]) == ("0.55", "0.0707107", "2", "0.5 0.6")
    assert (row["low"], row["high"], row["published"]) == ("0.4", "0.6", "1.0")
    assert (row["measure"], row["protocol"], row["budget"]) == ("image_auroc", "strict", "cpu")
    assert (row["images_seen"], row["width"], row["normal_images"], row["anomalous_images"]) == (
        "4096",
        "8",
        "400",
        "300",
    )
    (gap,) = (
        r
        for r in rows
        if (r["part"], r["reading"], r["system"], r["protocol"]) == ("cat", "one_class_normal", "dagan", "strict")
    )
    assert (gap["mean"], gap["missing"]) == ("", "not run")


def test_table_2_has_both_patch_measures_apart_and_no_tile_of_another_set_in_its_average(data: RawData) -> None:
    def patches(value: float) -> dict[str, object]:
        return {
            "mask_cropped": {"auroc": value, "trivial": {"laplacian_energy": 0.9}},
            "patch_auroc_paper": value + 0.1,
        }

    records = {
        (c := cell(Task("mvtec", "bottle"), PAIR)): finished(c, 0.7, **patches(0.5)),
        (d := cell(Task("mvtec", "tile"), PAIR)): finished(d, 0.9, **patches(0.7)),
        (e := cell(Task("magnetic_tile", "all"), PAIR)): finished(e, 0.1, **patches(0.1)),
    }
    page = markdown(results(data, records, "table2", seeds=1))
    bottle = rows_of(page, "bottle")
    assert bottle["the paper's pair"][:3] == ["0.700 (1)", "0.500 (1)", "0.600 (1)"]
    assert bottle["the paper's pair"][-1] == "0.987"
    assert bottle["*Laplacian energy*"][1] == "0.900 (1)"
    assert bottle["*untrained discriminator, Mahalanobis*"][1] == ""
    average = rows_of(page, "Average of the MVTec AD categories above (bottle, tile)")
    assert average["the paper's pair"][:2] == ["0.800 (1)", "0.600 (1)"]
    assert average["the paper's pair"][-1] == "0.945 (all)"
    assert "0.100" in rows_of(page, "magnetic tile (not in the paper)")["the paper's pair"][0]


def test_table_3_shows_the_slice_and_says_what_the_sets_need(data: RawData) -> None:
    task = Task("sixray", "slice")
    records = {(c := cell(task, PAIR)): finished(c, 0.7, epochs_to_converge=1.25)}
    page = markdown(results(data, records, "table3", seeds=1))
    pair = rows_of(page, "SIXray, a slice with 3 normal scans")["the paper's pair"]
    assert pair[:4] == ["0.700 (1)", "0.250 (1)", "0.050 (1)", "1.2 (1)"]
    assert "- SIXray, set A (10,000 normal scans): needs 10,000 normal scans, 3 are there" in page


def test_leaks_and_shortcuts_of_the_cells_are_named(data: RawData) -> None:
    records = {(c := cell(FROG, PAIR)): finished(c, 0.7, leaks=["order"], shortcuts={"image_area": 0.99})}
    page = markdown(results(data, records, seeds=1))
    assert "LEAKS: order" in page
    assert "image_area (AUROC up to 0.990)" in page


def test_what_holds_sets_the_leak_beside_the_strict_and_the_published_number(data: RawData) -> None:
    released = {"auroc": 0.95, "images_seen": 1, "looks": {}}
    records = {
        (c := cell(FROG, "skip_ganomaly")): finished(c, 0.55, released=released),
        (d := cell(FROG, PAIR)): finished(d, 0.5),
    }
    page = what_holds([results(data, records, seeds=1)])
    assert "| frog anomalous | Skip-GANomaly | 0.550 (1) | 0.950 (1) | +0.400 | 0.931 |" in page
    assert "| frog anomalous | Skip-GANomaly: 0.550 (1) | 0.500 (1) | 0.700 (1) | 0.650 (1) | 1.000 |" in page
    assert "Over these 1 rows the protocol moves the AUROC by +0.400 to +0.400, by 0.400" in page


def test_what_holds_says_where_nothing_was_run(data: RawData) -> None:
    assert "No cell of a system with batch normalisation has been run yet." in what_holds([results(data, {})])


def test_switches_beyond_the_paper_stand_beside_their_cost_and_the_baselines(data: RawData) -> None:
    bags = Task("baggage", "all")
    inside = {"value": 0.88, "trivial": {"laplacian_energy": 0.61, "contrast": 0.77}}
    records = {
        (c := cell(bags, "beyond")): finished(
            c, 0.9, recall_at_5_percent_fpr=0.6, box_hit_rate={"value": 0.92}, patch_auroc_inside=inside, aupro=0.66
        ),
        (d := cell(bags, "beyond_one_view")): finished(d, 0.88),
    }
    rows = rows_of(markdown(results(data, records, "beyond-scans", seeds=1)), "simulated baggage")
    titles = rows["system"]
    whole = dict(zip(titles, rows["all together: the preset"], strict=True))
    assert whole["image AUROC"] == "0.900 (1)"
    assert whole["recall at 5 % false positives, read off the ROC"] == "0.600 (1)"
    assert (whole["hit rate"], whole["AUPRO"]) == ("0.920 (1)", "0.660 (1)")
    assert (whole["training, s"], whole["scoring, ms per patch"]) == ("90 (1)", "12.5 (1)")
    trivial = dict(zip(titles, rows["*best trivial image feature*"], strict=True))
    assert trivial["patch AUROC inside anomalous images"] == "0.770 (1)"
    assert rows["no decoys"][0].startswith("- [")
