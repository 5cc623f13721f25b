"""What a flow run shows of its results."""

from __future__ import annotations

from pathlib import Path

from flows.dvc_stages import StageRun
from flows.results import artifact_rows, stage_rows, summary_markdown
from vigil.files import write_json, write_text

RUNS = [
    StageRun("train", cached=False, restored=False, seconds=12.345),
    StageRun("report", cached=True, restored=True, seconds=0.5),
]


def project(folder: Path) -> Path:
    baseline = {"auroc": 0.6, "low": 0.55, "high": 0.65, "direction": "higher"}
    evaluation = {
        "auroc": {"value": 0.75, "low": 0.7, "high": 0.8},
        "recall": {"value": 0.5, "low": 0.25, "high": 0.75, "count": 2, "of": 4},
        "aupro": None,
        "pixel_auroc": 0.9,
        "threshold": 0.125,
        "trivial_baselines": {"contrast": baseline, "brightness": dict.fromkeys(("auroc", "low", "high"))},
        "untrained_baseline": baseline,
    }
    write_json(folder / "reports/evaluation.json", evaluation)
    write_json(folder / "models/registered.json", {"name": "vigil", "version": 7, "alias": "challenger"})
    write_text(folder / "reports/index.html", "<p>")
    return folder


def test_rows_hold_measures_threshold_and_baselines_with_intervals(tmp_path: Path) -> None:
    rows = {row["measure"]: (row["value"], row["interval"]) for row in artifact_rows(project(tmp_path))}
    assert rows == {
        "auroc": ("0.75", "0.7 to 0.8"),
        "recall": ("0.5", "0.25 to 0.75"),
        "pixel_auroc": ("0.9", ""),
        "threshold": ("0.125", ""),
        "baseline contrast: auroc": ("0.6", "0.55 to 0.65"),
        "baseline brightness: auroc": ("not measured", ""),
        "baseline untrained features: auroc": ("0.6", "0.55 to 0.65"),
    }


def test_markdown_says_what_was_reproduced_registered_and_reached(tmp_path: Path) -> None:
    text = summary_markdown(project(tmp_path), RUNS)
    assert text.startswith("# Reproduced train\n")
    assert "| auroc | 0.75 | 0.7 to 0.8 |" in text
    assert "Registered: `vigil` version 7 (challenger)" in text
    assert f"Full report: `{tmp_path}/reports/index.html`" in text
    assert "| report | Cached | 0.5 |" in text


def test_markdown_without_results_says_so(tmp_path: Path) -> None:
    text = summary_markdown(tmp_path, RUNS[1:])
    assert text.startswith("# Nothing had changed\n")
    assert "`reports/evaluation.json` does not exist" in text
    assert artifact_rows(tmp_path) == []
    assert stage_rows(RUNS) == [
        {"stage": "train", "state": "Reproduced", "seconds": 12.3},
        {"stage": "report", "state": "Cached", "seconds": 0.5},
    ]
