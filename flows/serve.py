"""Serves the flows: they show in the Prefect UI, can be started there, and retraining runs on a schedule.

    python -m flows.serve        (`make up` does this, with the servers)

The schedule is VIGIL_RETRAIN_CRON, by default Monday 03:00 UTC. It stays on when this process ends, so that a restart
needs no one to switch it on again.
"""

from __future__ import annotations

import os
from typing import Any, cast

from prefect import Flow, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from flows.promote import promote
from flows.retrain import retrain
from flows.screen import screen

DEPLOYMENT = "vigil"
CRON = "0 3 * * 1"


def main() -> None:
    """Serves until it is ended; one run at a time, since all of them work in one project folder."""
    cron = os.environ.get("VIGIL_RETRAIN_CRON", CRON)
    serve(_deployed(retrain, cron), _deployed(screen), _deployed(promote), pause_on_shutdown=False, limit=1)


def _deployed(flow: Flow[..., Any], cron: str | None = None) -> RunnerDeployment:
    # Named by module, so that the run's process imports `flows.retrain` as this one does.
    deployment = flow.to_deployment(DEPLOYMENT, cron=cron, entrypoint_type=EntrypointType.MODULE_PATH, tags=["vigil"])
    return cast(RunnerDeployment, deployment)  # the method is awaitable inside an event loop only


if __name__ == "__main__":
    main()
