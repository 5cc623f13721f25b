"""What `vigil summary` shows after `dvc repro`: the numbers, the report, and what to do next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vigil.evaluation.audit_record import headline
from vigil.files import read_json
from vigil.stages import layout


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of the last run, as read from its artefacts."""

    data_set: str
    figures: dict[str, dict[str, Any] | None]
    """AUROC, recall, fpr: each with value, low and high; None where the test split cannot give it."""
    threshold: float
    promise: str
    baselines: dict[str, float]
    """AUROC of each baseline row."""
    audit: dict[str, Any]
    """Leaks, findings, and a headline of both."""
    margin: dict[str, Any] | None
    """The best baseline row and how far the pair's AUROC stands above it."""
    model_name: str
    version: int
    report: str
    parent: dict[str, Any] | None = None
    """Where training did not start from scratch: the parent's version, and both AUROC on the old and the new test."""

    def as_json(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return asdict(self)

    def as_text(self) -> str:
        """The summary as a table for a terminal."""
        lines = [f"Results on {self.data_set} (test split; intervals in brackets)", ""]
        names = {"auroc": "AUROC", "recall": "Recall", "fpr": "False-positive rate"}
        for key, figure in self.figures.items():
            shown = _interval(figure) if figure else "not measurable: the test split holds one label only"
            lines.append(f"  {names[key]:<22} {shown}")
        lines.append(f"  {'Threshold':<22} {self.threshold:.6g}  {self.promise}")
        lines.append(f"  {'Model version':<22} {self.model_name} v{self.version} (challenger)")
        lines.append(f"  {'Leakage audit':<22} {self.audit['headline']}")
        if self.parent is not None:
            before = f"v{self.parent['version']}"
            lines += ["", f"Trained from {before}; AUROC beside it"]
            for key, name in (("old", f"Test images of {before}"), ("new", "Test images of now")):
                own, parents = (_interval(a) if a else "not measurable" for a in self.parent[key])
                lines.append(f"  {name:<22} {own}   {before}: {parents}")
        lines.append("")
        if self.margin is not None:
            best = self.margin["baseline"]
            lines.append(
                f"  Best baseline row: {best}, AUROC {self.baselines[best]:.3f} (margin {self.margin['value']:+.3f})"
            )
        lines += [
            "",
            f"Report: {self.report} (one file; opens without the network)",
            "Next:   vigil promote             make this version the champion",
            "        vigil screen PATH...      screen images with the champion",
            "        make up                   Prefect and MLflow in the browser",
        ]
        return "\n".join(lines)


def _interval(figure: dict[str, Any]) -> str:
    bounds = [figure["low"], figure["high"]]
    return f"{figure['value']:.3f}  [{', '.join('-' if b is None else f'{b:.3f}' for b in bounds)}]"


def read_summary() -> Summary:
    """Reads the artefacts of the last run.

    Raises:
        DataError: An artefact is missing; the message says to run `dvc repro`.
    """
    evaluation = read_json(layout.EVALUATION)
    calibration = read_json(layout.CALIBRATION)
    audit = read_json(layout.AUDIT)
    registered = read_json(layout.REGISTERED)
    baselines = {name: row["auroc"] for name, row in evaluation["trivial_baselines"].items()}
    baselines["untrained"] = evaluation["untrained_baseline"]["auroc"]
    return Summary(
        data_set=read_json(layout.BUNDLE / "bundle.json")["data_set"],
        figures={key: evaluation[key] for key in ("auroc", "recall", "fpr")},
        threshold=calibration["threshold"],
        promise=evaluation["promise"],
        baselines={name: value for name, value in baselines.items() if value is not None},
        audit={**{key: audit[key] for key in ("leaks", "findings")}, "headline": headline(audit)},
        margin=evaluation["margin_over_best_baseline"],
        model_name=registered["name"],
        version=registered["version"],
        report=str(layout.REPORT),
        parent=_parent(evaluation.get("parent")),
    )


def _parent(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    both = {key: [found[key]["auroc"], found[key]["parent_auroc"]] for key in ("old", "new")}
    return {"version": found["version"], **both}
