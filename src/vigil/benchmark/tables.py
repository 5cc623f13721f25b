"""Tables from the records of cells: what was measured over the seeds, what others published, and what is missing.

A number that was not measured is never left out silently: it is "-" with a footnote that says why.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vigil.benchmark.cells import BudgetName, Cell, Record, Task
from vigil.benchmark.experiments import (
    BASELINES,
    Average,
    Baseline,
    Experiment,
    Measured,
    Published,
    Section,
)
from vigil.benchmark.systems import PAIR, System

NOT_RUN = "not run"
OUTDATED = "made with other settings than today's"


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a table is rendered from."""

    experiment: Experiment
    seeds: int
    budget: BudgetName
    records: Mapping[Cell, Record]
    absent: Mapping[Task, str]
    """Tasks that cannot be run with the data that are there, and why."""
    command: str
    """The command line that made, or would make, these cells."""
    outdated: frozenset[Cell] = frozenset()
    """Cells whose records are of other settings than today's, and are not among `records`: no mean mixes the two."""

    def of(self, task: Task, seed: int, system: str) -> Record | None:
        """The record of a finished cell; None where there is none."""
        record = self.records.get(Cell(task, seed, system, self.budget))
        return record if record is not None and record.status == "finished" else None

    def any_of(self, task: Task, seed: int) -> Record | None:
        """A finished cell from which the baseline rows of a task are read: the pair's, else that of any system.

        Trivial features are the same in all of them; the untrained discriminator is always the paper's.
        """
        names = [PAIR, *(system.name for system in self.experiment.systems)]
        return next((record for name in names if (record := self.of(task, seed, name)) is not None), None)

    def why_missing(self, task: Task, seed: int, system: str) -> str:
        """Why there is no finished cell."""
        cell = Cell(task, seed, system, self.budget)
        if task in self.absent:
            return self.absent[task]
        if cell in self.records:
            return f"failed: {self.records[cell].error}"
        return OUTDATED if cell in self.outdated else NOT_RUN


@dataclass(frozen=True, slots=True)
class Entry:
    """One number of a table, over the seeds."""

    section: str
    task: Task
    row: str
    """Name of the system, or of a baseline row."""
    column: Measured
    values: tuple[float, ...]
    """By seed, of those that have one."""
    planned: int
    """Seeds that were asked for."""
    missing: tuple[str, ...]
    """Why the others have none, each reason once."""
    record: Record | None
    """Of the first seed that has one: for the budget and the number of images, which all seeds share."""

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        """As a table shows it, less the footnote."""
        return text_of(self.values, self.planned, self.column.digits)


def text_of(values: Sequence[float], planned: int, digits: int) -> str:
    """`0.551 ± 0.012 (2)`: mean, sample standard deviation and number of seeds; `-` where there is none."""
    if not values:
        return "-"
    count = str(len(values)) if len(values) == planned else f"{len(values)} of {planned}"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread} ({count})"


# -------------------------------------------------------------------------------------------------------------- entries


def entries(results: Results) -> Iterator[Entry]:
    """Every number of the experiment's tables but the averages, system rows first, then the baseline rows."""
    for section in results.experiment.sections:
        for column in section.columns:
            task = section.task(column.reading) if isinstance(column, Measured) else None
            if not isinstance(column, Measured) or task is None:
                continue
            for system in results.experiment.systems:
                if not column.not_for(system):
                    yield _of_system(results, section, task, column, system)
            for baseline in BASELINES:
                if (entry := _of_baseline(results, section, task, column, baseline)) is not None:
                    yield entry


def _of_system(results: Results, section: Section, task: Task, column: Measured, system: System) -> Entry:
    values, missing = [], []
    first = None
    for seed in range(results.seeds):
        record = results.of(task, seed, system.name)
        value = None if record is None else column.value(record)
        if value is not None:
            values.append(value)
        else:
            missing.append(results.why_missing(task, seed, system.name) if record is None else column.undefined)
        first = first or record
    return Entry(
        section.heading, task, system.name, column, tuple(values), results.seeds, tuple(dict.fromkeys(missing)), first
    )


def _of_baseline(results: Results, section: Section, task: Task, column: Measured, baseline: Baseline) -> Entry | None:
    """None where the column says nothing of this baseline row."""
    if column.of_baseline is None:
        return None
    found = [results.any_of(task, seed) for seed in range(results.seeds)]
    records = [record for record in found if record is not None]
    values = tuple(value for record in records if (value := column.of_baseline(record, baseline)) is not None)
    if records and not values:
        return None
    missing = (NOT_RUN,) if len(values) < results.seeds else ()
    if task in results.absent:
        missing = (results.absent[task],)
    return Entry(
        section.heading,
        task,
        baseline,
        column,
        values,
        results.seeds,
        missing,
        records[0] if records else None,
    )


# ------------------------------------------------------------------------------------------------------------- markdown


class _Footnotes:
    """Reasons, each with a number of its own."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, reasons: Sequence[str]) -> str:
        """` [1, 2]` for these reasons."""
        numbers = [self._numbers.setdefault(reason, len(self._numbers) + 1) for reason in reasons]
        return f" [{', '.join(map(str, numbers))}]" if numbers else ""

    def lines(self) -> list[str]:
        """What the numbers mean."""
        return [f"- [{number}] {_escaped(reason)}" for reason, number in self._numbers.items()]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown(results: Results) -> str:
    """The tables of the experiment as a Markdown page."""
    experiment = results.experiment
    found = {(entry.section, entry.column, entry.row): entry for entry in entries(results)}
    notes = _Footnotes()
    begun = [section for section in experiment.sections if _is_begun(results, section)]
    lines = [f"# {experiment.title}", "", *_preamble(results), ""]
    for paragraph in experiment.about:
        lines += [paragraph, ""]
    for section in begun:
        lines += [f"## {section.heading}", "", *_budget_lines(results, section), ""]
        lines += [*_table(results, section, found, notes), ""]
    for average in experiment.averages:
        over = [section for section in average.over if section in begun]
        if len(over) > 1:
            heading = f"{average.heading} ({', '.join(section.heading for section in over)})"
            lines += [f"## {heading}", "", *_average(results, average, over, found, notes), ""]
    left = [section for section in experiment.sections if section not in begun]
    if left:
        lines += ["## Not run", ""]
        by_reason: dict[str, list[str]] = {}
        for section in left:
            reasons = dict.fromkeys(results.absent.get(task, NOT_RUN) for task in section.tasks)
            by_reason.setdefault("; ".join(reasons), []).append(section.heading)
        lines += [f"- {', '.join(headings)}: {reason}" for reason, headings in by_reason.items()]
        lines.append("")
    if notes.lines():
        lines += ["## Why a number is missing", "", *notes.lines(), ""]
    lines += [*_audit_lines(results), "Command:", "", "```", results.command, "```", ""]
    return "\n".join(lines)


def _is_begun(results: Results, section: Section) -> bool:
    return any(cell.task in section.tasks for cell in [*results.records, *results.outdated])


def _preamble(results: Results) -> list[str]:
    records = [record for record in results.records.values() if record.status == "finished"]
    planned = len(results.experiment.cells(results.seeds, results.budget))
    hardware = sorted({record.spent["hardware"] for record in records})
    versions = {record.spent["code"] for record in records}
    lines = [
        f"Budget `{results.budget}`, the same for all systems of a table. {len(records)} of {planned} cells are "
        f"finished. A number is the mean over the seeds, ± their standard deviation (number of seeds). Protocol "
        f"`strict` where nothing else is said: evaluation mode, the last step's weights, threshold and scale from "
        f"calibration data, groups kept together, nothing chosen on test images.",
        "",
        "The rows in italics learned nothing: the best of a dozen trivial image features (which one, and its "
        "direction, chosen on the test images in its favour), Laplacian energy alone, and the Mahalanobis distance in "
        "the features of an untrained discriminator. What does not beat them has not learned to detect.",
    ]
    if hardware:
        lines += ["", f"Hardware: {'; '.join(hardware)}."]
    steps = sorted({record.spent["latent_search_steps"] for record in records} - {None})
    if steps:
        lines += ["", f"AnoGAN's latent search has {steps[0]} steps for each patch (published: 500)."]
    if len(versions) > 1:
        lines += ["", f"The cells were made by {len(versions)} versions of the code."]
    if results.outdated:
        lines += ["", f"{len(results.outdated)} cells were {OUTDATED}; their numbers are not shown."]
    return lines


def _budget_lines(results: Results, section: Section) -> list[str]:
    """What the cells of a section spent and saw, as they recorded it."""
    shown: dict[str, None] = {}
    for cell, record in sorted(results.records.items()):
        if cell.task in section.tasks and record.status == "finished":
            spent, images = record.spent, record.measured["images"]
            image = (
                "whole images" if spent["image_px"] is None else f"images with a shorter side of {spent['image_px']} px"
            )
            shown[
                f"{spent['images_seen']:,} patches seen ({spent['epochs']:.2f} epochs of {spent['train_patches']:,}, "
                f"batch {spent['batch_size']}), width class {spent['width']}, patches of {spent['patch_px']} px "
                f"of {image}, {spent['precision']}; test images: {images['normal']} normal, "
                f"{images['anomalous']} anomalous"
            ] = None
    return [f"{text}." for text in list(shown)[:4]]


def _table(
    results: Results, section: Section, found: Mapping[tuple[str, Measured, str], Entry], notes: _Footnotes
) -> list[str]:
    rows = []
    labels = {system.name: system.label for system in results.experiment.systems} | dict(BASELINES)
    for name, label in labels.items():
        cells = []
        for column in section.columns:
            if isinstance(column, Published):
                cells.append(_published(column, section, name))
            else:
                entry = found.get((section.heading, column, name))
                cells.append("" if entry is None else entry.text + notes.mark(entry.missing))
        rows.append([label, *cells])
    return _grid(["system", *(column.title for column in section.columns)], rows)


def _published(column: Published, section: Section, row: str) -> str:
    task = section.tasks[0]
    value = column.value(task.data, task.part, row)
    return "" if value is None else value if isinstance(value, str) else f"{value:.3f}"


def _average(
    results: Results,
    average: Average,
    over: Sequence[Section],
    found: Mapping[tuple[str, Measured, str], Entry],
    notes: _Footnotes,
) -> list[str]:
    """Means over sections, seed by seed; a row that lacks a section has none."""
    columns = over[0].columns
    labels = {system.name: system.label for system in results.experiment.systems} | dict(BASELINES)
    rows = []
    for name, label in labels.items():
        cells = []
        for column in columns:
            if isinstance(column, Published):
                value = column.value(average.data, "average", name)
                cells.append("" if value is None else value if isinstance(value, str) else f"{value:.3f} (all)")
                continue
            parts = [found.get((section.heading, column, name)) for section in over]
            there = [entry for entry in parts if entry is not None]
            if not there:
                cells.append("")
                continue
            whole = [entry for entry in there if len(entry.values) == results.seeds]
            if len(whole) < len(over):
                cells.append("-" + notes.mark([f"only {len(whole)} of {len(over)} have all seeds"]))
                continue
            means = [statistics.fmean(values) for values in zip(*(entry.values for entry in whole), strict=True)]
            cells.append(text_of(means, results.seeds, column.digits))
        rows.append([label, *cells])
    return _grid(["system", *(column.title for column in columns)], rows)


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table without the columns that are empty throughout."""
    kept = [place for place in range(len(header)) if place == 0 or any(row[place] for row in rows)]
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line[place] for place in kept) + " |" for line in lines]


def _audit_lines(results: Results) -> list[str]:
    """What the leakage audits of the cells found."""
    records = [record for record in results.records.values() if record.status == "finished"]
    leaks = sorted({leak for record in records for leak in record.measured["leaks"]})
    shortcuts: dict[str, float] = {}
    for record in records:
        for name, value in record.measured["shortcuts"].items():
            shortcuts[name] = max(value, shortcuts.get(name, 0.0))
    if not records:
        return []
    text = f"Leakage audit: {'no leak in any cell' if not leaks else 'LEAKS: ' + ', '.join(leaks)}"
    if shortcuts:
        named = ", ".join(f"{name} (AUROC up to {value:.3f})" for name, value in sorted(shortcuts.items()))
        text += f"; shortcuts in the data, by which a test split can be sorted without looking for anomalies: {named}"
    return [f"{text}.", ""]


# ------------------------------------------------------------------------------------------------------------------ CSV

HEADER = (
    *("experiment", "data", "part", "reading", "system", "measure", "protocol", "mean", "spread", "seeds"),
    *("seeds_planned", "values", "low", "high", "normal_images", "anomalous_images", "published", "budget"),
    *("images_seen", "epochs", "width", "patch_px", "image_px", "batch_size", "precision", "hardware", "missing"),
)


def csv_text(results: Results) -> str:
    """Every number as a row of its own, with its protocol, its budget and why it is missing.

    `low` and `high` are the 95 % bootstrap interval over test groups of the first seed, of image AUROCs under `strict`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n", restval="")
    writer.writeheader()
    published = {
        (section.heading, column.title): column
        for section in results.experiment.sections
        for column in section.columns
        if isinstance(column, Published)
    }
    for entry in entries(results):
        record, task = entry.record, entry.task
        row: dict[str, object] = {
            "experiment": results.experiment.name,
            **{"data": task.data, "part": task.part, "reading": task.reading},
            **{"system": entry.row, "measure": entry.column.measure, "protocol": entry.column.protocol},
            **{"mean": _number(entry.mean), "spread": _number(entry.spread), "seeds": len(entry.values)},
            "seeds_planned": entry.planned,
            "values": " ".join(f"{value:.6g}" for value in entry.values),
            "budget": results.budget,
            "missing": "; ".join(entry.missing),
        }
        if record is not None:
            images = record.measured["images"]
            row |= {"normal_images": images["normal"], "anomalous_images": images["anomalous"]}
            keys = ("images_seen", "epochs", "width", "patch_px", "image_px", "batch_size", "precision", "hardware")
            row |= {key: record.spent[key] for key in keys}
            strict_auroc = (entry.column.measure, entry.column.protocol) == ("image_auroc", "strict")
            if strict_auroc and entry.values and entry.row not in BASELINES:
                row |= {key: _number(record.measured["auroc"][key]) for key in ("low", "high")}
        for (heading, _title), column in published.items():
            if heading == entry.section and entry.column.measure in column.measures:
                value = column.value(task.data, task.part, entry.row)
                row["published"] = "" if value is None else value
        writer.writerow(row)
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
