"""`vigil benchmark`: makes what is missing of an experiment, cell by cell, and writes its tables."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vigil.benchmark.cells import BudgetName, Cell, Record, read_records, record_path
from vigil.benchmark.experiments import Experiment, ExperimentName, experiment
from vigil.benchmark.figures import write_curves, write_figures
from vigil.benchmark.locks import locked
from vigil.benchmark.raw_data import RawData
from vigil.benchmark.running import (
    Announced,
    Workplace,
    is_outdated,
    make_cell,
    needs_making,
    remove_trainings,
)
from vigil.benchmark.settings import BUDGETS, Budgets
from vigil.benchmark.tables import Results, csv_text, markdown
from vigil.benchmark.what_holds import what_holds
from vigil.config import Params, RegisterSection
from vigil.delivery.mlflow_benchmark import CellRun, ExperimentRun, experiment_run
from vigil.delivery.mlflow_tracking import absolute_uri
from vigil.files import write_text
from vigil.progress import Progress
from vigil.stages import layout

_log = logging.getLogger(__name__)

MLFLOW_EXPERIMENT = "vigil-benchmark"
_TABLES: tuple[ExperimentName, ...] = ("table1", "table2", "table3")


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    name: ExperimentName
    budget: BudgetName
    seeds: int
    data: Path
    work: Path
    out: Path
    presets: Path
    tracking_uri: str
    parts: Sequence[str] | None = None
    systems: Sequence[str] | None = None
    keep: bool = False
    budgets: Budgets = field(default_factory=lambda: BUDGETS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    written: tuple[Path, ...]
    failed: Mapping[Cell, str]
    """Cells of this run that could not be made, and why."""


def planned(options: Options) -> list[tuple[Cell, str]]:
    """The cells of the experiment in the order in which they are made, each with `finished`, `to do` or why not.

    Raises:
        ConfigError: The data folder is missing, or a class or a system is none of this experiment.
    """
    place, wanted = _workplace(options), _wanted(options)
    found = []
    for cell in wanted.cells(options.seeds, options.budget):
        absent = place.data.missing(cell.task)
        found.append((cell, absent or ("to do" if needs_making(place, cell) else "finished")))
    return found


def run_benchmark(options: Options) -> Outcome:
    """Makes the cells that are not finished, one after the other, and writes tables, plots and the MLflow experiment.

    A cell that fails is recorded with its error and ends nothing. Several processes may make cells of one experiment at
    the same time; each takes those that no other is making. The tables always show the whole experiment, with a reason
    for each number that is missing.

    Raises:
        ConfigError: As `planned`.
        RegistryError: The MLflow store does not answer.
    """
    place, wanted = _workplace(options), _wanted(options)
    cells = [cell for cell, _ in planned(options) if place.data.missing(cell.task) is None]
    todo = [cell for cell in cells if needs_making(place, cell)]
    _log.info("%s: %d cells, %d to do", options.name, len(cells), len(todo))
    section = RegisterSection.model_validate(place.register)
    with contextlib.ExitStack() as stack:
        with locked(place.out / "mlflow", wait=True):  # two processes would both lay out a new SQLite file
            tracked = stack.enter_context(experiment_run(section, f"{options.name}-{options.budget}"))
        try:
            made = _make(place, todo, tracked, len(cells))
        finally:
            written = write_results(options)
            tracked.log_files(written)
        for cell, record in read_records(place.out, cells).items():
            if record.status == "finished" and not tracked.has(cell.name):  # made for another experiment
                with tracked.cell(cell.name, record.cell) as run:
                    run.log(record.measured)
    failed = {cell: record.error or "" for cell, record in made.items() if record.status == "failed"}
    if not failed and not options.keep:
        remove_trainings(place)
    _log.info("%s: %d of %d cells finished", wanted.title, len(cells) - len(failed), len(cells))
    return Outcome(tuple(written), failed)


def _make(place: Workplace, todo: Sequence[Cell], tracked: ExperimentRun, total: int) -> dict[Cell, Record]:
    made: dict[Cell, Record] = {}
    progress = Progress("benchmark", total, "cells", total - len(todo), interval_s=0.0)
    left = list(todo)
    while left:
        elsewhere = []
        for cell in left:
            record = make_cell(place, cell, lambda cell, params: _announced(tracked, cell, params))
            if record is None:
                elsewhere.append(cell)
                continue
            made[cell] = record
            progress.advance(1, cell.name)
        if len(elsewhere) == len(left):
            time.sleep(2.0)  # another process is making all that is left
        left = elsewhere
    progress.close()
    return made


@contextlib.contextmanager
def _announced(tracked: ExperimentRun, cell: Cell, params: Params) -> Iterator[Announced]:
    with tracked.cell(cell.name, params.model_dump(mode="json", by_alias=True)) as run:
        yield _InMlflow(run)


class _InMlflow(Announced):
    """Tells the cell's MLflow run."""

    def __init__(self, run: CellRun) -> None:
        self._run = run

    def trained(self) -> None:
        self._run.adopt_training(layout.PAIR)

    def done(self, record: Record) -> None:
        self._run.log(record.measured, [layout.EVALUATION, layout.AUDIT, layout.PLOTS])


# -------------------------------------------------------------------------------------------------------------- results


def write_results(options: Options) -> list[Path]:
    """Writes the table (or figures) of the experiment as a whole, whatever part of it was asked for, and the page on
    what holds; all from the records that there are.

    Returns:
        The files that were written.
    """
    place = _workplace(options)
    results = _results(options, options.name, place)
    stem = f"{options.name}-{options.budget}"
    written = [options.out / f"{stem}.md", options.out / f"{stem}.csv"]
    text = markdown(results)
    plots: list[Path] = []
    if options.name == "figures":
        plots = write_figures(results, place.out / "cells", options.out)
    elif options.name.startswith("beyond-"):
        plots = write_curves(results, options.out)
    if plots:
        text += "".join(f"\n![{path.stem}]({path.name})\n" for path in plots)
        written += plots
    write_text(written[0], text)
    write_text(written[1], csv_text(results))
    if options.name in _TABLES:
        page = options.out / "what-holds.md"
        write_text(page, what_holds([_results(options, name, place) for name in _TABLES]))
        written.append(page)
    return written


def _results(options: Options, name: ExperimentName, place: Workplace) -> Results:
    whole = experiment(name, place.data)
    seeds = options.seeds if name == options.name else 1
    while any(
        record_path(place.out, cell).is_file() for cell in whole.cells(seeds + 1, options.budget) if cell.seed == seeds
    ):
        seeds += 1
    found = read_records(place.out, whole.cells(seeds, options.budget))
    finished = {cell: record for cell, record in found.items() if record.status == "finished"}
    outdated = frozenset(cell for cell, record in finished.items() if is_outdated(place, cell, record))
    records = {cell: record for cell, record in found.items() if cell not in outdated}
    tasks = [task for section in whole.sections for task in section.tasks]
    absent = {task: reason for task in tasks if (reason := place.data.missing(task)) is not None}
    command = f"vigil benchmark {name} --budget {options.budget} --seeds {seeds} --data PATH"
    recorded = {cell.task.part for cell in found}
    if recorded and recorded != {task.part for task in tasks if task not in absent}:
        command += f" --classes {' '.join(dict.fromkeys(task.part for task in tasks if task.part in recorded))}"
    return Results(whole, seeds, options.budget, records, absent, command, outdated)


def _wanted(options: Options) -> Experiment:
    data = RawData(options.data, options.work / "raw")
    return experiment(options.name, data, options.parts, options.systems)


def _workplace(options: Options) -> Workplace:
    register = {"tracking_uri": absolute_uri(options.tracking_uri), "experiment": MLFLOW_EXPERIMENT}
    work = options.work.resolve()
    return Workplace(
        work, RawData(options.data, work / "raw"), options.presets.resolve(), register, options.keep, options.budgets
    )
