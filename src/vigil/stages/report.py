"""report: one self-contained page; a copy goes to the MLflow run of the registered version."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vigil.config import DataSection, EvaluateSection, PatchSection, RegisterSection
from vigil.files import read_json, write_text
from vigil.records import ANOMALOUS, SPLIT_TABLE
from vigil.stages import layout

if TYPE_CHECKING:
    from vigil.delivery.report import Group, HeatMapCase


def run(data: DataSection, patch: PatchSection, evaluate: EvaluateSection, register: RegisterSection) -> None:
    """Writes the page; `register` says where MLflow is and decides nothing of what the page shows."""
    from vigil.delivery.mlflow_registry import attach_to_version
    from vigil.delivery.plots import training_plot
    from vigil.delivery.report import ReportInputs, build_report

    training = read_json(layout.TRAIN_REPORT)
    registered = read_json(layout.REGISTERED)
    roc = layout.PLOTS / "roc.svg"
    page = build_report(
        ReportInputs(
            data_set=data.name,
            counts=_counts(),
            evaluation=read_json(layout.EVALUATION),
            calibration=read_json(layout.CALIBRATION),
            audit=read_json(layout.AUDIT),
            training=training,
            registered=registered,
            validations=[
                read_json(folder / "validation.json")
                for folder in (layout.VALIDATION_REPORT, layout.PATCH_VALIDATION_REPORT)
            ],
            scores_svg=(layout.PLOTS / "score_distribution.svg").read_text(),
            roc_svg=roc.read_text() if roc.exists() else None,
            training_svg=training_plot(_losses(), training["selection"]["chosen"]),
            cases=list(_cases(patch, evaluate.heat_maps)),
            links={
                "Contract of the raw data": "validation/index.html",
                "Contract of the patches": "patch-validation/index.html",
            },
        )
    )
    write_text(layout.REPORT, page)
    attach_to_version(register, registered["version"], [layout.REPORT])


def _counts() -> dict[str, dict[str, int]]:
    rows = SPLIT_TABLE.read(layout.SPLITS)
    found = Counter(zip(rows.column("split").to_pylist(), rows.column("label").to_pylist(), strict=True))
    return {
        split: {"normal": found[split, 0], "anomalous": found[split, ANOMALOUS]}
        for split in ("train", "calibration", "test")
    }


def _losses() -> dict[str, list[dict[str, float]]]:
    candidates: dict[str, list[dict[str, float]]] = {}
    for row in csv.DictReader(io.StringIO(layout.LOSSES.read_text())):
        name = row.pop("candidate")
        candidates.setdefault(name, []).append({key: float(value) for key, value in row.items()})
    return candidates


def _chosen_images(count: int) -> list[tuple[Group, dict[str, Any]]]:
    """Which test images are shown: the clearest and the hardest finds, the misses, the false alarms."""
    table = csv.DictReader(io.StringIO(layout.TEST_IMAGES.read_text()))
    rows: list[dict[str, Any]] = [{**row, "score": float(row["score"])} for row in table]
    rows.sort(key=lambda row: (-row["score"], row["image_id"]))
    anomalous = [row for row in rows if int(row["label"]) == ANOMALOUS]
    found = [row for row in anomalous if row["verdict"] == "ANOMALOUS"]
    missed = [row for row in reversed(anomalous) if row["verdict"] != "ANOMALOUS"]
    false_alarms = [row for row in rows if int(row["label"]) != ANOMALOUS and row["verdict"] == "ANOMALOUS"]
    best, rest = found[:count], found[count:]
    groups: list[tuple[Group, list[dict[str, Any]]]] = [
        ("best", best),
        ("missed", missed[:count]),
        ("worst", rest[::-1][:count]),
        ("false_alarms", false_alarms[:count]),
    ]
    return [(group, row) for group, members in groups for row in members]


def _cases(patch: PatchSection, count: int) -> Iterator[HeatMapCase]:
    from vigil.delivery.bundle import read_record
    from vigil.delivery.report import HeatMapCase
    from vigil.evaluation.localisation import stitched_images
    from vigil.images.shards import PatchShards
    from vigil.serving.heat_map_panel import heat_map_panel

    chosen = _chosen_images(count)
    level = read_record(layout.BUNDLE).map_level
    wanted = {row["image_id"] for _, row in chosen}
    shards = PatchShards.open(layout.PATCHES["test"])
    pictures: dict[str, bytes] = {}
    for stitched in stitched_images(shards, patch, layout.MAPS["test"], wanted):
        assert stitched.anomaly_map is not None
        pictures[stitched.image_id] = heat_map_panel(stitched.pixels, stitched.anomaly_map, level, stitched.mask)
    for group, row in chosen:
        yield HeatMapCase(group, row["image_id"], row["kind"], row["score"], pictures[row["image_id"]])
