"""Where intervals go, and when a discriminator counts as dead."""

import json
import math

import pytest

from vigil.training.intervals import stays_at_chance
from vigil.training.recorder import JsonlRecorder, StepRecord

STEP = StepRecord(8, 1.3, 9.5, 0.7, 0.21, 0.01, 0.5, 2.5, 31.0, 512.0, 60.0)


def test_jsonl_holds_one_object_per_interval_with_units_in_the_names(tmp_path):
    recorder = JsonlRecorder(tmp_path / "reports" / "a.jsonl")
    recorder.record(STEP)
    recorder.record(STEP)
    lines = (tmp_path / "reports" / "a.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["images_per_s"] == 31.0
    assert json.loads(lines[1])["images_seen"] == 8


def test_a_new_recorder_starts_an_empty_file(tmp_path):
    JsonlRecorder(tmp_path / "a.jsonl").record(STEP)
    recorder = JsonlRecorder(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == ""
    recorder.record(STEP)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_timings_can_be_left_out_so_that_equal_runs_give_equal_files(tmp_path):
    JsonlRecorder(tmp_path / "a.jsonl", timings=False).record(STEP)
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert set(row).isdisjoint({"images_per_s", "memory_mib", "eta_s"})
    assert row["contextual_loss"] == 0.21


@pytest.mark.parametrize(
    ("losses", "dead"),
    [
        ([1.386] * 3, True),
        ([0.9, 1.39, 1.383, 1.386], True),
        ([1.386] * 2, False),
        ([1.386, 1.386, 1.392], False),
        ([1.386, 1.2, 1.386], False),
        ([2 * math.log(2) + 0.0049] * 3, True),
    ],
)
def test_three_intervals_at_chance_make_a_dead_discriminator(losses, dead):
    assert stays_at_chance(losses) is dead
