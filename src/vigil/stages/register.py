"""register: a version of the bundle in the MLflow registry, with the alias `challenger`."""

from __future__ import annotations

import logging

from vigil.config import RegisterSection
from vigil.files import read_json, write_json
from vigil.stages import layout

_log = logging.getLogger(__name__)


def run(register: RegisterSection) -> None:
    """Registers the bundle, or finds the version that holds these very bytes already."""
    from vigil.delivery.mlflow_registry import register as register_bundle

    evaluation = read_json(layout.EVALUATION)
    metrics = {key: evaluation[key] for key in ("pixel_auroc", "aupro") if evaluation[key] is not None}
    files = [layout.EVALUATION, layout.AUDIT, layout.TEST_IMAGES, layout.PLOTS, layout.VALIDATION_REPORT]
    registered = register_bundle(layout.BUNDLE, register, metrics=metrics, files=files, rehearsal=layout.HANDED_ON)
    record = registered.as_json()
    # A run's id differs between equal runs; the registry knows it by the version.
    del record["run_id"]
    if record["champion_before"]:
        del record["champion_before"]["run_id"]
    write_json(layout.REGISTERED, record)
    state = "registered" if registered.created else "registered before"
    _log.info("%s version %d, %s", registered.name, registered.version.number, state)
