"""One step of the discriminator and one of the generator on a batch, each a function that returns a small record.

What every system's steps are made of: `Batch`, `Players`, `move` and `StepLosses`. The steps of the baselines stand in
`training.baselines`.

Legend: B batch, C channels, P patch size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from vigil.config import LossWeights, TrainSection
from vigil.errors import TrainingDiverged
from vigil.networks.dense_skip_gan import DenseSkipGan
from vigil.networks.pair import Pair
from vigil.networks.self_supervision import turn_loss
from vigil.networks.teacher import ResNet18Features
from vigil.seeding import numpy_generator
from vigil.training.losses import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    contextual_loss,
    feature_loss,
    gradient_penalty,
    latent_loss,
    pointing_loss,
    total_loss,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)

AnyPair = TypeVar("AnyPair", bound=Pair)

_WARM_UP = 0.02
_FIRST_RATE = 0.001
_LAST_RATE = 0.05
"""Of the linear schedule: the share of the budget in which the rate rises, and shares of the rate."""


@dataclass(frozen=True, slots=True)
class DiscriminatorStep:
    """What one step of the discriminator measured before it moved."""

    adversarial: float
    """-L_adv of Eq. (2), or the Wasserstein loss with its penalty; 0 where it was not computed."""
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


class Penalty(NamedTuple):
    """Of the Wasserstein loss."""

    mix: Tensor
    """[B], where between x and x^ the gradient is held to 1, uniform in [0, 1]."""
    weight: float


class Batch(NamedTuple):
    """What a step learns from, and where its random numbers come from."""

    patches: Tensor
    """Normal patches x [B, C, P, P] in [-1, 1]: this process's share."""
    corruption: Corruption | None
    """Of all of x; None where the objective is to reconstruct."""
    views: Views | None
    """Of x; None where the pair has no self-supervised trunk."""
    seed: int
    images_seen: int
    process: int

    def random(self, purpose: str) -> np.random.Generator:
        """A function of seed, purpose, images seen and process, so that a resumed run draws what it would have."""
        return numpy_generator(self.seed, purpose, self.images_seen, self.process)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal numbers, float32 on the patches' device."""
        return torch.from_numpy(self.random(purpose).standard_normal(shape, np.float32)).to(self.patches.device)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Numbers uniform in [0, 1], float32 on the patches' device."""
        return torch.from_numpy(self.random(purpose).random(shape, np.float32)).to(self.patches.device)


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What one step of all players measured, by the fields of `recorder.StepRecord`; 0 where a system has no such."""

    discriminator_loss: float = 0.0
    generator_loss: float = 0.0
    adversarial_loss: float = 0.0
    contextual_loss: float = 0.0
    latent_loss: float = 0.0
    discriminator_gradient_norm: float = 0.0
    generator_gradient_norm: float = 0.0
    pointing_loss: float = 0.0
    self_supervised_loss: float = 0.0
    left_out: frozenset[str] = frozenset()
    """Fields that this step did not measure, because it was not that player's turn; they do not count in means."""


OF_THE_GAME = frozenset(
    {
        "discriminator_loss",
        "generator_loss",
        "adversarial_loss",
        "contextual_loss",
        "latent_loss",
        "generator_gradient_norm",
    }
)
"""What is measured only where the generator plays."""


class Teaching(NamedTuple):
    """A frozen teacher, and the weight of its feature loss."""

    network: ResNet18Features
    weight: float


@dataclass(slots=True)
class Players(Generic[AnyPair]):
    """The pair, an optimiser of each of its networks, by the network's name, and the settings."""

    pair: AnyPair
    optimizers: dict[str, Optimizer]
    train: TrainSection
    teaching: Teaching | None = None


def make_players(pair: AnyPair, train: TrainSection) -> Players[AnyPair]:
    """The pair with fresh optimisers: AdamW (Adam without weight decay), or SGD whose momentum is the first beta."""

    def optimizer(network: nn.Module) -> Optimizer:
        if train.optimizer == "adam":
            # One kernel over all weights: on a CPU a quarter of the time of the unfused form, or less.
            return torch.optim.AdamW(
                network.parameters(), train.learning_rate, train.betas, weight_decay=train.weight_decay, fused=True
            )
        return torch.optim.SGD(
            network.parameters(), train.learning_rate, momentum=train.betas[0], weight_decay=train.weight_decay
        )

    return Players(pair, {name: optimizer(network) for name, network in pair.networks().items()}, train)


def set_learning_rate(players: Players[AnyPair], train: TrainSection, progress: float) -> None:
    """Sets all optimisers to the rate of `train.schedule` when `progress` (0 to 1) of the budget is used up."""
    factor = 1.0
    if train.schedule == "linear":
        factor = min(1.0, (progress + _FIRST_RATE) / _WARM_UP, 1 - (1 - _LAST_RATE) * (progress - 0.3) / 0.7)
    for optimizer in players.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate * factor


def pair_step(fabric: Fabric, players: Players[DenseSkipGan], batch: Batch) -> StepLosses:
    """Both players of the paper's pair once: the discriminator, then the generator where it is its turn.

    Raises:
        TrainingDiverged: As the steps of the two.
    """
    x, corruption, train = batch.patches, batch.corruption, players.train
    if not generator_plays(batch.images_seen // train.batch_size, train.generator_share):
        d = discriminator_step(fabric, players, x, None, train.weights, corruption, batch.views)
        return StepLosses(
            discriminator_gradient_norm=d.gradient_norm,
            pointing_loss=d.pointing,
            self_supervised_loss=d.self_supervision,
            left_out=OF_THE_GAME,
        )
    with fabric.autocast():
        reconstruction = players.pair.generator(x if corruption is None else corruption.patches)
    wasserstein = train.adversarial == "wasserstein_gp"
    penalty = Penalty(batch.uniform("gradient penalty", len(x)), train.gradient_penalty) if wasserstein else None
    d = discriminator_step(fabric, players, x, reconstruction, train.weights, corruption, batch.views, penalty)
    g = generator_step(fabric, players, x, reconstruction, train.weights, wasserstein=wasserstein)
    return StepLosses(
        discriminator_loss=d.adversarial,
        generator_loss=g.loss,
        adversarial_loss=g.adversarial,
        contextual_loss=g.contextual,
        latent_loss=g.latent,
        discriminator_gradient_norm=d.gradient_norm,
        generator_gradient_norm=g.gradient_norm,
        pointing_loss=d.pointing,
        self_supervised_loss=d.self_supervision,
    )


def generator_plays(turn: int, share: float) -> bool:
    """Whether the generator has a part in this batch, the `turn`-th from 0: in the first one, and in `share` of all.

    Whole batches rather than a part of each: small batches cost nearly as much as large ones.
    """
    return math.ceil((turn + 1) * share) > math.ceil(turn * share)


def discriminator_step(
    fabric: Fabric,
    players: Players[DenseSkipGan],
    x: Tensor,
    reconstruction: Tensor | None,
    weights: LossWeights,
    corruption: Corruption | None = None,
    views: Views | None = None,
    penalty: Penalty | None = None,
) -> DiscriminatorStep:
    """Moves the discriminator once towards telling x from x^ and, where it points, towards finding the corruption;
    where it has a self-supervised trunk, also towards telling how the views were turned.

    Its verdict on whole patches learns from Eq. (2) alone. The text leaves open whether the discriminator, too, sees
    the latent loss of Eq. (5); a discriminator that minimised it could do so by making f constant. Where the
    discriminator has another task and the generator listens neither to its verdict nor to its features (both weights
    0), they are not trained at all, which saves their time.

    Args:
        x: Normal patches [B, C, P, P] in [-1, 1].
        reconstruction: x^ of the same shape; no gradient flows back to the generator. None where it does not play in
            this batch: then the verdict is left as it is, and the discriminator needs another task.
        weights: w1, w2, w3 and the weight of pointing.
        corruption: Of all of x; needed where the discriminator points.
        views: Of x; needed where the discriminator has a self-supervised trunk.
        penalty: Makes the loss Wasserstein's in place of Eq. (2).

    Raises:
        TrainingDiverged: The loss or the gradient's norm is not finite; the discriminator has not moved.
    """
    discriminator = players.pair.discriminator
    reconstruction = None if reconstruction is None else reconstruction.detach()
    adversarial = pointing = self_supervision = x.new_zeros(())
    judges_only = discriminator.pointing is None and discriminator.self_supervision is None
    if reconstruction is not None and (judges_only or weights.adversarial or weights.latent):
        with fabric.autocast():
            logits = discriminator(torch.cat([x, reconstruction])).logits
        if penalty is None:
            adversarial = adversarial_discriminator_loss(*logits.chunk(2))
        else:
            steepness = gradient_penalty(lambda u: discriminator(u).logits, x, reconstruction, penalty.mix)
            adversarial = wasserstein_discriminator_loss(*logits.chunk(2)) + penalty.weight * steepness
    if discriminator.pointing is not None and corruption is not None:
        with fabric.autocast():
            pointed = discriminator.pointing(corruption.patches, reconstruction)
        pointing = pointing_loss(pointed, corruption.anomalous)
    if discriminator.self_supervision is not None and views is not None:
        with fabric.autocast():
            told = discriminator.self_supervision(views.patches).logits
        self_supervision = turn_loss(told, views.quarters).mean()
    loss = adversarial + weights.pointing * pointing + weights.self_supervision * self_supervision
    losses = {"loss": loss, "adversarial": adversarial, "pointing": pointing, "self_supervision": self_supervision}
    return DiscriminatorStep(**move(fabric, players, "discriminator", losses))


def generator_step(
    fabric: Fabric,
    players: Players[DenseSkipGan],
    x: Tensor,
    reconstruction: Tensor,
    weights: LossWeights,
    *,
    wasserstein: bool = False,
) -> GeneratorStep:
    """Moves the generator once along Eq. (5), while the discriminator stands still.

    Where the weights of the adversarial and of the latent loss are both 0, neither is computed. Where there is a
    teacher, its feature loss is added.

    Args:
        x: Normal patches [B, C, P, P] in [-1, 1].
        reconstruction: x^ of the same shape, with the generator's graph behind it.
        weights: w1, w2, w3.
        wasserstein: The adversarial loss is Wasserstein's in place of Eq. (2).

    Raises:
        TrainingDiverged: A loss or the gradient's norm is not finite; the generator has not moved.
    """
    discriminator = players.pair.discriminator
    adversarial = latent = x.new_zeros(())
    if weights.adversarial or weights.latent:
        with standing_still(discriminator), fabric.autocast():
            with torch.no_grad():
                features_x = discriminator(x).features
            judged = discriminator(reconstruction)
        adversarial = (wasserstein_generator_loss if wasserstein else adversarial_generator_loss)(judged.logits)
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
    losses = {"loss": loss, "adversarial": adversarial, "contextual": contextual, "latent": latent}
    return GeneratorStep(**move(fabric, players, "generator", losses))


@contextmanager
def standing_still(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters, and spectral norms that do not iterate: f is one function for x and x^."""
    training = network.training
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        network.train(training).requires_grad_(True)


def move(fabric: Fabric, players: Players[AnyPair], name: str, losses: dict[str, Tensor]) -> dict[str, float]:
    """Moves one network once along its loss; returns the losses and `gradient_norm`, as they were before it moved.

    Gradients and losses are averaged over all processes, and all must be finite.

    Args:
        name: Of the network.
        losses: `loss` is what it descends along; the others are measured.

    Raises:
        TrainingDiverged: A loss or the gradient's norm is not finite; the network has not moved.
    """
    network, optimizer = players.pair.networks()[name], players.optimizers[name]
    optimizer.zero_grad()
    fabric.backward(losses["loss"])
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
