"""GANomaly's training step and its three losses."""

from __future__ import annotations

from lightning_fabric import Fabric
from torch.nn.functional import mse_loss

from vigil.networks.baselines.ganomaly import Ganomaly
from vigil.training.baselines.adversarial import losses_of_game, without_gradients
from vigil.training.losses import adversarial_discriminator_loss, contextual_loss
from vigil.training.steps import Batch, Players, StepLosses, move


def ganomaly_step(fabric: Fabric, players: Players[Ganomaly], batch: Batch) -> StepLosses:
    """The discriminator along the cross entropy of x and x^, then the generator along three losses (arXiv 1805.06725).

    Adversarial: the mean of (f(x) - f(x^))^2 of the discriminator's features. Contextual: the mean of |x - x^|.
    Encoder (recorded as latent): the mean of (G_E(x) - E(x^))^2. Published weights: 1, 50, 1.

    Raises:
        TrainingDiverged: A loss or a gradient norm is not finite.
    """
    x, pair, weights = batch.patches, players.pair, players.train.weights
    with fabric.autocast():
        made = pair.generator(x)
        real, fake = pair.discriminator(x)[0], pair.discriminator(made.reconstruction.detach())[0]
    d = move(fabric, players, "discriminator", {"loss": adversarial_discriminator_loss(real, fake)})
    with without_gradients(pair.discriminator), fabric.autocast():
        features_x, features_again = (pair.discriminator(images)[1] for images in (x, made.reconstruction))
    losses = {
        "adversarial": mse_loss(features_again, features_x),
        "contextual": contextual_loss(x, made.reconstruction),
        "latent": mse_loss(made.z_again, made.z),
    }
    loss = sum(getattr(weights, name) * value for name, value in losses.items())
    g = move(fabric, players, "generator", {"loss": loss, **losses})
    return losses_of_game(d, g)
