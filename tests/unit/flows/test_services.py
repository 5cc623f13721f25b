"""Background services: only what was started here is ever ended; wrong ports are refused with what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import services
from flows.services import Service, ServiceError
from vigil.files import write_json

SLEEP = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")


def idle(name: str, *, port: int | None = None, ready: bool = True) -> Service:
    return Service(name, SLEEP, "http://127.0.0.1/", port, lambda _started: ready)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(services, "FOLDER", tmp_path)
    yield tmp_path
    services.down(lambda _line: None)


def served(monkeypatch: pytest.MonkeyPatch, *found: Service) -> None:
    monkeypatch.setattr(services, "services", lambda: list(found))


def test_up_starts_once_and_down_ends_what_was_started(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, idle("one"), idle("two"))
    said: list[str] = []
    services.up(said.append)
    one, two = services._recorded("one"), services._recorded("two")
    assert one is not None
    assert two is not None
    assert (own_folder / "one.log").exists()
    assert services.status(said.append)

    services.up(said.append)
    assert any("one      is running already" in line for line in said)
    assert services._recorded("one") == one

    said.clear()
    services.down(said.append)
    assert not one.is_running()
    assert not two.is_running()
    assert sorted(said) == ["one      stopped", "two      stopped"]
    assert not services.status(lambda _line: None)
    services.down(said.append)
    assert said[-1] == "Nothing was running."


def test_process_that_took_over_an_id_is_left_alone(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of an earlier process with the same id, as after a restart of the machine."""
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as stranger:
        started = psutil.Process(stranger.pid).create_time()
        record = {"pid": stranger.pid, "started": started - 1000, "port": None, "command": []}
        write_json(own_folder / "one.json", record)
        said: list[str] = []
        services.down(said.append)
        assert said == ["Nothing was running."]
        assert stranger.poll() is None
        stranger.kill()


def test_taken_port_is_refused_and_nothing_is_started(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        served(monkeypatch, idle("one"), idle("two", port=port))
        with pytest.raises(ServiceError, match=rf"port {port} on 127.0.0.1 is taken.*VIGIL_TWO_PORT=... make up"):
            services.up(lambda _line: None)
    assert list(own_folder.glob("*.json")) == []


def test_service_that_ends_at_once_takes_the_others_down(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Service(
        "two", (sys.executable, "-c", "print('no such table'); raise SystemExit(3)"), "", None, lambda _: False
    )
    served(monkeypatch, idle("one"), broken)
    with pytest.raises(ServiceError, match=r"two ended with exit code 3(.|\n)*no such table"):
        services.up(lambda _line: None)
    assert services._recorded("one") is None
    assert list(own_folder.glob("*.json")) == []


def test_service_that_never_answers_is_ended(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "START_LIMIT_S", 0.5)
    served(monkeypatch, idle("one", ready=False))
    with pytest.raises(ServiceError, match="one does not answer after 0 s"):
        services.up(lambda _line: None)
    assert services._recorded("one") is None


def test_children_of_a_service_end_with_it(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = f"import subprocess, sys; subprocess.run({SLEEP!r})"
    log = own_folder / "one.log"
    service = Service("one", (sys.executable, "-c", parent), "", None, lambda _: "up" in log.read_text())
    served(monkeypatch, service)
    services.up(lambda _line: None)
    process = services._recorded("one")
    assert process is not None
    (child,) = process.children()
    services.down(lambda _line: None)
    assert not child.is_running()


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1"])
def test_port_that_is_none_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_PREFECT_PORT", port)
    with pytest.raises(ServiceError, match="expected a port number from 1 to 65535"):
        services.services()


def test_flows_and_browser_are_told_the_same_port() -> None:
    found = services.environment(4711)
    assert found["PREFECT_API_URL"] == found["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4711/api"
    assert found["PREFECT_SERVER_API_PORT"] == "4711"
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert found["DO_NOT_TRACK"] == "true"


def test_what_the_user_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    found = services.environment(4711)
    assert (found["PREFECT_SERVER_LOGGING_LEVEL"], found["MLFLOW_DISABLE_TELEMETRY"]) == ("DEBUG", "false")


def test_command_runs_beside_a_running_server_and_its_exit_code_is_kept(own_folder: Path) -> None:
    """`with_prefect_server` takes the server that `make up` started."""
    process = psutil.Process()
    record = {"pid": process.pid, "started": process.create_time(), "port": 4712, "command": []}
    write_json(own_folder / "prefect.json", record)
    script = "import os, sys; sys.exit(7 if os.environ['PREFECT_API_URL'] == 'http://127.0.0.1:4712/api' else 1)"
    try:
        assert services.with_prefect_server([sys.executable, "-c", script]) == 7
    finally:
        (own_folder / "prefect.json").unlink()
