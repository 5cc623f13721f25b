"""What a flow run shows of its results: rows and Markdown, read from the files that the stages wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.dvc_stages import StageRun
from vigil.files import read_json

EVALUATION = "reports/evaluation.json"
REGISTERED = "models/registered.json"
REPORT = "reports/index.html"
_MEASURES = (
    "auroc",
    "average_precision",
    "recall",
    "fpr",
    "f1",
    "pixel_auroc",
    "aupro",
    "box_hit_rate",
    "patch_auroc_inside",
)


def summary_markdown(project: Path, runs: list[StageRun]) -> str:
    """The results table, the registered version, and what DVC did for each stage, as Markdown."""
    reproduced = [run.stage for run in runs if not run.cached]
    parts = [f"# {'Reproduced ' + ', '.join(reproduced) if reproduced else 'Nothing had changed'}"]
    rows = artifact_rows(project)
    if rows:
        parts.append(_table(rows))
    else:
        parts.append(f"`{EVALUATION}` does not exist, so there are no results to show.")
    registered = _read(project / REGISTERED)
    if registered:
        parts.append(f"Registered: `{registered['name']}` version {registered['version']} ({registered['alias']})")
    if (project / REPORT).is_file():
        parts.append(f"Full report: `{project / REPORT}`")
    parts.append("## Stages\n\n" + _table(stage_rows(runs)))
    return "\n\n".join(parts) + "\n"


def artifact_rows(project: Path) -> list[dict[str, Any]]:
    """One row per measure and per baseline of the evaluation: name, value, interval. Empty where none was written."""
    evaluation = _read(project / EVALUATION)
    rows = [_row(name, evaluation[name]) for name in _MEASURES if evaluation.get(name) is not None]
    if "threshold" in evaluation:
        rows.append(_row("threshold", evaluation["threshold"]))
    for name, baseline in evaluation.get("trivial_baselines", {}).items():
        rows.append(_row(f"baseline {name}: auroc", _as_figure(baseline)))
    untrained = evaluation.get("untrained_baseline")
    if untrained:
        rows.append(_row("baseline untrained features: auroc", _as_figure(untrained)))
    return rows


def stage_rows(runs: list[StageRun]) -> list[dict[str, Any]]:
    """One row per stage: name, state, seconds."""
    return [
        {"stage": run.stage, "state": "Cached" if run.cached else "Reproduced", "seconds": round(run.seconds, 1)}
        for run in runs
    ]


def _row(name: str, found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        low, high = found.get("low"), found.get("high")
        interval = f"{low:.4g} to {high:.4g}" if low is not None and high is not None else ""
        found = found.get("value")
    else:
        interval = ""
    return {"measure": name, "value": "not measured" if found is None else f"{found:.4g}", "interval": interval}


def _as_figure(baseline: dict[str, Any]) -> dict[str, Any]:
    return {"value": baseline["auroc"], "low": baseline["low"], "high": baseline["high"]}


def _read(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _table(rows: list[dict[str, Any]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[key]) for key in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
