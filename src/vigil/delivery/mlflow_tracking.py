"""MLflow runs: one per training, with a nested child per candidate.

Training does not depend on the tracking server once it has begun: a store that cannot be reached stops the run before
the first step, and from then on costs a warning, because hours of training are worth more than a curve.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigil.config import RegisterSection
from vigil.errors import DataError, RegistryError
from vigil.files import digest_folder, digest_json, read_json, write_json

if TYPE_CHECKING:
    from types import ModuleType

    from mlflow import MlflowClient

    from vigil.training.recorder import StepRecord

_log = logging.getLogger(__name__)
PAIR_TAG = "vigil.pair_digest"
_RUN_FILE = "mlflow-run.json"
_PENDING_LIMIT = 50_000
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # MLflow's own bounds

ENVIRONMENT = {
    # MLflow matches the word `true`; `1` would leave its telemetry on.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # MLflow's defaults retry for many minutes, in the middle of training.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Set before MLflow is imported, by everything here that uses it; what the user has set already is kept."""


def import_mlflow() -> ModuleType:
    """MLflow, with telemetry off and without its chatter. The only way it is imported in this package."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with without_advice():
        import mlflow
        import mlflow.pyfunc

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


@contextmanager
def without_advice() -> Iterator[None]:
    """Silences MLflow's advice on what is decided otherwise here: type hints as a schema, input examples."""
    with warnings.catch_warnings():
        for words in ("Any type hint is inferred as AnyType", "An input example was not provided"):
            warnings.filterwarnings("ignore", f".*{words}", UserWarning)
        yield


def store_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when a store cannot be reached or refuses."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def open_store(section: RegisterSection) -> MlflowClient:
    """A client of the tracking and registry store at `section.tracking_uri`, known to answer.

    A SQLite file is created where there is none. The store becomes MLflow's current one in this process.

    Raises:
        RegistryError: The address is of a kind that MLflow cannot register models in, or the store does not answer.
    """
    uri = section.tracking_uri
    if not uri.startswith(("sqlite:///", "http://", "https://", "postgresql", "mysql")):
        raise RegistryError(
            f"register.tracking_uri: expected an address such as sqlite:///mlflow.db or http://127.0.0.1:5000, "
            f"found '{uri}'"
        )
    mlflow = import_mlflow()
    try:
        if uri.startswith("sqlite:///"):
            _sqlite_file(uri).parent.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client: MlflowClient = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except store_errors() as error:
        raise RegistryError(
            f"register.tracking_uri: the MLflow store at '{uri}' does not answer ({shortened(error)}). "
            f"Start it (`make up`) or name another, e.g. sqlite:///mlflow.db."
        ) from error
    return client


def shortened(error: BaseException | str, limit: int = 300) -> str:
    """An error's text on one line; MLflow embeds whole arrays and URLs in its messages."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def experiment_id(client: MlflowClient, section: RegisterSection) -> str:
    """The experiment's id; created on first use, with artefacts in `mlruns/` beside a SQLite file."""
    found = client.get_experiment_by_name(section.experiment)
    if found is None:
        root = None
        if section.tracking_uri.startswith("sqlite:///"):
            root = (_sqlite_file(section.tracking_uri).resolve().parent / "mlruns" / section.experiment).as_uri()
        return client.create_experiment(section.experiment, artifact_location=root)
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"register.experiment: MLflow experiment '{section.experiment}' is deleted. Restore it "
            f"(`mlflow experiments restore --experiment-id {found.experiment_id}`) or name another."
        )
    return found.experiment_id


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


def absolute_uri(uri: str) -> str:
    """The address of a store, equal from every working directory."""
    return f"sqlite:///{_sqlite_file(uri).resolve()}" if uri.startswith("sqlite:///") else uri


class MlflowRecorder:
    """A `training.recorder.Recorder` that sends every interval to one MLflow run, with images seen as the step.

    A store that fails is warned about once per outage; what it missed is sent with the next interval.
    """

    def __init__(self, client: MlflowClient, run_id: str, after_images: int = -1) -> None:
        """Steps up to `after_images` are in the store already (the run was resumed) and are not sent again."""
        self._client, self._run_id, self._after = client, run_id, after_images
        self._pending: list[Any] = []
        self._failing = False

    def record(self, step: StepRecord) -> None:
        """Sends the finite numbers of one interval."""
        from mlflow.entities import Metric

        if step.images_seen <= self._after:
            return
        now_ms = time.time_ns() // 1_000_000
        self._pending += [
            Metric(key, float(value), now_ms, step.images_seen)
            for key, value in dataclasses.asdict(step).items()
            if key != "images_seen" and isinstance(value, int | float) and math.isfinite(value)
        ]
        self.flush()

    def flush(self) -> None:
        """Sends what is pending; a failure is logged, never raised."""
        try:
            while self._pending:
                self._client.log_batch(self._run_id, metrics=self._pending[:_METRICS_PER_CALL])
                del self._pending[:_METRICS_PER_CALL]
            self._failing = False
        except store_errors() as error:
            if not self._failing:
                _log.warning("MLflow does not answer, training goes on without it: %s", shortened(error))
            self._failing = True
            del self._pending[:-_PENDING_LIMIT]


class TrainingRun:
    """The MLflow run of one training; made by `training_run`."""

    def __init__(self, client: MlflowClient, run_id: str, file: Path, state: dict[str, Any]) -> None:
        self.run_id = run_id
        self._client, self._file, self._state = client, file, state

    @contextmanager
    def candidate(self, name: str, settings: Mapping[str, Any]) -> Iterator[MlflowRecorder]:
        """The child run of one candidate: yields its recorder, closes it with the final status.

        Args:
            name: The candidate's name; a child that a killed run left behind under this name is continued.
            settings: Nested sections, logged flattened as params.
        """
        known = self._state["children"].get(name)
        run_id, seen = known, -1
        with tolerated("open the run of a candidate"):
            if known is None:
                parent = self._client.get_run(self.run_id).info
                tags = {"mlflow.parentRunId": self.run_id, "mlflow.runName": name, "vigil.candidate": name}
                run_id = self._client.create_run(parent.experiment_id, tags=tags).info.run_id
                self._state["children"][name] = run_id
                write_json(self._file, self._state)
                log_params(self._client, run_id, settings)
            else:
                self._client.update_run(run_id, status="RUNNING")
                seen = _last_step(self._client, run_id)
        if run_id is None:  # the store went away; numbers are still kept by the other recorders
            run_id = self.run_id
        recorder = MlflowRecorder(self._client, run_id, after_images=seen)
        status = "FAILED"
        try:
            yield recorder
            status = "FINISHED"
        finally:
            recorder.flush()
            if run_id != self.run_id:
                with tolerated("close the run of a candidate"):
                    self._client.set_terminated(run_id, status)

    def log(self, metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None) -> None:
        """Logs results of the whole training; numbers that are not finite are left out."""
        with tolerated("log the results"):
            for key, value in (metrics or {}).items():
                if math.isfinite(value):
                    self._client.log_metric(self.run_id, key, float(value))
            for key, text in (tags or {}).items():
                self._client.set_tag(self.run_id, key, text)

    def log_pair(self, folder: Path) -> None:
        """Marks the run as the one that trained the pair in `folder`, so that `register` finds it by content."""
        self.log(tags={PAIR_TAG: digest_folder(folder)})

    def log_files(self, paths: Sequence[Path], folder: str = "reports") -> None:
        """Copies files and folders into the run's artefacts below `folder`."""
        with tolerated("log files"):
            log_files(self._client, self.run_id, paths, folder)


@contextmanager
def training_run(
    section: RegisterSection, work: Path, settings: Mapping[str, Any], data_digests: Mapping[str, str]
) -> Iterator[TrainingRun]:
    """The MLflow run of one training, with system metrics, closed with the final status.

    A training that was killed and starts again with equal settings and data continues its run: the run's id is kept
    in `work`. A finished run is never reopened.

    Args:
        section: Where MLflow is.
        work: The training's scratch folder.
        settings: The sections that decide the result, logged flattened as params (`train.epochs`).
        data_digests: Name and digest of each input, logged as params (`digest.train`).

    Raises:
        RegistryError: The store does not answer when the training starts.
    """
    client = open_store(section)
    try:
        run_id, file, state = _open_run(client, section, Path(work), settings, data_digests)
        active = import_mlflow().start_run(run_id=run_id, log_system_metrics=True)
    except store_errors() as error:
        raise RegistryError(
            f"the MLflow store at '{section.tracking_uri}' refused the training's run ({shortened(error)}). "
            f"Check it before training again; nothing was trained."
        ) from error
    status = "FAILED"
    try:
        yield TrainingRun(client, active.info.run_id, file, state)
        status = "FINISHED"
        file.unlink(missing_ok=True)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with tolerated("close the run"):
            import_mlflow().end_run(status)


def _open_run(
    client: MlflowClient,
    section: RegisterSection,
    work: Path,
    settings: Mapping[str, Any],
    data_digests: Mapping[str, str],
) -> tuple[str, Path, dict[str, Any]]:
    file = work / _RUN_FILE
    experiment = experiment_id(client, section)
    identity = digest_json([section.tracking_uri, experiment, flattened(settings), dict(data_digests)])
    state: dict[str, Any] = {}
    with suppress(DataError):
        state = read_json(file)
    if state.get("identity") == identity and _unfinished(client, state["run_id"]):
        _log.info("Continuing MLflow run %s", state["run_id"])
        return state["run_id"], file, state
    run = client.create_run(experiment, tags={"mlflow.runName": "train", **_git_tags()})
    state = {"identity": identity, "run_id": run.info.run_id, "children": {}}
    write_json(file, state)
    log_params(client, run.info.run_id, {**settings, "digest": dict(data_digests)})
    return run.info.run_id, file, state


def _unfinished(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        info = client.get_run(run_id).info
    except MlflowException:  # a store that was deleted and made anew does not know the run
        return False
    return info.lifecycle_stage == "active" and info.status != "FINISHED"


def find_training_run(client: MlflowClient, section: RegisterSection, pair_digest: str) -> str | None:
    """The id of the newest run that trained the pair of this digest; None where the store holds none."""
    found = client.search_runs([experiment_id(client, section)], f"tags.`{PAIR_TAG}` = '{pair_digest}'", max_results=1)
    return found[0].info.run_id if found else None


def _last_step(client: MlflowClient, run_id: str) -> int:
    keys = client.get_run(run_id).data.metrics
    return max((m.step for key in keys for m in client.get_metric_history(run_id, key)), default=-1)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and text: `{"train": {"epochs": 3}}` gives `{"train.epochs": "3"}`."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def log_params(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    """Logs nested settings as flattened params."""
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in flattened(settings).items()]
    for start in range(0, len(params), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])


def log_files(client: MlflowClient, run_id: str, paths: Sequence[Path], folder: str) -> None:
    """Copies files and folders that exist into the run's artefacts below `folder`."""
    for path in map(Path, paths):
        if path.is_dir():
            client.log_artifacts(run_id, str(path), f"{folder}/{path.name}")
        elif path.is_file():
            client.log_artifact(run_id, str(path), folder)


def attach_files(section: RegisterSection, run_id: str, paths: Sequence[Path], folder: str = "reports") -> None:
    """Copies files and folders into the artefacts of a run, e.g. the report once it is written.

    Raises:
        RegistryError: The store does not answer or does not know the run.
    """
    client = open_store(section)
    try:
        log_files(client, run_id, paths, folder)
    except store_errors() as error:
        raise RegistryError(f"MLflow run {run_id} at '{section.tracking_uri}': {shortened(error)}") from error


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Turns a store that fails into a warning, for what the work does not depend on."""
    try:
        yield
    except store_errors() as error:
        _log.warning("MLflow could not %s, going on without: %s", what, shortened(error))


def _git_tags() -> dict[str, str]:
    """The commit that the code stands at and whether files differ from it; empty outside of git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"mlflow.source.git.commit": commit, "vigil.git_changes": str(bool(_git("status", "--porcelain")))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, timeout=20)
    return done.stdout.strip()
