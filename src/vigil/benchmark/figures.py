"""Figures 6 and 7 of the paper, drawn from the test scores that finished cells left, and curves beyond it, drawn from
their records."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import csv
from sklearn.metrics import roc_curve

from vigil.benchmark.cells import Cell, Task
from vigil.benchmark.measures import FALSE_POSITIVE_RATES
from vigil.benchmark.systems import PAIR
from vigil.benchmark.tables import Results
from vigil.calibration.calibration import read_calibration
from vigil.delivery.plots import roc_plot, score_distribution_plot, training_plot
from vigil.files import write_text
from vigil.stages import layout

Scores = NDArray[np.float64]
_LEGEND_CHARACTERS = 40
"""A line of the legend; more are cut off in browsers whose letters are wider than matplotlib's."""


def write_figures(results: Results, cells: Path, folder: Path) -> list[Path]:
    """Draws what there is of figure 6 (one per data set) and figure 7 (the sets of SIXray; the simulator apart).

    Args:
        results: Of the experiment `figures`.
        cells: Folder of the cells.
        folder: Where the plots go.

    Returns:
        The files that were written.
    """
    written: list[Path] = []
    curves: dict[str, dict[str, tuple[Scores, Scores]]] = {}
    for section in results.experiment.sections:
        (task,) = section.tasks
        cell = Cell(task, 0, PAIR, results.budget)
        if results.of(task, 0, PAIR) is None or not (cells / cell.name / layout.TEST_IMAGES).is_file():
            continue  # a record may have come without its cell
        images = csv.read_csv(cells / cell.name / layout.TEST_IMAGES)
        labels, scores = (images.column(name).to_numpy() for name in ("label", "score"))
        threshold = read_calibration(cells / cell.name / layout.CALIBRATION).threshold
        path = folder / f"figure6-{task.name}-{results.budget}.svg"
        write_text(path, score_distribution_plot(scores, labels, threshold))
        written.append(path)
        fpr, recall, _ = roc_curve(labels, scores)
        curves.setdefault(task.data, {})[section.heading] = (fpr, recall)
    for data, of_data in curves.items():
        path = folder / f"figure7-{data}-{results.budget}.svg"
        write_text(path, roc_plot(of_data))
        written.append(path)
    return written


def write_curves(results: Results, folder: Path) -> list[Path]:
    """Draws, of each task, the ROC curve of every row and the losses of the first row, which is the preset itself.

    A row's curve is its mean recall, over the seeds, at each false-positive rate.

    Args:
        results: Of an experiment that turns the switches of a preset.
        folder: Where the plots go.

    Returns:
        The files that were written.
    """
    written: list[Path] = []
    whole, *_ = results.experiment.systems
    for task in (task for section in results.experiment.sections for task in section.tasks):
        curves = {}
        for system in results.experiment.systems:
            recalls = list(_by_seed(results, task, system.name, "roc").values())
            if recalls:
                name = fill(f"{system.label} ({len(recalls)})", _LEGEND_CHARACTERS)
                curves[name] = (FALSE_POSITIVE_RATES, np.mean(recalls, axis=0))
        if curves:
            written.append(folder / f"beyond-roc-{task.name}-{results.budget}.svg")
            write_text(written[-1], roc_plot(curves, legend="beside"))
        losses = _by_seed(results, task, whole.name, "losses")
        if losses:
            written.append(folder / f"beyond-losses-{task.name}-{results.budget}.svg")
            write_text(written[-1], training_plot(losses))
    return written


def _by_seed(results: Results, task: Task, system: str, name: str) -> dict[str, list[Any]]:
    """What the records of a row have under a name; records of an earlier version of the code may lack it."""
    found = {f"seed {seed}": results.of(task, seed, system) for seed in range(results.seeds)}
    return {
        seed: record.measured[name]
        for seed, record in found.items()
        if record is not None and record.measured.get(name) is not None
    }
