"""DAGAN's training step: a game of two auto-encoders."""

from __future__ import annotations

from lightning_fabric import Fabric
from torch.nn.functional import l1_loss, mse_loss

from vigil.networks.baselines.dagan import Dagan
from vigil.training.baselines.adversarial import losses_of_game, without_gradients
from vigil.training.losses import contextual_loss, total_loss
from vigil.training.steps import Batch, Players, StepLosses, move


def dagan_step(fabric: Fabric, players: Players[Dagan], batch: Batch) -> StepLosses:
    """The discriminator learns to reconstruct x and not x^, then the generator to make what it reconstructs.

    Discriminator: the mean of |x - D(x)| less that of |x^ - D(x^)|, between -2 and 2, about 0 where it cannot tell.
    Generator: the mean of |x^ - D(x^)| (adversarial), of |x - x^| (contextual), of (f(x) - f(x^))^2 (latent), weighted.

    differs from the paper: see `networks.baselines.dagan`.

    Raises:
        TrainingDiverged: A loss or a gradient norm is not finite.
    """
    x, pair = batch.patches, players.pair
    with fabric.autocast():
        reconstruction = pair.generator(x)
        fixed = reconstruction.detach()
        real, fake = l1_loss(pair.discriminator(x)[0], x), l1_loss(pair.discriminator(fixed)[0], fixed)
    d = move(fabric, players, "discriminator", {"loss": real - fake})
    with without_gradients(pair.discriminator), fabric.autocast():
        features_x = pair.discriminator(x)[1]
        again, features_again = pair.discriminator(reconstruction)
    adversarial = l1_loss(again, reconstruction)
    contextual, latent = contextual_loss(x, reconstruction), mse_loss(features_again, features_x)
    loss = total_loss(adversarial, contextual, latent, players.train.weights)
    losses = {"loss": loss, "adversarial": adversarial, "contextual": contextual, "latent": latent}
    g = move(fabric, players, "generator", losses)
    return losses_of_game(d, g)
