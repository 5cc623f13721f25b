"""Variants measured in turns (A B C A B C ...), so that a machine whose speed drifts does not decide."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

ROUNDS = 5


class Seconds(NamedTuple):
    """Of one run."""

    wall: float
    cpu: float
    """Of all processors, in this process and in those that it started; others on the machine hardly change it."""


def in_rounds(
    variants: Mapping[str, Callable[[], object]], before: Callable[[], object] = lambda: None, rounds: int = ROUNDS
) -> dict[str, list[Seconds]]:
    """What every variant took in every round, after a warm-up; `before` runs before each and does not count."""
    taken: dict[str, list[Seconds]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            before()
            start, cpu = time.perf_counter(), _cpu_s()
            run()
            if number:
                taken[name].append(Seconds(time.perf_counter() - start, _cpu_s() - cpu))
    return taken


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round."""
    return [value / against for value, against in zip(values, base, strict=True)]


def spread(values: Sequence[float], base: Sequence[float]) -> str:
    """The median of the ratios, lowest and highest in brackets."""
    found = ratios(values, base)
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
