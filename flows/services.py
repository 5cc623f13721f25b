"""Starts, ends and lists the background services of a project: Prefect server, MLflow server, served flows.

    python -m flows.services up|down|status

All listen on 127.0.0.1 alone. Process ids and logs stand in `.vigil/services/`; only recorded processes are ever ended.
Ports: VIGIL_PREFECT_PORT (4200), VIGIL_MLFLOW_PORT (5000).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows import PROJECT, SETTINGS, STATE
from vigil.errors import VigilError
from vigil.files import read_json, write_json

HOST = "127.0.0.1"
FOLDER = STATE / "services"
START_LIMIT_S = 180.0
"""A first start creates the databases; on a busy machine that takes a minute."""
_END_LIMIT_S = 15.0
_STARTED: list[subprocess.Popen[bytes]] = []
"""Kept while this process lives, because Python warns of child processes that are forgotten while they run."""


class ServiceError(VigilError):
    """A service cannot be started: its port is taken, it ended at once, or it does not answer."""


@dataclass(frozen=True, slots=True)
class Service:
    """A background process: how to start it, and how to tell that it works."""

    name: str
    command: tuple[str, ...]
    url: str
    """What a person opens, or a sentence."""
    port: int | None
    answers: Callable[[float], bool]
    """Given the process's start (seconds since 1970): does it do its work by now?"""


# ----------------------------------------------------------------------------------------------------------- what runs


def services() -> list[Service]:
    """The services of this project, in the order in which they start."""
    prefect, mlflow = _port("VIGIL_PREFECT_PORT", 4200), _port("VIGIL_MLFLOW_PORT", 5000)
    found = [_prefect(prefect)]
    tracking_uri = _tracking_uri()
    if not tracking_uri.startswith(("http:", "https:")):
        found.append(_mlflow(mlflow, tracking_uri))
    served = Service(
        "flows",
        (sys.executable, "-m", "flows.serve"),
        f"http://{HOST}:{prefect}/deployments",
        None,
        lambda started: _flows_are_polled(prefect, started),
    )
    return [*found, served]


def _prefect(port: int) -> Service:
    return Service(
        "prefect",
        (sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)),
        f"http://{HOST}:{port}",
        port,
        lambda _started: _ok(f"http://{HOST}:{port}/api/health"),
    )


def _mlflow(port: int, tracking_uri: str) -> Service:
    command = (sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri)
    return Service(
        "mlflow",
        (*command, "--host", HOST, "--port", str(port), "--workers", "1"),
        f"http://{HOST}:{port}",
        port,
        lambda _started: _ok(f"http://{HOST}:{port}/health"),
    )


def _tracking_uri() -> str:
    from vigil.config import RegisterSection, load_params

    params = PROJECT / "params.yaml"
    return load_params(params).registration.tracking_uri if params.is_file() else RegisterSection().tracking_uri


def _flows_are_polled(prefect_port: int, started: float) -> bool:
    """True once the serving process has asked the server for work: its log says so only after that."""
    log = FOLDER / "flows.log"
    return (
        log.is_file()
        and log.stat().st_mtime >= started
        and "polling for scheduled runs" in log.read_text(errors="replace")
        and _ok(f"http://{HOST}:{prefect_port}/api/deployments/name/retrain/vigil")
    )


def environment(prefect_port: int) -> dict[str, str]:
    """The environment in which services and flows run; what the user set wins."""
    api = f"http://{HOST}:{prefect_port}/api"
    return {
        **SETTINGS,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(prefect_port),
        # The UI runs in the browser: it must be told where the server listens.
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "PREFECT_API_URL": api,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


# --------------------------------------------------------------------------------------------------- up, down, status


def up(say: Callable[[str], None]) -> None:
    """Starts what is not running and waits until each service answers; ends what it started where one does not.

    Raises:
        ServiceError: A port is taken, or a service does not answer; the message ends with the last lines of its log.
    """
    wanted = services()
    to_start = [service for service in wanted if _recorded(service.name) is None]
    for service in to_start:
        if service.port is not None and _taken(service.port):
            raise ServiceError(
                f"port {service.port} on {HOST} is taken by another program, so {service.name} cannot listen there. "
                f"End that program, or choose another port: VIGIL_{service.name.upper()}_PORT=... make up"
            )
    started: list[str] = []
    try:
        for service in wanted:
            if service not in to_start:
                say(f"{service.name:<8} is running already: {service.url}")
                continue
            if service.name == "flows":
                for run in _close_left_runs():
                    say(f"{service.name:<8} run '{run}' was cut off earlier; it is marked as crashed")
            say(f"{service.name:<8} starting ...")
            started.append(service.name)
            _start(service)
            say(f"{service.name:<8} is ready: {service.url}")
    except BaseException:
        for name in reversed(started):
            _end(name)
        raise
    say("Stop with `make down`. Logs: .vigil/services/")


def down(say: Callable[[str], None]) -> None:
    """Ends the recorded services, the last started first; says so where none runs."""
    names = [path.stem for path in sorted(FOLDER.glob("*.json"))]
    order = {"flows": 0, "mlflow": 1, "prefect": 2}
    ended = [name for name in sorted(names, key=lambda name: order.get(name, 0)) if _end(name)]
    for name in ended:
        say(f"{name:<8} stopped")
    if not ended:
        say("Nothing was running.")


def status(say: Callable[[str], None]) -> bool:
    """Says of each service whether it runs and answers; True if all do."""
    all_well = True
    for service in services():
        process = _recorded(service.name)
        well = process is not None and service.answers(0.0)
        all_well = all_well and well
        state = "not running" if process is None else ("running" if well else "started, but does not answer")
        say(f"{service.name:<8} {state}" + (f", process {process.pid}: {service.url}" if process else ""))
    return all_well


def with_prefect_server(command: Sequence[str]) -> int:
    """Runs a command whose flows report to a Prefect server, and returns its exit code.

    The server is the one that `make up` started, else one on a free port that ends with the command and shares its
    database with `make up`, so that the runs are seen there later. (Prefect's own ephemeral server left `database is
    locked` tracebacks behind; and a process that runs flows sends its last log lines when it ends, so the server must
    outlive it.)
    """
    if _recorded("prefect"):
        return _wait_for(command, environment(_recorded_port("prefect")))
    port, name = _free_port(), f"prefect-{os.getpid()}"
    _start(_prefect(port), name)
    try:
        return _wait_for(command, environment(port))
    finally:
        _end(name)


def _wait_for(command: Sequence[str], variables: dict[str, str]) -> int:
    with subprocess.Popen(command, env=variables) as child:
        # Ctrl-C reaches the child too; it ends its stage, and only then is it time to end here.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return child.wait()
        finally:
            signal.signal(signal.SIGINT, before)


# --------------------------------------------------------------------------------------------------------- processes


def _start(service: Service, name: str | None = None) -> None:
    name = name or service.name
    FOLDER.mkdir(parents=True, exist_ok=True)
    log_path = FOLDER / f"{name}.log"
    prefect_port = service.port if service.name == "prefect" and service.port else _port("VIGIL_PREFECT_PORT", 4200)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            service.command,
            cwd=PROJECT,
            env=environment(prefect_port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(process.pid).create_time()
    record = {"pid": process.pid, "started": started, "port": service.port, "command": list(service.command)}
    write_json(FOLDER / f"{name}.json", record)
    _STARTED.append(process)
    limit = time.monotonic() + START_LIMIT_S
    while not service.answers(started):
        if process.poll() is not None:
            problem = f"ended with exit code {process.returncode}"
        elif time.monotonic() > limit:
            problem = f"does not answer after {START_LIMIT_S:.0f} s"
        else:
            time.sleep(0.3)
            continue
        _end(name)
        process.wait()
        last = "\n".join(log_path.read_text(errors="replace").splitlines()[-15:])
        raise ServiceError(f"{name} {problem}. The last lines of {log_path}:\n{last}")


def _recorded(name: str) -> psutil.Process | None:
    """The process that was started under this name, if it still runs. Ids are reused, so its start time must agree."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return None
    record = read_json(path)
    try:
        process = psutil.Process(record["pid"])
        alive = process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - record["started"]) < 1.0
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def _recorded_port(name: str) -> int:
    return int(read_json(FOLDER / f"{name}.json")["port"])


def _end(name: str) -> bool:
    """Ends the recorded process with its group: politely, then not. False if it did not run."""
    process = _recorded(name)
    if process is not None:
        if name == "flows":
            # A running flow ends its stage, gives its slot back and reports to the server, if it is asked first.
            runs = process.children()
            for run in runs:
                with contextlib.suppress(psutil.NoSuchProcess):
                    run.terminate()
            psutil.wait_procs(runs, timeout=_END_LIMIT_S)
        # Each service leads a group of its own, so its workers end with it.
        members = [process, *process.children(recursive=True)]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        _gone, left = psutil.wait_procs(members, timeout=_END_LIMIT_S)
        for member in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(left, timeout=_END_LIMIT_S)
    (FOLDER / f"{name}.json").unlink(missing_ok=True)
    return process is not None


def _close_left_runs() -> list[str]:
    """Marks served runs as crashed that no process works on any more, as after a power cut, and returns their names.

    Called while no flows are served here; runs from a shell belong to no deployment and are left alone.
    """
    api = f"http://{HOST}:{_recorded_port('prefect')}/api"
    of_states = {
        "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}},
        "deployment_id": {"is_null_": False},
    }
    runs = _post(f"{api}/flow_runs/filter", {"flow_runs": of_states})
    message = "The process that ran this was cut off. Finished parts are kept; start it again to go on."
    state = {"type": "CRASHED", "name": "Crashed", "message": message}
    for run in runs:
        _post(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    return [run["name"] for run in runs]


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    limit = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - always http on this machine
                return json.load(answer)
        except urllib.error.HTTPError as error:
            # Prefect's server says 503 where another of its tasks holds the SQLite database, and asks to try again.
            if error.code != 503 or time.monotonic() > limit:
                raise ServiceError(f"{url} answered {error.code} ({error.reason}); see {FOLDER}/prefect.log") from error
            time.sleep(1)


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ServiceError(f"{variable} is {text!r}; expected a port number from 1 to 65535")
    return int(text)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - always http on this machine
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def main() -> int:
    """`up`, `down` or `status`; 0 when all is as it was asked for."""
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("action", choices=("up", "down", "status"))
    action = parser.parse_args().action

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        if action == "up":
            up(say)
        elif action == "down":
            down(say)
        else:
            return 0 if status(say) else 1
    except VigilError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
