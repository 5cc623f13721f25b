"""Damaged files of every kind end with a clear error or are read as what they are; nothing hangs or is left half-made.

`VIGIL_FUZZ_CASES=5000 pytest tests/fuzz` (or `make fuzz`) runs more of them; `VIGIL_FUZZ_SEED` starts elsewhere. A case
is named by its kind and number, and `VIGIL_FUZZ_ONLY="tar, imported:17"` runs that one alone.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from tests.fuzz.cases import KINDS, clean
from vigil.errors import VigilError
from vigil.seeding import numpy_generator

CASES = int(os.environ.get("VIGIL_FUZZ_CASES", "300"))
SEED = int(os.environ.get("VIGIL_FUZZ_SEED", "0"))
ONLY = os.environ.get("VIGIL_FUZZ_ONLY", "")
LIMIT_S = 60
_SHOWN = 5
_MESSAGE_LIMIT = 200_000  # the longest damaged word is 60,000 characters; more is a value that grew on the way
OUTCOMES: dict[str, Counter[str]] = {}
"""Kind -> how its cases ended; the terminal summary shows it."""


class _HungError(BaseException):
    """A case took longer than `LIMIT_S`; no code under test may catch it."""


@contextmanager
def deadline() -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _HungError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_case(kind: str, number: int, folder: Path) -> tuple[str, str | None]:
    """How the case ended: the name of the refusal or "read"; and what is wrong with that, if anything is."""
    folder.mkdir()
    finding: str | None = None
    try:
        with deadline():
            KINDS[kind][0](numpy_generator(SEED, f"fuzz {kind}", number), folder)
        outcome = "read"
    except VigilError as refusal:
        outcome = type(refusal).__name__
        if len(str(refusal)) < 10 or len(str(refusal)) > _MESSAGE_LIMIT:
            finding = f"a message of {len(str(refusal))} characters: {str(refusal)[:200]!r}"
    except _HungError:
        outcome, finding = "hung", f"took longer than {LIMIT_S} s"
    except Exception as error:
        outcome, finding = "broke", f"{type(error).__name__}: {str(error)[:300]}"
        if ONLY:
            raise
    left = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".aside-" in path.name]
    if left and finding is None:
        finding = f"left half-written: {left[:3]}"
    clean(folder)
    return outcome, finding


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    numbers = range(max(1, round(CASES * KINDS[kind][1])))
    if ONLY:
        only, _, number = ONLY.rpartition(":")
        if only != kind:
            pytest.skip(f"VIGIL_FUZZ_ONLY={ONLY}")
        numbers = range(int(number), int(number) + 1)
    counts = OUTCOMES.setdefault(kind, Counter())
    findings = []
    for number in numbers:
        outcome, finding = run_case(kind, number, tmp_path / str(number))
        counts[outcome] += 1
        if finding:
            findings.append(f"{kind}:{number} {finding}")
    shown = "\n  ".join(findings[:_SHOWN])
    assert not findings, f"{len(findings)} of {len(numbers)} cases (seed {SEED}):\n  {shown}"
    assert sum(counts.values()) == len(numbers)


def test_the_shares_add_up() -> None:
    assert sum(share for _, share in KINDS.values()) == pytest.approx(1)
