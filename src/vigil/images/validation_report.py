"""The validation result as one HTML page that opens styled without the network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

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
