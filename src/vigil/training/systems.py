"""The training step of every system by name: what the one loop calls for each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_fabric import Fabric

from vigil.config import SystemName
from vigil.networks.pair import Pair
from vigil.training.baselines.anogan import anogan_step
from vigil.training.baselines.dagan import dagan_step
from vigil.training.baselines.egbad import egbad_step
from vigil.training.baselines.ganomaly import ganomaly_step
from vigil.training.baselines.patch_svdd import patch_svdd_step
from vigil.training.baselines.skip_ganomaly import skip_ganomaly_step
from vigil.training.baselines.unet_autoencoder import unet_autoencoder_step
from vigil.training.steps import Batch, Players, StepLosses, pair_step

Step = Callable[[Fabric, Players[Any], Batch], StepLosses]

STEPS: dict[SystemName, Step] = {
    "dense_skip_gan": pair_step,
    "anogan": anogan_step,
    "egbad": egbad_step,
    "ganomaly": ganomaly_step,
    "skip_ganomaly": skip_ganomaly_step,
    "dagan": dagan_step,
    "unet_autoencoder": unet_autoencoder_step,
    "patch_svdd": patch_svdd_step,
}


def training_step(fabric: Fabric, players: Players[Pair], batch: Batch) -> StepLosses:
    """Moves every player of the pair's system once.

    Raises:
        TrainingDiverged: A loss or a gradient norm is not finite; that player has not moved.
    """
    return STEPS[players.pair.spec.model.name](fabric, players, batch)
