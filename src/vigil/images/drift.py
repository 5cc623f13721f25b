"""Drift: how far a data set is from the one that was accepted last, by counts of each kind and by brightness.

The yardstick is a file that git keeps (`data/reference.json`), written by `vigil data accept` alone: a run of the
pipeline never moves it, so a failed run cannot lose it, equal inputs give equal results, and data that change a little
with every run are held against what somebody looked at, not against the run before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel

from vigil.errors import DataError
from vigil.files import read_json, write_json
from vigil.records import ANOMALOUS, NORMAL

STATISTICS = "statistics.json"
LABEL_NAMES = {NORMAL: "normal", ANOMALOUS: "anomalous"}
_FORMAT = 1
_BINS = 256
_CHANCE = 0.01


@dataclass(slots=True)
class Statistics:
    """What is kept of a data set to compare another one with; 4 kB, whatever its size."""

    images_of_kind: Counter[str] = field(default_factory=Counter)
    brightness: dict[int, npt.NDArray[np.int64]] = field(
        default_factory=lambda: {label: np.zeros(_BINS, np.int64) for label in LABEL_NAMES}
    )
    """For each label how many images have a brightness of `bin` to `bin + 1`, int64 [256]."""

    def add(self, rows: pa.Table) -> None:
        """Counts rows of the manifest."""
        self.images_of_kind.update(rows["kind"].to_pylist())
        labels, brightness = rows["label"].to_numpy(), rows["brightness"].to_numpy()
        for label, counts in self.brightness.items():
            known = brightness[(labels == label) & ~np.isnan(brightness)]
            counts += np.bincount(known.astype(np.int64).clip(0, _BINS - 1), minlength=_BINS)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "images_of_kind": dict(sorted(self.images_of_kind.items())),
            "brightness": {name: self.brightness[label].tolist() for label, name in LABEL_NAMES.items()},
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Statistics:
        """The inverse of `as_json`; raises KeyError, TypeError or ValueError on anything else."""
        counts = {label: np.array(value["brightness"][name], np.int64) for label, name in LABEL_NAMES.items()}
        if any(c.shape != (_BINS,) or (c < 0).any() for c in counts.values()):
            raise ValueError(f"expected {_BINS} counts per label")
        return Statistics(Counter({str(k): int(n) for k, n in value["images_of_kind"].items()}), counts)


def distance(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """The Kolmogorov-Smirnov distance of two histograms [256]: the largest difference of their cumulated shares.

    0 where one of them is empty: nothing can be said then (a label that is lost shows in the counts).
    """
    if not first.sum() or not second.sum():
        return 0.0
    return float(np.abs(np.cumsum(first) / first.sum() - np.cumsum(second) / second.sum()).max())


def chance(first: int, second: int, probability: float = _CHANCE) -> float:
    """The distance that samples of these sizes out of one distribution exceed with about this probability.

    The asymptotic bound of the two-sample test, sqrt(-ln(p / 2) / 2 * (n + m) / (n m)).
    """
    if not first or not second:
        return 0.0
    return math.sqrt(-math.log(probability / 2) / 2 * (first + second) / (first * second))


@dataclass(frozen=True, slots=True)
class Reference:
    """The data settings that a set is told apart by, and the statistics that were accepted for them."""

    data: dict[str, Any]
    accepted: Statistics | None
    """None: no set of these settings was accepted yet."""


def read_reference(path: Path, data: BaseModel) -> Reference:
    """What was accepted last for the data set of the section `data`; a set with other settings is another set.

    Raises:
        DataError: The file is damaged or of another format.
    """
    settings = data.model_dump(mode="json", exclude={"near_repeats"})  # grouping makes no other set of it
    for entry in _entries(path):
        if entry["data"] == settings:
            return Reference(settings, Statistics.from_json(entry["statistics"]))
    return Reference(settings, None)


def accept(statistics_files: Iterable[Path], reference: Path) -> tuple[dict[str, Any], Statistics, Statistics | None]:
    """Makes the data set that was validated last the one that later ones are compared with.

    Args:
        statistics_files: Where `validate` leaves the statistics, the latest first.
        reference: The file to change; the entries of other data sets in it are kept.

    Returns:
        The data settings, the statistics that are accepted now, and those that were before (None: none).

    Raises:
        DataError: No data set was validated, or the reference is damaged.
    """
    found = next((path for path in statistics_files if path.is_file()), None)
    if found is None:
        raise DataError("no data set was validated yet; run `dvc repro validate` first")
    latest, entries = read_json(found), _entries(reference)
    before = [entry for entry in entries if entry["data"] == latest["data"]]
    others = [entry for entry in entries if entry["data"] != latest["data"]]
    write_json(reference, {"format": _FORMAT, "accepted": [*others, latest]})
    now = Statistics.from_json(latest["statistics"])
    return latest["data"], now, Statistics.from_json(before[0]["statistics"]) if before else None


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    content = read_json(path)
    try:
        if content["format"] != _FORMAT:
            raise DataError(f"{path}: format {content['format']}, expected {_FORMAT}; restore the file from git")
        entries: list[dict[str, Any]] = content["accepted"]
        for entry in entries:
            Statistics.from_json(entry["statistics"])
            dict(entry["data"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a record of accepted data ({error}); restore the file from git") from error
    return entries
