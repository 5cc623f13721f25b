"""Shows how the cases of each kind ended."""

from __future__ import annotations

from typing import Any

from tests.fuzz.test_fuzz import OUTCOMES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not OUTCOMES:
        return
    terminalreporter.section("fuzz: how the cases ended")
    for kind, counts in OUTCOMES.items():
        ended = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        terminalreporter.write_line(f"{kind:<20} {sum(counts.values()):>5}  {ended}")
