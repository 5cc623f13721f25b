"""One step of the discriminator and one of the generator on a batch, each a function that returns a small record.

Legend: B batch, C channels, P patch size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from vigil.config import LossWeights, TrainSection
from vigil.errors import TrainingDiverged
from vigil.networks.pair import Pair
from vigil.networks.self_supervision import turn_loss
from vigil.networks.teacher import ResNet18Features
from vigil.training.losses import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    contextual_loss,
    feature_loss,
    latent_loss,
    pointing_loss,
    total_loss,
)

_WARM_UP = 0.02
_FIRST_RATE = 0.001
_LAST_RATE = 0.05
"""Of the linear schedule: the share of the budget in which the rate rises, and shares of the rate."""


@dataclass(frozen=True, slots=True)
class DiscriminatorStep:
    """What one step of the discriminator measured before it moved."""

    adversarial: float
    """-L_adv of Eq. (2); 0 where it was not computed."""
    pointing: float
    """The pointing loss; 0 where the pair does not point."""
    self_supervision: float
    """The self-supervised loss; 0 where the pair has no such trunk."""
    loss: float
    """Their weighted sum."""
    gradient_norm: float


@dataclass(frozen=True, slots=True)
class GeneratorStep:
    """What one step of the generator measured before it moved."""

    loss: float
    """Eq. (5), and the weighted feature loss where there is a teacher."""
    adversarial: float
    contextual: float
    latent: float
    gradient_norm: float


class Corruption(NamedTuple):
    """What was stamped into a batch of normal patches."""

    patches: Tensor
    """[B, C, P, P] in [-1, 1], with pseudo-anomalies."""
    anomalous: Tensor
    """bool [B, P, P], the pixels that visibly changed."""


class Views(NamedTuple):
    """Turned copies of a batch of normal patches."""

    patches: Tensor
    """[V, C, P, P] in [-1, 1]."""
    quarters: Tensor
    """int64 [V], by how many quarters each was turned, 0 to 3."""


class Teaching(NamedTuple):
    """A frozen teacher, and the weight of its feature loss."""

    network: ResNet18Features
    weight: float


@dataclass(slots=True)
class Players:
    """The pair and its two optimisers."""

    pair: Pair
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    teaching: Teaching | None = None


def make_players(pair: Pair, train: TrainSection) -> Players:
    """The pair with fresh optimisers: Adam, or SGD whose momentum is the first of `train.betas`."""

    def optimizer(network: nn.Module) -> Optimizer:
        if train.optimizer == "adam":
            return torch.optim.Adam(network.parameters(), train.learning_rate, train.betas)
        return torch.optim.SGD(network.parameters(), train.learning_rate, momentum=train.betas[0])

    return Players(pair, optimizer(pair.generator), optimizer(pair.discriminator))


def set_learning_rate(players: Players, train: TrainSection, progress: float) -> None:
    """Sets both optimisers to the rate of `train.schedule` when `progress` (0 to 1) of the budget is used up."""
    factor = 1.0
    if train.schedule == "linear":
        factor = min(1.0, (progress + _FIRST_RATE) / _WARM_UP, 1 - (1 - _LAST_RATE) * (progress - 0.3) / 0.7)
    for optimizer in (players.generator_optimizer, players.discriminator_optimizer):
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate * factor


def discriminator_step(
    fabric: Fabric,
    players: Players,
    x: Tensor,
    reconstruction: Tensor,
    weights: LossWeights,
    corruption: Corruption | None = None,
    views: Views | None = None,
) -> DiscriminatorStep:
    """Moves the discriminator once towards telling x from x^ and, where it points, towards finding the corruption;
    where it has a self-supervised trunk, also towards telling how the views were turned.

    Its verdict on whole patches learns from Eq. (2) alone. The text leaves open whether the discriminator, too, sees
    the latent loss of Eq. (5); a discriminator that minimised it could do so by making f constant. Where the
    discriminator has another task and the generator listens neither to its verdict nor to its features (both weights
    0), they are not trained at all, which saves their time.

    Args:
        x: Normal patches [B, C, P, P] in [-1, 1].
        reconstruction: x^ of the first patches of x, or of all; no gradient flows back to the generator.
        weights: w1, w2, w3 and the weight of pointing.
        corruption: Of all of x; needed where the discriminator points.
        views: Of x; needed where the discriminator has a self-supervised trunk.

    Raises:
        TrainingDiverged: The loss or the gradient's norm is not finite; the discriminator has not moved.
    """
    discriminator, reconstruction = players.pair.discriminator, reconstruction.detach()
    adversarial = pointing = self_supervision = x.new_zeros(())
    judges_only = discriminator.pointing is None and discriminator.self_supervision is None
    if judges_only or weights.adversarial or weights.latent:
        with fabric.autocast():
            logits = discriminator(torch.cat([x[: len(reconstruction)], reconstruction])).logits
        adversarial = adversarial_discriminator_loss(*logits.chunk(2))
    if discriminator.pointing is not None and corruption is not None:
        with fabric.autocast():
            restored = reconstruction if len(reconstruction) == len(x) else None
            pointed = discriminator.pointing(corruption.patches, restored)
        pointing = pointing_loss(pointed, corruption.anomalous)
    if discriminator.self_supervision is not None and views is not None:
        with fabric.autocast():
            told = discriminator.self_supervision(views.patches).logits
        self_supervision = turn_loss(told, views.quarters).mean()
    loss = adversarial + weights.pointing * pointing + weights.self_supervision * self_supervision

    players.discriminator_optimizer.zero_grad()
    fabric.backward(loss)
    losses = {"loss": loss, "adversarial": adversarial, "pointing": pointing, "self_supervision": self_supervision}
    values = _move(fabric, discriminator, players.discriminator_optimizer, losses, "discriminator")
    return DiscriminatorStep(**values)


def generator_step(
    fabric: Fabric, players: Players, x: Tensor, reconstruction: Tensor, weights: LossWeights
) -> GeneratorStep:
    """Moves the generator once along Eq. (5), while the discriminator stands still.

    Where the weights of the adversarial and of the latent loss are both 0, neither is computed. Where there is a
    teacher, its feature loss is added.

    Args:
        x: Normal patches [B, C, P, P] in [-1, 1].
        reconstruction: x^ of the same shape, with the generator's graph behind it.
        weights: w1, w2, w3.

    Raises:
        TrainingDiverged: A loss or the gradient's norm is not finite; the generator has not moved.
    """
    discriminator = players.pair.discriminator
    adversarial = latent = x.new_zeros(())
    if weights.adversarial or weights.latent:
        with _standing_still(discriminator), fabric.autocast():
            with torch.no_grad():
                features_x = discriminator(x).features
            judged = discriminator(reconstruction)
        adversarial = adversarial_generator_loss(judged.logits)
        latent = latent_loss(features_x, judged.features)
    contextual = contextual_loss(x, reconstruction)
    loss = total_loss(adversarial, contextual, latent, weights)
    if players.teaching is not None:
        teacher = players.teaching.network
        with fabric.autocast():
            with torch.no_grad():
                taught = teacher(x)
            restored = teacher(reconstruction)
        loss = loss + players.teaching.weight * feature_loss(taught, restored)

    players.generator_optimizer.zero_grad()
    fabric.backward(loss)
    losses = {"loss": loss, "adversarial": adversarial, "contextual": contextual, "latent": latent}
    values = _move(fabric, players.pair.generator, players.generator_optimizer, losses, "generator")
    return GeneratorStep(**values)


@contextmanager
def _standing_still(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters, and spectral norms that do not iterate: f is one function for x and x^."""
    training = network.training
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        network.train(training).requires_grad_(True)


def _move(
    fabric: Fabric, network: nn.Module, optimizer: Optimizer, losses: dict[str, Tensor], name: str
) -> dict[str, float]:
    """Averages gradients and losses over all processes, checks that all are finite, and only then moves."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if fabric.world_size > 1:
        values = _averaged(fabric, gradients, values)
    norm = get_total_norm(gradients)
    # The one place of a step where the host waits for the device: nothing may move before the numbers are known.
    numbers = torch.cat([values, norm[None].float()]).tolist()
    named = dict(zip([*losses, "gradient_norm"], numbers, strict=True))
    wrong = {key: value for key, value in named.items() if not math.isfinite(value)}
    if wrong:
        found = ", ".join(f"{key} = {value}" for key, value in wrong.items())
        raise TrainingDiverged(
            f"{name} step: expected finite losses and gradient norm, found {found}; nothing of this step was applied. "
            f"Lower train.learning_rate, or keep model.spectral_norm on."
        )
    optimizer.step()
    return named


def _averaged(fabric: Fabric, gradients: list[Tensor], values: Tensor) -> Tensor:
    """Replaces the gradients by their mean over all processes, in one message; returns the mean of `values`."""
    flat = torch.cat([*(g.flatten() for g in gradients), values])
    flat = cast(Tensor, fabric.all_reduce(flat, reduce_op="mean"))
    *means, averaged = torch.split(flat, [*(g.numel() for g in gradients), len(values)])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))
    return averaged
