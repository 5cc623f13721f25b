"""Runs DVC stages one at a time in child processes, and reads off what DVC did. Knows nothing of Prefect.

DVC is called through its command line (`dvc dag --dot`, `dvc repro --single-item`), which is documented and versioned;
its Python classes are not. A child process also gives each stage's output line by line, and memory back at its end.
"""

from __future__ import annotations

import contextlib
import graphlib
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vigil.errors import VigilError

_EDGE = re.compile(r'^\s*"?([^"]+?)"?(?:\s*->\s*"?([^"]+?)"?)?;\s*$')
_UNCHANGED = re.compile(r"^Stage '.*' didn't change, skipping$")
_RESTORED = re.compile(r"^Stage '.*' is cached - skipping run, checking out outputs$")
_ADVICE = re.compile(
    r"^(To track the changes|\tgit add |To enable auto staging|\tdvc config core\.autostage|Use `dvc push`)"
)
_EXIT_CODE = re.compile(r"exited with (-?\d+)$")
_LINES_SHOWN = 20
_GUARD = Path(__file__).with_name("_guard.py")


class StageFailed(VigilError):
    """A DVC stage ended with an error or ran past its time limit; the message ends with its last lines.

    `command_exit_code` is what the stage's own command ended with, None where DVC did not say.
    """

    def __init__(self, message: str, command_exit_code: int | None = None) -> None:
        super().__init__(message)
        self.command_exit_code = command_exit_code


@dataclass(frozen=True, slots=True)
class StageRun:
    """What DVC did for one stage."""

    stage: str
    cached: bool
    """True: its command did not run, because nothing changed or because DVC had the outputs in its run cache."""
    restored: bool
    """True: the outputs were brought back from the run cache."""
    seconds: float


def stages_in_order(project: Path, *, timeout_s: float = 300.0) -> list[str]:
    """The stages of the project's dvc.yaml, each after all that it depends on.

    Raises:
        StageFailed: dvc.yaml is missing, holds no stage, or DVC refuses it; the message ends with DVC's own lines.
    """
    lines: list[str] = []
    exit_code = _run_dvc(project, ["dag", "--dot"], timeout_s, lines.append)
    if exit_code:
        raise StageFailed(f"`dvc dag` failed in {project} (exit code {exit_code}):\n" + _last(lines))
    graph: dict[str, set[str]] = {}
    for match in filter(None, map(_EDGE.match, lines)):
        before, after = match.groups()
        graph.setdefault(before, set())
        if after:
            graph.setdefault(after, set()).add(before)
    # Files tracked with `dvc add` stand in the graph under the name of their .dvc file, and have nothing to run.
    stages = [name for name in graphlib.TopologicalSorter(graph).static_order() if not name.endswith(".dvc")]
    if not stages:
        raise StageFailed(
            f"{project}: dvc.yaml holds no stage, so there is nothing to run. Run from the project folder."
        )
    return stages


def reproduce_stage(
    project: Path, stage: str, *, force: bool, timeout_s: float, say: Callable[[str], None]
) -> StageRun:
    """Brings one stage up to date, with each line that it prints given to `say` as soon as it is printed.

    Args:
        project: Folder with dvc.yaml.
        stage: Name of the stage; those before it must be up to date.
        force: Run the stage's command even where nothing changed.
        timeout_s: The stage and all its processes are ended after this many seconds.
        say: Gets each line without its line end; blank lines and DVC's advice on git are left out.

    Raises:
        StageFailed: The stage ended with an error or ran past its limit.
    """
    lines: deque[str] = deque(maxlen=200)

    def keep(line: str) -> None:
        if line.strip() and not _ADVICE.match(line):
            lines.append(line)
            say(line)

    start = time.monotonic()
    # Another DVC command may hold the lock for as long as it saves its files; without the flag DVC gives up after 3 s.
    arguments = ["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage]
    try:
        exit_code = _run_dvc(project, arguments, timeout_s, keep)
    except TimeoutError as error:
        raise StageFailed(
            f"stage '{stage}' was stopped after its time limit of {timeout_s:.0f} s. Raise `stage_timeout_minutes`, "
            f"or find out what it waits for. Its last lines:\n{_last(lines)}"
        ) from error
    if exit_code:
        raise StageFailed(f"stage '{stage}' failed. Its last lines:\n{_last(lines)}", _command_exit_code(lines))
    restored = any(_RESTORED.match(line) for line in lines)
    unchanged = any(_UNCHANGED.match(line) for line in lines)
    return StageRun(stage, cached=restored or unchanged, restored=restored, seconds=time.monotonic() - start)


def _command_exit_code(lines: deque[str]) -> int | None:
    found = [match for match in map(_EXIT_CODE.search, lines) if match]
    return int(found[-1].group(1)) if found else None


def _last(lines: list[str] | deque[str]) -> str:
    return "\n".join(list(lines)[-_LINES_SHOWN:])


def _run_dvc(project: Path, arguments: list[str], timeout_s: float, say: Callable[[str], None]) -> int:
    """Runs DVC under `_guard.py`, so that it and its processes outlive neither this call nor this process.

    Raises:
        TimeoutError: It ran past its limit.
    """
    # Stage commands are found in the environment that runs this flow, whether or not it was activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}
    with (
        subprocess.Popen(
            [sys.executable, str(_GUARD), sys.executable, "-m", "dvc", *arguments],
            cwd=project,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
        _ended_with_this_call(process),
        _ended_after(process, timeout_s) as overran,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip())
        exit_code = process.wait()
    if overran.is_set():
        raise TimeoutError
    return exit_code


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[str], timeout_s: float) -> Iterator[threading.Event]:
    overran = threading.Event()

    def end() -> None:
        overran.set()
        _end(process)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield overran
    finally:
        timer.cancel()


@contextlib.contextmanager
def _ended_with_this_call(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends the processes where this call is left early: a cancelled flow run must not leave a training behind."""
    try:
        yield
    except BaseException:
        _end(process)
        raise


def _end(guard: subprocess.Popen[str]) -> None:
    # Stages write aside and rename, so they may be killed at any moment.
    assert guard.stdin is not None
    guard.stdin.close()
