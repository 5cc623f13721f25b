"""What a leakage audit found, as it is kept and shown. Imports nothing heavy, so that a summary shows it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FORMAT_VERSION = 1

Status = Literal["passed", "leak", "shortcut", "finding", "not_checked"]
Report = Mapping[str, Any]
"""What `reports/audit.json` holds."""


OFFICIAL_NEAR_DUPLICATES = "official_near_duplicates"
"""The finding that the data set's own split has near-duplicates on both sides."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the test images that a finding is about."""

    value: float
    low: float
    high: float
    """The ends of its interval."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"share": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check of the audit found."""

    title: str
    status: Status
    text: str
    """What was tried and found; for a leak also what to do."""
    share: Share | None = None
    """Of a finding about test images; its name is the check's."""


@dataclass(frozen=True, slots=True)
class Separation:
    """How well one trivial feature, or all of them together, tells anomalous test images from normal ones."""

    auroc: float
    """In the direction that favours the feature."""
    low: float | None
    high: float | None
    direction: str
    """`higher` or `lower` is more anomalous; `fitted` for the classifier."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"auroc": self.auroc, "low": self.low, "high": self.high, "direction": self.direction}


@dataclass(frozen=True, slots=True)
class Audit:
    """The checks by name, in the order in which they were made, and how well trivial features separate the test."""

    checks: dict[str, Check]
    separations: dict[str, Separation]
    shortcuts: tuple[str, ...]
    """Trivial features that are findings."""

    @property
    def findings(self) -> dict[str, dict[str, Any]]:
        """What a promotion has to accept by name: shortcuts with their AUROC, other findings with their share."""
        shares = {name: check.share.as_json() for name, check in self.checks.items() if check.share is not None}
        return {**{name: self.separations[name].as_json() for name in self.shortcuts}, **shares}

    @property
    def leaks(self) -> tuple[str, ...]:
        """Names of the checks that found a leak."""
        return tuple(name for name, check in self.checks.items() if check.status == "leak")

    def as_json(self) -> dict[str, Any]:
        """What `reports/audit.json` holds; equal inputs give equal values."""
        return {
            "version": FORMAT_VERSION,
            "leaks": list(self.leaks),
            "findings": self.findings,
            "checks": {
                name: {"title": check.title, "status": check.status, "text": check.text}
                for name, check in self.checks.items()
            },
            "trivial_features": {name: found.as_json() for name, found in self.separations.items()},
        }

    def as_text(self) -> str:
        """The audit for a terminal."""
        marks = {"passed": "ok", "leak": "LEAK", "shortcut": "FINDING", "finding": "FINDING", "not_checked": "-"}
        lines = []
        for name, check in self.checks.items():
            lines.append(f"{marks[check.status]:<8} {name:<20} {check.title}")
            lines += [f"{'':<29} {line}" for line in check.text.split("\n")]
        return "\n".join([*lines, "", headline(self.as_json())])


def headline(report: Report) -> str:
    """One line that sums up `reports/audit.json`."""
    if report["leaks"]:
        return f"LEAK: {', '.join(report['leaks'])}. The numbers cannot be trusted, and promotion refuses."
    made = [check for check in report["checks"].values() if check["status"] != "not_checked"]
    passed = f"no leak in {len([c for c in made if c['status'] not in ('shortcut', 'finding')])} checks"
    shortcuts = {name: row["auroc"] for name, row in report["findings"].items() if name != OFFICIAL_NEAR_DUPLICATES}
    if crossing := report["findings"].get(OFFICIAL_NEAR_DUPLICATES):
        passed += f"; {crossing['share']:.1%} of the test images have a near-duplicate across the official split"
    if shortcuts:
        named = ", ".join(f"{name} (AUROC {auroc:.3f})" for name, auroc in shortcuts.items())
        return f"{passed}; SHORTCUT in the data: {named} separates the test split without looking for anomalies"
    return f"{passed}, no shortcut found"
