"""The U-Net auto-encoder's training step."""

from __future__ import annotations

from lightning_fabric import Fabric

from vigil.networks.baselines.unet_autoencoder import UNetAutoencoder
from vigil.training.losses import contextual_loss
from vigil.training.steps import Batch, Players, StepLosses, move


def unet_autoencoder_step(fabric: Fabric, players: Players[UNetAutoencoder], batch: Batch) -> StepLosses:
    """The one network along the mean of |x - x^|.

    Raises:
        TrainingDiverged: The loss or the gradient's norm is not finite.
    """
    with fabric.autocast():
        reconstruction = players.pair.generator(batch.patches)
    found = move(fabric, players, "generator", {"loss": contextual_loss(batch.patches, reconstruction)})
    return StepLosses(
        generator_loss=found["loss"],
        contextual_loss=found["loss"],
        generator_gradient_norm=found["gradient_norm"],
    )
