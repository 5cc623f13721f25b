"""What a validation says: the list of failures, one HTML page that opens styled without the network, the message.

A contract that is kept leaves its report in the folder that it was given. One that is broken leaves the report of the
last good run there untouched, and writes its own beside it, into `<folder>-failed`; the next good run removes that.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from vigil.files import aside, write_json, written_aside
from vigil.images.validation_rules import Failure, Outcome

FAILURES, QUARANTINED, RESULT, PAGE = "failures.csv", "quarantined.csv", "validation.json", "index.html"
SHOWN = 20

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --soft: #5b6b7a; --line: #d7dee5; --paper: #fff; --good: #1a7f4b;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa8b5; --line: #33404c; --paper: #12181e;
  --good: #4cc38a; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .35rem .6rem;
  border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; } .number { text-align: right; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .good, .bad { font-weight: 600; overflow-wrap: normal; }
code { font-size: .9em; color: var(--soft); }
"""


def failed_folder(folder: Path) -> Path:
    """Where the report of a broken contract goes."""
    return Path(folder).with_name(f"{Path(folder).name}-failed")


class FailureLog:
    """All failures, in a file; the first ones also in memory, for page and message."""

    def __init__(self, path: Path) -> None:
        self.count = self.items = 0
        self.first: list[Failure] = []
        self.first_of_rule: dict[str, Failure] = {}
        self.reasons: dict[str, list[str]] = {}
        """Of the first items, by item."""
        self.path = path
        self._last_item: str | None = None
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(["expectation", "item", "file", "reason"])

    def add(self, failures: Iterable[Failure]) -> None:
        """Writes failures down; those of one item come one after the other."""
        for failure in failures:
            self._writer.writerow([failure.expectation, failure.item, failure.file, failure.reason])
            self.count += 1
            if len(self.first) < SHOWN:
                self.first.append(failure)
            self.first_of_rule.setdefault(failure.expectation, failure)
            if failure.item and failure.item != self._last_item:
                self.items += 1
                self._last_item = failure.item
            if failure.item and (failure.item in self.reasons or len(self.reasons) < SHOWN):
                reason = failure.reason.removeprefix(f"{failure.item}: ")
                self.reasons.setdefault(failure.item, []).append(reason)

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


@contextmanager
def failure_log(folder: Path) -> Iterator[FailureLog]:
    """Yields a log whose file lies hidden beside the report's folder, and is gone afterwards."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = FailureLog(aside(folder.with_name(f"{folder.name}-{FAILURES}")))
    try:
        yield log
    finally:
        log.close()
        log.path.unlink(missing_ok=True)


def write_report(
    folder: Path,
    title: str,
    overview: Mapping[str, int],
    outcomes: Sequence[Outcome],
    log: FailureLog,
    csv_name: str,
    extra: Mapping[str, Any],
) -> None:
    """Replaces the report folder; its files depend on the data and the rules alone.

    Args:
        folder: The report's, or `failed_folder` of it.
        title: What was validated.
        overview: Counts to show.
        outcomes: Of every rule.
        log: What failed.
        csv_name: Name of the list of failures.
        extra: Further JSON files by name.
    """
    log.close()
    result = {
        "title": title,
        "overview": dict(overview),
        "expectations": [
            {
                "name": outcome.rule.name,
                "type": outcome.rule.expectation,
                "arguments": outcome.rule.arguments,
                "passed": outcome.passed,
                "checked": outcome.checked,
                "failed": outcome.failed,
            }
            for outcome in outcomes
        ],
        "passed": sum(outcome.passed for outcome in outcomes),
        "failed": sum(not outcome.passed for outcome in outcomes),
        "items": [{"item": item, "reasons": reasons} for item, reasons in log.reasons.items()],
        "items_in_all": log.items,
        "listed_in": csv_name,
    }
    shown = [(f.expectation, f.item, f.reason) for f in log.first]
    with written_aside(Path(folder)) as new:
        new.mkdir()
        write_json(new / RESULT, result)
        (new / PAGE).write_text(render_page(result, shown, log.count, csv_name), encoding="utf-8")
        if log.count:
            shutil.copyfile(log.path, new / csv_name)
        for name, value in extra.items():
            write_json(new / name, value)


def message(what: str, outcomes: Sequence[Outcome], log: FailureLog, folder: Path) -> str:
    """Every broken expectation, and the first items with all their reasons."""
    broken = [outcome for outcome in outcomes if not outcome.passed]
    lines = [f"{what} break {len(broken)} of {len(outcomes)} expectations:"]
    for outcome in broken:
        first = log.first_of_rule[outcome.rule.name]
        count = f"{outcome.failed} of {outcome.checked}, first {first.item}"
        lines.append(f"  FAILED {outcome.rule.name} ({count if outcome.rule.of_rows else first.reason})")
    lines += [f"  {item}: {'; '.join(reasons)}" for item, reasons in log.reasons.items()]
    if log.items > len(log.reasons):
        lines.append(f"  ... and {log.items - len(log.reasons)} more")
    lines.append(f"All of them: {Path(folder) / FAILURES}; the whole result: {Path(folder) / PAGE}")
    return "\n".join(lines)


def render_page(
    result: dict[str, Any], failures: Sequence[tuple[str, str, str]], failure_count: int, csv_name: str
) -> str:
    """A self-contained page; equal arguments give equal text.

    Args:
        result: As in `validation.json`.
        failures: Expectation, item and reason of the failures to show.
        failure_count: How many there are in all.
        csv_name: File beside the page that lists them all.
    """
    good = not result["failed"]
    verdict = "passed" if good else "failed"
    title = f"{result['title']}: contract {'kept' if good else 'broken'}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="{"good" if good else "bad"}">{result["passed"]} expectations passed, {result["failed"]} failed</p>',
        "<h2>What was checked</h2>",
        _table(("", "number"), [(escape(str(k)), str(v)) for k, v in result["overview"].items()]),
        "<h2>Expectations</h2>",
        _table(
            ("", "expectation", "checked", "failed"),
            [
                (
                    '<span class="good">passed</span>' if e["passed"] else '<span class="bad">failed</span>',
                    f"{escape(e['name'])}<br><code>{escape(e['type'])} {escape(_arguments(e['arguments']))}</code>",
                    str(e["checked"]),
                    str(e["failed"]),
                )
                for e in result["expectations"]
            ],
        ),
    ]
    if failures:
        more = f" The first {len(failures)} of {failure_count}; all in" if failure_count > len(failures) else " Also in"
        parts += [
            "<h2>What failed, and why</h2>",
            f'<p>{more} <a href="{escape(csv_name)}">{escape(csv_name)}</a>.</p>',
            _table(("expectation", "item", "reason"), [tuple(escape(cell) for cell in row) for row in failures]),
        ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style></head>\n'
        f'<body data-verdict="{verdict}">\n' + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _arguments(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items())


def _table(header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    numeric = {"number", "checked", "failed"}
    style = ['<td class="number">' if name in numeric else "<td>" for name in header]
    head = "".join(
        cell.replace("td", "th", 1) + escape(name) + "</th>" for cell, name in zip(style, header, strict=True)
    )
    body = "\n".join(
        "<tr>" + "".join(f"{cell}{value}</td>" for cell, value in zip(style, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"
