"""MLflow runs of the paper's experiments: one per experiment, a nested child per cell, the cell's training below it.

An experiment that is run again goes on in its run, and a cell has one child in it. As with training, a store that does
not answer stops the work before it begins, and from then on costs a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigil.config import RegisterSection
from vigil.delivery.mlflow_tracking import (
    experiment_id,
    find_training_run,
    log_files,
    log_params,
    open_store,
    shortened,
    store_errors,
    tolerated,
)
from vigil.errors import RegistryError
from vigil.files import digest_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT_TAG, CELL_TAG = "vigil.benchmark", "vigil.cell"
_PARENT, _NAME = "mlflow.parentRunId", "mlflow.runName"


class CellRun:
    """The MLflow run of one cell; made by `ExperimentRun.cell`."""

    def __init__(self, client: MlflowClient, section: RegisterSection, run_id: str | None) -> None:
        self._client, self._section, self._run_id = client, section, run_id

    def adopt_training(self, pair: Path) -> None:
        """Puts the run that trained the pair in this folder below the cell's."""
        with tolerated("put a training below its cell"):
            found = find_training_run(self._client, self._section, digest_folder(pair))
            if found is not None and self._run_id is not None:
                self._client.set_tag(found, _PARENT, self._run_id)

    def log(self, measured: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
        """Logs every finite number below `measured` under its dotted name, and copies the files."""
        with tolerated("log what a cell measured"):
            if self._run_id is not None:
                for name, value in numbers(measured).items():
                    self._client.log_metric(self._run_id, name, value)
                log_files(self._client, self._run_id, files, "reports")


class ExperimentRun:
    """The MLflow run of one experiment; made by `experiment_run`."""

    def __init__(self, client: MlflowClient, section: RegisterSection, run_id: str) -> None:
        self.run_id = run_id
        self._client, self._section = client, section

    def has(self, cell: str) -> bool:
        """Whether the cell has a finished child."""
        child = self._child(cell)
        return child is not None and child.info.status == "FINISHED"

    @contextmanager
    def cell(self, name: str, settings: Mapping[str, Any]) -> Iterator[CellRun]:
        """The child run of a cell, closed with the final status; one that a killed run left behind is continued."""
        run_id: str | None = None
        with tolerated("open the run of a cell"):
            child = self._child(name)
            if child is not None:
                run_id = child.info.run_id
                self._client.update_run(run_id, status="RUNNING")
            else:
                experiment = self._client.get_run(self.run_id).info.experiment_id
                tags = {_PARENT: self.run_id, _NAME: name, CELL_TAG: name}
                run_id = self._client.create_run(experiment, tags=tags).info.run_id
                log_params(self._client, run_id, settings)
        status = "FAILED"
        try:
            yield CellRun(self._client, self._section, run_id)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with tolerated("close the run of a cell"):
                if run_id is not None:
                    self._client.set_terminated(run_id, status)

    def log_files(self, paths: Sequence[Path]) -> None:
        """Copies tables and plots into the experiment's artefacts."""
        with tolerated("log the tables"):
            log_files(self._client, self.run_id, paths, "results")

    def _child(self, cell: str) -> Any:
        experiment = self._client.get_run(self.run_id).info.experiment_id
        query = f"tags.`{CELL_TAG}` = '{cell}' and tags.`{_PARENT}` = '{self.run_id}'"
        found = self._client.search_runs([experiment], query, max_results=1)
        return found[0] if found else None


@contextmanager
def experiment_run(section: RegisterSection, name: str) -> Iterator[ExperimentRun]:
    """The run of an experiment of this name, continued where there is one.

    Raises:
        RegistryError: The store does not answer.
    """
    client = open_store(section)
    try:
        experiment = experiment_id(client, section)
        found = client.search_runs([experiment], f"tags.`{EXPERIMENT_TAG}` = '{name}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = client.create_run(experiment, tags={EXPERIMENT_TAG: name, _NAME: name}).info.run_id
    except store_errors() as error:
        raise RegistryError(
            f"the MLflow store at '{section.tracking_uri}' refused the experiment's run ({shortened(error)}); nothing "
            f"was run"
        ) from error
    status = "FAILED"
    try:
        yield ExperimentRun(client, section, run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with tolerated("close the run of the experiment"):
            client.set_terminated(run_id, status)


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every finite number below nested values, by its dotted name: `{"a": {"b": 1}}` gives `{"a.b": 1.0}`."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace("+", ".")
        if isinstance(value, Mapping):
            flat |= numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[name] = float(value)
    return flat
