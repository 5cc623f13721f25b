"""Progress of long work: a bar with an ETA on a terminal, log lines with an ETA elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_log = logging.getLogger(__name__)


class Progress:
    """Counts finished units of work and says how many are done, how fast, and when the rest will be.

    Use `advance(n)` after each piece and `close()` at the end, or iterate through `track`. Where the total is not
    known (None), no ETA is shown.
    """

    def __init__(self, task: str, total: int | None, unit: str, done: int = 0, interval_s: float | None = None) -> None:
        self._task, self._total, self._unit = task, total, unit
        self._done = self._done_at_start = done
        self._terminal = sys.stderr.isatty()
        self._interval_s = interval_s if interval_s is not None else (0.2 if self._terminal else 10.0)
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more units as done; `note` is shown behind the figures."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= self._interval_s:
            self._last = now
            self._show(self.status(note))

    def status(self, note: str = "") -> str:
        """One line: task, done / total, units per second, ETA, note."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._done_at_start) / elapsed
        if self._total is None:
            line = f"{self._task}: {self._done} {self._unit}, {rate:.1f} {self._unit}/s"
            return f"{line}, {note}" if note else line
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        eta = f"{left:.0f} s" if left < 120 else (f"{left / 60:.1f} min" if left < float("inf") else "unknown")
        line = f"{self._task}: {self._done}/{self._total} {self._unit}, {rate:.1f} {self._unit}/s, ETA {eta}"
        return f"{line}, {note}" if note else line

    def close(self, note: str = "") -> None:
        """Says what was done and how long it took."""
        elapsed = time.monotonic() - self._start
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
        text = f"{self._task}: {self._done} {self._unit} in {elapsed:.1f} s"
        _log.info("%s%s", text, f", {note}" if note else "")

    def _show(self, line: str) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K" + line)
            sys.stderr.flush()
        else:
            _log.info("%s", line)


def track(items: Iterable[Item], task: str, total: int, unit: str) -> Iterator[Item]:
    """Yields `items` and shows progress while they are consumed."""
    progress = Progress(task, total, unit)
    for item in items:
        yield item
        progress.advance()
    progress.close()
