"""Figures 6 and 7 of the paper, drawn from the test scores that finished cells left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyarrow import csv
from sklearn.metrics import roc_curve

from vigil.benchmark.cells import Cell
from vigil.benchmark.systems import PAIR
from vigil.benchmark.tables import Results
from vigil.calibration.calibration import read_calibration
from vigil.delivery.plots import roc_plot, score_distribution_plot
from vigil.files import write_text
from vigil.stages import layout

Scores = NDArray[np.float64]


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
        if results.of(task, 0, PAIR) is None:
            continue
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
