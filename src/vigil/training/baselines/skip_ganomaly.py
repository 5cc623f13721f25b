"""Skip-GANomaly's training step."""

from __future__ import annotations

from lightning_fabric import Fabric
from torch.nn.functional import mse_loss

from vigil.networks.baselines.skip_ganomaly import SkipGanomaly
from vigil.training.baselines.adversarial import losses_of_game, without_gradients
from vigil.training.losses import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    contextual_loss,
    total_loss,
)
from vigil.training.steps import Batch, Players, StepLosses, move


def skip_ganomaly_step(fabric: Fabric, players: Players[SkipGanomaly], batch: Batch) -> StepLosses:
    """The discriminator along the cross entropy of x and x^, then the generator along three losses (arXiv 1901.08954).

    Adversarial: the cross entropy, in its non-saturating form. Contextual: the mean of |x - x^|. Latent: the mean of
    (f(x) - f(x^))^2. Published weights: 1, 40, 1.

    Raises:
        TrainingDiverged: A loss or a gradient norm is not finite.
    """
    x, pair = batch.patches, players.pair
    with fabric.autocast():
        reconstruction = pair.generator(x)
        real, fake = pair.discriminator(x)[0], pair.discriminator(reconstruction.detach())[0]
    d = move(fabric, players, "discriminator", {"loss": adversarial_discriminator_loss(real, fake)})
    with without_gradients(pair.discriminator), fabric.autocast():
        features_x = pair.discriminator(x)[1]
        judged, features_again = pair.discriminator(reconstruction)
    adversarial = adversarial_generator_loss(judged)
    contextual, latent = contextual_loss(x, reconstruction), mse_loss(features_again, features_x)
    loss = total_loss(adversarial, contextual, latent, players.train.weights)
    losses = {"loss": loss, "adversarial": adversarial, "contextual": contextual, "latent": latent}
    g = move(fabric, players, "generator", losses)
    return losses_of_game(d, g)
