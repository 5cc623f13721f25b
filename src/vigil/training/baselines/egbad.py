"""EGBAD's training step: a BiGAN's."""

from __future__ import annotations

from lightning_fabric import Fabric

from vigil.networks.baselines.egbad import Egbad
from vigil.training.baselines.adversarial import losses_of_game, without_gradients
from vigil.training.losses import adversarial_discriminator_loss
from vigil.training.steps import Batch, Players, StepLosses, move


def egbad_step(fabric: Fabric, players: Players[Egbad], batch: Batch) -> StepLosses:
    """The discriminator learns to tell (x, E(x)) from (G(z), z), then generator and encoder to make it mistake each for
    the other; z is standard normal.

    differs from the paper: generator and encoder are one player with one step, whose loss is the sum of both; the
    logarithms do not saturate, as in its public code.

    Raises:
        TrainingDiverged: A loss or a gradient norm is not finite.
    """
    x, pair = batch.patches, players.pair
    z = batch.normal("latent vectors", len(x), pair.spec.model.latent_channels)
    with fabric.autocast():
        generated, encoded = pair.generator.decoder(z), pair.generator.encoder(x)
        real = pair.discriminator(x, encoded.detach())[0]
        fake = pair.discriminator(generated.detach(), z)[0]
    d = move(fabric, players, "discriminator", {"loss": adversarial_discriminator_loss(real, fake)})
    with without_gradients(pair.discriminator), fabric.autocast():
        real, fake = pair.discriminator(x, encoded)[0], pair.discriminator(generated, z)[0]
    # Each mistaken for the other: the discriminator's own loss with its labels exchanged.
    g = move(fabric, players, "generator", {"loss": adversarial_discriminator_loss(fake, real)})
    return losses_of_game(d, g)
