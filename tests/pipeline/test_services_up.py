"""`make up` for real: servers answer, the flows are served with their schedule, `make down` leaves nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(600)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell in a project of its own, on free ports."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **kept,
        "VIGIL_PROJECT": str(tmp_path),
        "VIGIL_PREFECT_PORT": str(free_port()),
        "VIGIL_MLFLOW_PORT": str(free_port()),
        "PYTHONPATH": path,
    }


def services(action: str, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.services", action], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """The answer's JSON; asks again where the server says that its database is busy (503)."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    for _ in range(60):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 503:
                    raise
            time.sleep(1)
    raise AssertionError(f"{url} is busy for a minute")


def eventually(found: Callable[[], Any], limit_s: float = 60) -> Any:
    deadline = time.monotonic() + limit_s
    while not (result := found()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return result


def test_up_serves_the_flows_with_a_schedule_and_down_ends_all(environment: dict[str, str], tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{environment['VIGIL_PREFECT_PORT']}/api"
    try:
        code, output = services("up", environment)
        assert code == 0, output
        assert f"http://127.0.0.1:{environment['VIGIL_MLFLOW_PORT']}" in output
        assert services("status", environment)[0] == 0

        deployments = {found["entrypoint"]: found for found in ask(f"{api}/deployments/filter", {})}
        assert set(deployments) == {"flows.retrain.retrain", "flows.screen.screen", "flows.promote.promote"}
        (schedule,) = deployments["flows.retrain.retrain"]["schedules"]
        assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 3 * * 1", True)
        assert deployments["flows.promote.promote"]["schedules"] == []
        # A schedule that makes no runs is none: with SQLAlchemy 2.1 this server's scheduler fails.
        planned = eventually(lambda: ask(f"{api}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"}))
        assert planned
        assert {run["state"]["type"] for run in planned} == {"SCHEDULED"}

        assert ask(api.removesuffix("/api") + "/ui-settings")["api_url"] == api

        code, output = services("up", environment)
        assert code == 0
        assert output.count("is running already") == 3
    finally:
        code, output = services("down", environment)
    assert code == 0
    assert output.count("stopped") == 3
    assert services("status", environment)[0] == 1
    for name in ("VIGIL_PREFECT_PORT", "VIGIL_MLFLOW_PORT"):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(environment[name]))) != 0
    assert sorted(path.name for path in (tmp_path / ".vigil").iterdir()) == ["prefect", "services"]


def test_down_in_the_middle_of_a_run_leaves_no_process_no_slot_and_no_running_state(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = "echo $$ > new.pid; mv new.pid child.pid; sleep 600"
    (tmp_path / "dvc.yaml").write_text(f"stages: {{train: {{cmd: {command!r}, outs: [out.txt]}}}}\n")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    api = f"http://127.0.0.1:{environment['VIGIL_PREFECT_PORT']}/api"
    try:
        code, output = services("up", environment)
        assert code == 0, output
        deployments = {found["entrypoint"]: found["id"] for found in ask(f"{api}/deployments/filter", {})}
        run = ask(f"{api}/deployments/{deployments['flows.retrain.retrain']}/create_flow_run", {})
        assert eventually((tmp_path / "child.pid").exists)
        child = Path("/proc") / (tmp_path / "child.pid").read_text().strip()
        assert child.exists()
        services("down", environment)
        assert eventually(lambda: not child.exists())

        services("up", environment)
        assert ask(f"{api}/flow_runs/{run['id']}")["state"]["name"] == "Crashed"
        assert ask(f"{api}/v2/concurrency_limits/gpu")["active_slots"] == 0
    finally:
        services("down", environment)


def test_retrain_runs_from_a_shell_without_any_server_before_or_after(
    environment: dict[str, str], tmp_path: Path
) -> None:
    stage = "stages: {only: {cmd: echo 1 > out.txt, outs: [out.txt]}}\n"
    (tmp_path / "dvc.yaml").write_text(stage)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "Completed: Reproduced only; the other stages were unchanged."
    # Nothing was lost on the way to the server, which outlives the run, and no traceback stands in the user's shell.
    assert "Traceback" not in done.stderr
    assert "Error logging to API" not in done.stderr
    assert list((tmp_path / ".vigil" / "services").glob("*.json")) == []
