"""The page that sets measured and published numbers side by side, and says what the leak of the family is worth."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from vigil.benchmark import published
from vigil.benchmark.cells import Record, Task
from vigil.benchmark.experiments import Section
from vigil.benchmark.systems import PAIR, system_named
from vigil.benchmark.tables import Results, text_of

_INTRODUCTION = """\
# What holds

This page is written by `vigil benchmark` from the cells that have been run. It says what of the published numbers
could be measured again under a protocol that cannot leak, and what the leak in the public code of the family is
worth. It is no judgement of anybody's intentions: the choices below were common, and most of them are easy to miss.

Published and measured numbers stand in columns of their own. They are not of one kind: the published ones come from
larger networks, trained longer, and their protocol is known only as far as the papers and the public code tell.
"""

_LEAK = """\
## What the leak is worth

The public code of this family scores with batch normalisation in training mode, over a test set that is sorted by
label, and reports the best epoch on the test set. A batch then takes its statistics from images of almost one
label, so that the score of an image depends on its neighbours. `released` does the same here with the networks of
each system; `strict` takes the last step's weights of the very same training, in evaluation mode. The difference is
what the protocol adds or takes. A `released` number is no result.
"""

_RANKING = """\
## What beats a system that learned nothing

The best system row and the paper's pair beside the rows that learned nothing, strict protocol. Where no system
stands clearly above them, none has learned to detect at this budget.
"""

_SOURCES = f"""\
## Where the published numbers come from

- The paper ({published.PAPER}) takes the rows of the other systems in its table 1 from Skip-GANomaly (arXiv
  1901.08954), and those of its table 2 from DAGAN and Patch-SVDD: the original papers' numbers and the paper's are the
  same numbers. Its own row in table 2 is measured on patches that were cut out with the masks of the defects.
- {published.REMEASURED}
- Recall in the paper's table 3 stands beside an AUC of .98 to .999, without a threshold. Here the threshold comes from
  calibration data and asks for 5 % false positives, and the rate that it costs stands beside.
"""

_LIMITS = """\
## What this page cannot show

The budgets are those in the tables, far below the papers'. That a system is weak here does not prove that it is
weak when it is trained for days; a leak, on the other hand, is a leak at any budget. Numbers of one or two seeds on
a few hundred test images have errors of about .02 to .04 (the intervals stand in the CSV files beside the tables).
"""


def what_holds(tables: Sequence[Results]) -> str:
    """The page, from the records of tables 1 to 3 as far as they have been run."""
    lines = [_INTRODUCTION, _LEAK]
    gaps: list[float] = []
    for results in tables:
        lines += _leak_table(results, gaps)
    if gaps:
        lines.append(
            f"Over these {len(gaps)} rows the protocol moves the AUROC by {min(gaps):+.3f} to {max(gaps):+.3f}, by "
            f"{statistics.fmean(abs(gap) for gap in gaps):.3f} on average without regard to the sign.\n"
        )
    else:
        lines.append("No cell of a system with batch normalisation has been run yet.\n")
    lines.append(_RANKING)
    for results in tables:
        lines += _ranking_table(results)
    return "\n".join([*lines, _SOURCES, _LIMITS])


def _leak_table(results: Results, gaps: list[float]) -> list[str]:
    rows = []
    for section, task in _tasks(results):
        for system in results.experiment.systems:
            found = _leak(results, task, system.name) if system.released else None
            if found is None:
                continue
            strict_values, released_values = found
            gap = statistics.fmean(released_values) - statistics.fmean(strict_values)
            gaps.append(gap)
            value = published.auc(task.data, task.part, system.name)
            strict, released = (text_of(values, results.seeds, 3) for values in found)
            shown = "" if value is None or task.reading == "one_class_normal" else f"{value:.3f}"
            rows.append(f"| {_name(section, task)} | {system.label} | {strict} | {released} | {gap:+.3f} | {shown} |")
    if not rows:
        return []
    header = ["| task | system | strict | `released` | difference | published |", "|---|---|---|---|---|---|"]
    return [f"### {results.experiment.title}, budget `{results.budget}`", "", *header, *rows, ""]


def _leak(results: Results, task: Task, system: str) -> tuple[list[float], list[float]] | None:
    """AUROC under `strict` and under `released`, of the seeds that have both."""
    records = _records(results, task, system)
    both = [r.measured for r in records if r.measured["released"] is not None and r.measured["auroc"] is not None]
    if not both:
        return None
    return [m["auroc"]["value"] for m in both], [m["released"]["auroc"] for m in both]


def _ranking_table(results: Results) -> list[str]:
    rows = []
    for section, task in _tasks(results):
        of_system = {
            system.name: [
                r.measured["auroc"]["value"] for r in _records(results, task, system.name) if r.measured["auroc"]
            ]
            for system in results.experiment.systems
        }
        measured = {name: values for name, values in of_system.items() if values}
        nothing = [r for seed in range(results.seeds) if (r := results.any_of(task, seed)) is not None]
        if not measured or not nothing:
            continue
        best = max(measured, key=lambda name: statistics.fmean(measured[name]))
        pair = measured.get(PAIR, [])
        trivial = [max(v for v in record.measured["trivial"].values() if v is not None) for record in nothing]
        untrained = [record.measured["untrained"] for record in nothing]
        value = published.auc(task.data, task.part, PAIR)
        cells = [
            f"{system_named(best).label}: {text_of(measured[best], results.seeds, 3)}",
            text_of(pair, results.seeds, 3),
            text_of(trivial, results.seeds, 3),
            text_of(untrained, results.seeds, 3),
            "" if value is None or task.reading == "one_class_normal" else f"{value:.3f}",
        ]
        rows.append(f"| {_name(section, task)} | {' | '.join(cells)} |")
    if not rows:
        return []
    header = [
        "| task | best of the systems (chosen on test) | the paper's pair | best trivial feature | untrained "
        "features | the paper's pair, published |",
        "|---|---|---|---|---|---|",
    ]
    return [f"### {results.experiment.title}, budget `{results.budget}`", "", *header, *rows, ""]


def _tasks(results: Results) -> Iterator[tuple[Section, Task]]:
    for section in results.experiment.sections:
        for task in section.tasks:
            yield section, task


def _records(results: Results, task: Task, system: str) -> list[Record]:
    found = (results.of(task, seed, system) for seed in range(results.seeds))
    return [record for record in found if record is not None]


def _name(section: Section, task: Task) -> str:
    reading = {"one_class_anomalous": " anomalous", "one_class_normal": " normal", "as_published": ""}[task.reading]
    return f"{section.heading}{reading}"
