"""Rebuilds the model from the data: the stages of dvc.yaml one by one, each a task of its own.

    python -m flows.retrain [--force] [--from champion|scratch]

A run in which nothing had changed ends in the state `Unchanged` and touches nothing, so a schedule costs little.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Completed
from prefect.tasks import Task

from flows.dvc_stages import StageFailed, StageRun, reproduce_stage, stages_in_order
from flows.results import artifact_rows, stage_rows, summary_markdown

GPU_SLOT = "gpu"
"""Name of the global concurrency limit; created with one slot where it is missing, and never changed after that."""

GPU_STAGES = frozenset({"train"})
"""Stages that hold a slot while they run, and that are tried again: training resumes where it was killed."""

START_STAGE = "start"
"""The stage that reads what training starts from; the patches are up to date before it."""

SLOT_LEASE_S = 120.0
"""A slot that a killed run held comes free after this long."""

RETRIES = 2
RETRY_DELAY_S = 30.0


@flow(name="retrain", validate_parameters=True)
def retrain(
    force: bool = False,
    project: str = ".",
    stage_timeout_minutes: float = 24 * 60,
    start_from: Literal["champion", "scratch"] | None = None,
) -> State[Any]:
    """Brings every stage up to date, from raw images to the registered model and the report.

    Args:
        force: Run every stage, even where nothing changed.
        project: Folder with dvc.yaml.
        stage_timeout_minutes: A stage that runs longer is stopped and fails the run.
        start_from: What training starts from, pinned in params.yaml once the patches are up to date; None: what is
            pinned there. A champion that learned from these very patches changes nothing.
    """
    log = get_run_logger()
    folder = Path(project).resolve()
    order = stages_in_order(folder)
    log.info("%d stages in dvc.yaml: %s", len(order), ", ".join(order))
    if GPU_STAGES.intersection(order):
        create_gpu_slot()
    runs: list[StageRun] = []
    for stage in order:
        if start_from and stage == START_STAGE:
            pin(start_from, str(folder))
        state = _task_of(stage)(stage, str(folder), force, stage_timeout_minutes, return_state=True)
        # Raises what a failed stage raised, so that the run fails with the stage's last lines.
        runs.append(cast(State[Any], state).result())
    create_markdown_artifact(
        key="retrain-report", markdown=summary_markdown(folder, runs), description="What the run did and reached"
    )
    create_table_artifact(key="retrain-results", table=artifact_rows(folder), description="Test results")
    create_table_artifact(key="retrain-stages", table=stage_rows(runs), description="What DVC did for each stage")
    reproduced = [run.stage for run in runs if not run.cached]
    if not reproduced:
        return Completed(name="Unchanged", message="No input changed: nothing ran, the registry was not touched.")
    return Completed(message=f"Reproduced {', '.join(reproduced)}; the other stages were unchanged.")


@task(cache_policy=NO_CACHE)
def pin(start_from: str, project: str) -> None:
    """Pins in params.yaml what training starts from; its lines in this run's log."""
    # A process of its own, because the registry's address may be relative to the project folder.
    command = [sys.executable, "-m", "vigil", "train", "--from", start_from, "--pin-only"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    get_run_logger().info("%s", done.stderr.strip() or f"start: {start_from}, as before")
    if done.returncode:
        raise StageFailed(f"pinning the start failed. Its last lines:\n{done.stderr[-2000:]}", done.returncode)


def run_stage(stage: str, project: str, force: bool, stage_timeout_minutes: float) -> State[StageRun]:
    """Runs one DVC stage, its output in this run's log; ends in the state `Cached` or `Reproduced`."""
    with _slot(stage):
        run = reproduce_stage(
            Path(project), stage, force=force, timeout_s=stage_timeout_minutes * 60, say=_logger_of_lines()
        )
    if run.cached:
        what = "brought back from DVC's run cache" if run.restored else "unchanged"
        return Completed(name="Cached", message=f"{stage}: {what}", data=run)
    return Completed(name="Reproduced", message=f"{stage}: ran in {run.seconds:.1f} s", data=run)


def _task_of(stage: str) -> Task[..., Any]:
    """The task that runs `stage`: with retries for training alone, so that a wrong image is not read three times."""
    again = RETRIES if stage in GPU_STAGES else 0
    return Task(
        run_stage,
        name=stage,
        task_run_name=stage,
        cache_policy=NO_CACHE,
        retries=again,
        retry_delay_seconds=RETRY_DELAY_S,
        retry_condition_fn=worth_another_try,
    )


def worth_another_try(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """False for an error that Vigil raised on purpose (exit codes 2 to 9): it would come again.

    True for all else, such as a killed process or a device that was lost.
    """
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, StageFailed) and error.command_exit_code in range(2, 10))


def create_gpu_slot() -> None:
    """Makes the `gpu` concurrency limit with one slot, unless there is one already."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_SLOT, limit=1))


@contextlib.contextmanager
def _slot(stage: str) -> Iterator[None]:
    if stage not in GPU_STAGES:
        yield
        return
    log = get_run_logger()
    log.info("Waiting for a slot of the concurrency limit '%s'", GPU_SLOT)
    # A slot is leased and renewed: one held by a killed run comes free by itself. A renewal that fails once must not
    # end hours of training.
    with concurrency(
        GPU_SLOT, occupy=1, strict=True, lease_duration=SLOT_LEASE_S, raise_on_lease_renewal_failure=False
    ):
        log.info("Got the slot")
        yield


def _logger_of_lines() -> Callable[[str], None]:
    log = get_run_logger()

    def say(line: str) -> None:
        if line.startswith("ERROR"):
            log.error("%s", line)
        elif line.startswith("WARNING"):
            log.warning("%s", line)
        else:
            log.info("%s", line)

    return say


def main() -> int:
    """Runs the flow from a shell, on the server that `make up` started, or on one that lives as long as the run."""
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--force", action="store_true", help="run every stage, even where nothing changed")
    parser.add_argument("--from", dest="start_from", choices=("champion", "scratch"), help="what training starts from")
    options = parser.parse_args()
    if "PREFECT_API_URL" not in os.environ:
        from flows.services import with_prefect_server

        return with_prefect_server([sys.executable, "-m", "flows.retrain", *sys.argv[1:]])
    state = retrain(force=options.force, start_from=options.start_from, return_state=True)
    sys.stdout.write(f"{state.name}: {state.message or ''}\n")
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
