"""Stages run one by one with the real `dvc` on a tiny project: order, states, lines, failures, time limits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import dvc_stages
from flows.dvc_stages import StageFailed, reproduce_stage, stages_in_order

# Written in another order than they run in; `notes.txt` is tracked with `dvc add`.
STAGES = """\
stages:
  last:
    cmd: cat middle.txt > last.txt
    deps: [middle.txt]
    outs: [last.txt]
  middle:
    cmd: cat first.txt notes.txt > middle.txt
    deps: [first.txt, notes.txt]
    outs: [middle.txt]
  first:
    cmd: echo one > first.txt
    outs: [first.txt]
"""


def dvc(project: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    return tmp_path


def with_stage(project: Path, command: str) -> Path:
    (project / "in.txt").write_text("input")
    stage = f"    cmd: {command!r}\n    deps: [in.txt]\n    outs: [out.txt]\n"
    (project / "dvc.yaml").write_text(f"stages:\n  only:\n{stage}")
    return project


def ended(pid: str) -> bool:
    """True for a process that is gone, or dead and not yet fetched by its parent."""
    try:
        return Path(f"/proc/{pid.strip()}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(holds: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run(project: Path, stage: str, *, force: bool = False, timeout_s: float = 120) -> tuple[bool, bool, list[str]]:
    lines: list[str] = []
    done = reproduce_stage(project, stage, force=force, timeout_s=timeout_s, say=lines.append)
    assert done.stage == stage
    return done.cached, done.restored, lines


def test_order_is_that_of_the_graph_and_holds_stages_alone(project: Path) -> None:
    (project / "notes.txt").write_text("note")
    dvc(project, "add", "--quiet", "notes.txt")
    (project / "dvc.yaml").write_text(STAGES)
    assert stages_in_order(project) == ["first", "middle", "last"]


def test_stage_that_needs_no_other_is_in_the_order_too(project: Path) -> None:
    assert stages_in_order(with_stage(project, "echo 1 > out.txt")) == ["only"]


@pytest.mark.parametrize(
    ("text", "message"), [(None, "holds no stage"), ("stages: {first: {cmd: [}}\n", "`dvc dag` failed")]
)
def test_project_without_a_readable_graph_is_refused(project: Path, text: str | None, message: str) -> None:
    if text is not None:
        (project / "dvc.yaml").write_text(text)
    with pytest.raises(StageFailed, match=message):
        stages_in_order(project)


def test_stage_is_reproduced_then_cached_then_restored_then_forced(project: Path) -> None:
    with_stage(project, "echo working; echo 1 > out.txt")
    cached, restored, lines = run(project, "only")
    assert (cached, restored) == (False, False)
    assert "working" in lines
    assert not [line for line in lines if "git add" in line or not line.strip()]

    cached, restored, lines = run(project, "only")
    assert (cached, restored) == (True, False)
    assert "working" not in lines

    # Another command and back: DVC has the outputs of the first one in its run cache.
    with_stage(project, "echo other; echo 2 > out.txt")
    assert run(project, "only")[:2] == (False, False)
    with_stage(project, "echo working; echo 1 > out.txt")
    assert run(project, "only")[:2] == (True, True)
    assert (project / "out.txt").read_text() == "1\n"

    cached, _restored, lines = run(project, "only", force=True)
    assert not cached
    assert "working" in lines


def test_lines_arrive_while_the_stage_runs(project: Path) -> None:
    """The stage waits for a file that is made when its first line is seen."""
    with_stage(project, "echo waiting; while [ ! -f go ]; do sleep 0.05; done; echo went; echo 1 > out.txt")
    seen = []

    def say(line: str) -> None:
        seen.append(line)
        if line == "waiting":
            (project / "go").touch()

    reproduce_stage(project, "only", force=False, timeout_s=60, say=say)
    assert seen.index("waiting") < seen.index("went")


def test_failed_stage_shows_its_last_twenty_lines_and_its_exit_code(project: Path) -> None:
    with_stage(project, "seq 1 100; echo the reason >&2; exit 4")
    with pytest.raises(StageFailed) as failure:
        run(project, "only")
    assert failure.value.command_exit_code == 4
    lines = str(failure.value).splitlines()
    assert lines[0] == "stage 'only' failed. Its last lines:"
    assert len(lines) == 21
    assert "the reason" in lines
    assert "100" in lines
    assert "80" not in lines
    assert not (project / "out.txt").exists()


def test_unknown_stage_is_refused(project: Path) -> None:
    with_stage(project, "echo 1 > out.txt")
    with pytest.raises(StageFailed, match="Stage 'other' not found") as failure:
        run(project, "other")
    assert failure.value.command_exit_code is None


def test_stage_past_its_limit_is_ended_with_its_children_and_blocks_nothing(project: Path) -> None:
    with_stage(project, "echo $$ > child.pid; sleep 600; echo 1 > out.txt")
    with pytest.raises(StageFailed, match="after its time limit of 4 s"):
        run(project, "only", timeout_s=4)
    assert ended((project / "child.pid").read_text())
    with_stage(project, "echo 1 > out.txt")
    assert run(project, "only")[0] is False


def test_stage_that_is_left_early_does_not_run_on(project: Path) -> None:
    """A cancelled flow run raises in the middle of a stage."""
    with_stage(project, "echo $$; sleep 600; echo 1 > out.txt")
    found: list[int] = []

    def cancel(line: str) -> None:
        if line.isdigit():
            found.append(int(line))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce_stage(project, "only", force=False, timeout_s=60, say=cancel)
    assert ended(str(found[0]))


def test_stage_does_not_outlive_a_killed_flow(project: Path) -> None:
    with_stage(project, "echo $$ > new.pid; mv new.pid child.pid; sleep 600; echo 1 > out.txt")
    flow = (
        "import sys; from pathlib import Path; from flows.dvc_stages import reproduce_stage;"
        "reproduce_stage(Path(sys.argv[1]), 'only', force=False, timeout_s=600, say=print)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(dvc_stages.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", flow, str(project)], env=environment) as process:
        eventually((project / "child.pid").exists)
        child = (project / "child.pid").read_text()
        assert not ended(child)
        process.kill()
    eventually(lambda: ended(child))
