"""Measures of a cell: where the loss has settled, and patches of both labels cut by one rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.raw_set import RawSet
from vigil.benchmark.cells import Cell, Record, Task, failed, read_record, record_path, write_record
from vigil.benchmark.measures import (
    FALSE_POSITIVE_RATES,
    _same_places,
    epochs_to_converge,
    losses_by_images,
    recall_by_fpr,
)
from vigil.config import parse_params
from vigil.delivery.mlflow_benchmark import numbers
from vigil.errors import DataError, TrainingDiverged
from vigil.images.shards import PatchShards

CELL = Cell(Task("cifar10", "frog", "one_class_normal"), 1, "anogan", "cpu")
PARAMS = parse_params(
    {
        "data": {"name": "magnetic_tile", "root": "raw"},
        "patch": {"patch_size_px": 32, "stride_px": 16, "buckets": 2, "workers": 1, "regions_of_interest": True},
        "train": {"epochs": 2.0},
    }
)


@pytest.mark.parametrize(
    ("losses", "epochs"),
    [
        ([1.0, 0.52, 0.51, 0.5], 1.0),  # .525 is within 5 % of .5; two epochs are 400 images, settled at 200
        ([0.5, 0.9, 0.51, 0.5], 1.5),  # near once, gone again, and back
        ([0.5, 0.5, 0.5, 0.5], 0.5),
        ([1.0, 0.9, 0.8, 0.5], None),
        ([0.0, 0.0, 0.0, 0.0], None),  # a game between two networks, with no loss that settles
    ],
)
def test_a_loss_has_converged_where_it_stays_near_its_end(
    tmp_path: Path, losses: list[float], epochs: float | None
) -> None:
    for columns in ("contextual_loss,self_supervised_loss", "self_supervised_loss,contextual_loss"):
        rows = [f"a,{100 * (number + 1)},{loss},0.0" for number, loss in enumerate(losses)]
        (tmp_path / "losses.csv").write_text("\n".join([f"candidate,images_seen,{columns}", *rows]) + "\n")
        assert epochs_to_converge(PARAMS, tmp_path / "losses.csv") == epochs


def test_normal_patches_lie_where_the_defects_lie(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    raw = RawSet(tmp_path / "raw")
    pixels = {name: raw.add(name, (64, 64)) for name in ("a.png", "b.png")}
    mask = np.zeros((64, 64), np.bool_)
    mask[40:60, 4:20] = True
    raw.add("defect.png", (64, 64), label=1, mask=mask)
    raw.extract(tmp_path / "shards", patch=PARAMS.patch)
    shards = PatchShards.open(tmp_path / "shards")
    (roi,) = shards.index.take(shards.rows_of("roi")).to_pylist()
    place = np.array([[roi["y"] / 32, roi["x"] / 32]])
    cut = _same_places(shards, PARAMS, place)
    assert cut.shape == (2, 32, 32, 3)
    order = dict.fromkeys(shards.index["image_id"].to_pylist())
    for patch, name in zip(cut, [name for name in order if name in pixels], strict=True):
        np.testing.assert_array_equal(patch, pixels[name][roi["y"] : roi["y"] + 32, roi["x"] : roi["x"] + 32])


def test_records_are_read_as_they_were_written_and_others_refused(tmp_path: Path) -> None:
    assert read_record(tmp_path, CELL) is None
    record = failed(CELL, "digest", TrainingDiverged("after 5\nimages"))
    write_record(tmp_path, CELL, record)
    assert read_record(tmp_path, CELL) == record
    assert record.error == "TrainingDiverged: after 5 images"
    path = record_path(tmp_path, CELL)
    other = Cell(CELL.task, 2, CELL.system, CELL.budget)
    record_path(tmp_path, other).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="is the record of another cell"):
        read_record(tmp_path, other)
    path.write_text('{"version": 2}')
    with pytest.raises(DataError, match="Delete the file to make the cell again"):
        read_record(tmp_path, CELL)


def test_a_record_holds_no_number_that_is_none(tmp_path: Path) -> None:
    record = Record(cell={}, settings="", status="finished", measured={"auroc": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, CELL, record)


def test_numbers_for_mlflow_have_dotted_names() -> None:
    values = {"a": {"b": 1, "gun+knife": 0.5}, "c": None, "d": "text", "e": True, "f": float("inf")}
    assert numbers(values) == {"a.b": 1.0, "a.gun.knife": 0.5}


def test_the_curve_of_a_record_never_promises_recall_at_a_rate_below(tmp_path: Path) -> None:
    (tmp_path / "roc.csv").write_text("fpr,recall\n0.0,0.0\n0.0,0.25\n0.05,0.5\n0.055,0.75\n1.0,1.0\n")
    curve = recall_by_fpr(tmp_path / "roc.csv")
    assert curve is not None
    assert len(curve) == len(FALSE_POSITIVE_RATES) == 101
    assert [curve[k] for k in (0, 4, 5, 6, 99, 100)] == [0.25, 0.25, 0.5, 0.75, 0.75, 1.0]
    (tmp_path / "roc.csv").write_text("fpr,recall\n")
    assert recall_by_fpr(tmp_path / "roc.csv") is None


def test_a_record_keeps_the_losses_that_there_are(tmp_path: Path) -> None:
    rows = "candidate,images_seen,latent_loss,pointing_loss,generator_gradient_norm"
    (tmp_path / "losses.csv").write_text(f"{rows}\nseed-0,8,0.0,0.5,1.0\nseed-0,16,0.0,0.25,1.0\n")
    assert losses_by_images(tmp_path / "losses.csv") == [
        {"images_seen": 8.0, "pointing_loss": 0.5},
        {"images_seen": 16.0, "pointing_loss": 0.25},
    ]
