"""AnoGAN's training step: a DCGAN's."""

from __future__ import annotations

from lightning_fabric import Fabric

from vigil.networks.baselines.anogan import AnoGan
from vigil.training.baselines.adversarial import losses_of_game, without_gradients
from vigil.training.losses import adversarial_discriminator_loss, adversarial_generator_loss
from vigil.training.steps import Batch, Players, StepLosses, move


def anogan_step(fabric: Fabric, players: Players[AnoGan], batch: Batch) -> StepLosses:
    """Discriminator and generator once along the GAN's loss of arXiv 1703.05921; z is uniform in [-1, 1].

    differs from the paper: the generator maximises log D(G(z)), as DCGAN's does, and not -log(1 - D(G(z))).

    Raises:
        TrainingDiverged: A loss or a gradient norm is not finite.
    """
    x, pair = batch.patches, players.pair
    z = 2 * batch.uniform("latent vectors", len(x), pair.spec.model.latent_channels) - 1
    with fabric.autocast():
        generated = pair.generator(z)
        real, fake = pair.discriminator(x)[0], pair.discriminator(generated.detach())[0]
    d = move(fabric, players, "discriminator", {"loss": adversarial_discriminator_loss(real, fake)})
    with without_gradients(pair.discriminator), fabric.autocast():
        loss = adversarial_generator_loss(pair.discriminator(generated)[0])
    g = move(fabric, players, "generator", {"loss": loss})
    return losses_of_game(d, g)
