"""Prefect flows around the DVC stages: when, how often, on which resources, and what happens on failure.

The graph stands in dvc.yaml alone; nothing here repeats it. Importing this package keeps Prefect's and MLflow's files
and habits inside the project: Prefect reads its settings when it is first imported, so they are set before that.
"""

import os
from pathlib import Path

PROJECT = Path(os.environ.get("VIGIL_PROJECT") or Path(__file__).parents[1]).resolve()
"""The project folder, in which dvc.yaml stands and all flows run: VIGIL_PROJECT, else the one that holds this code."""

STATE = PROJECT / ".vigil"
"""What running services leave behind: Prefect's database, logs, process ids. Not under version control."""

SETTINGS = {
    "PREFECT_HOME": str(STATE / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Slots that a killed run held come free when their lease runs out. Leases in memory would be forgotten when the
    # server stops, and their slots stay taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "DO_NOT_TRACK": "true",  # MLflow and Prefect both read this word
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    # MLflow's scorers of language-model traces: not used here, and they keep its server from stopping for 20 s.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Everything stays on this machine; a setting that the user made wins."""

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

# Prefect makes its folder but not the folders above it.
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
