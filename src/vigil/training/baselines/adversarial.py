"""What the steps of the GAN baselines share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from vigil.training.steps import StepLosses


@contextmanager
def without_gradients(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of a network that others learn from; its batch statistics stay those of training.

    Unlike `steps.standing_still`, which would judge in evaluation mode: with batch normalisation that is another
    function, whose statistics lag behind.
    """
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def losses_of_game(discriminator: Mapping[str, float], generator: Mapping[str, float]) -> StepLosses:
    """What `steps.move` returned of both players, as a record; a loss without parts is the adversarial one."""
    return StepLosses(
        discriminator_loss=discriminator["loss"],
        generator_loss=generator["loss"],
        adversarial_loss=generator.get("adversarial", generator["loss"]),
        contextual_loss=generator.get("contextual", 0.0),
        latent_loss=generator.get("latent", 0.0),
        discriminator_gradient_norm=discriminator["gradient_norm"],
        generator_gradient_norm=generator["gradient_norm"],
    )
