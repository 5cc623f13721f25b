"""One step of each player: who moves, who does not, and what stops the run."""

import copy
import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests.unit.training.make_patches import SPEC, train_section
from vigil.config import LossWeights, ModelSection
from vigil.errors import TrainingDiverged
from vigil.networks.dense_skip_gan import DenseSkipGan
from vigil.networks.pair import build_pair
from vigil.training.steps import (
    OF_THE_GAME,
    Batch,
    Corruption,
    Penalty,
    discriminator_step,
    generator_plays,
    generator_step,
    make_players,
    pair_step,
)
from vigil.training.systems import training_step


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def x():
    return torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def players(**changes):
    return make_players(build_pair(SPEC, 0).train(), train_section(**changes))


def state(network):
    return copy.deepcopy(network.state_dict())


def equal(a, b):
    return [k for k in a if torch.equal(a[k], b[k])]


def test_the_discriminator_moves_alone(fabric, x):
    p = players()
    generator, discriminator = state(p.pair.generator), dict(p.pair.discriminator.named_parameters())
    before = {k: v.detach().clone() for k, v in discriminator.items()}
    reconstruction = p.pair.generator(x)
    generator = state(p.pair.generator)  # the forward pass has iterated its spectral norms
    step = discriminator_step(fabric, p, x, reconstruction, LossWeights())
    assert equal(state(p.pair.generator), generator) == list(generator)
    assert equal(before, discriminator) == []
    assert all(parameter.grad is None for parameter in p.pair.generator.parameters())
    assert step.loss == pytest.approx(1.386, abs=0.1)
    assert step.gradient_norm > 0


def test_the_generator_moves_alone_and_the_discriminators_spectral_norms_stand_still(fabric, x):
    p = players()
    discriminator = state(p.pair.discriminator)
    before = {k: v.detach().clone() for k, v in p.pair.generator.named_parameters()}
    step = generator_step(fabric, p, x, p.pair.generator(x), LossWeights())
    assert equal(state(p.pair.discriminator), discriminator) == list(discriminator)
    assert equal(before, dict(p.pair.generator.named_parameters())) == []
    assert all(parameter.grad is None for parameter in p.pair.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in p.pair.discriminator.parameters())
    assert p.pair.discriminator.training
    assert step.loss == pytest.approx(step.adversarial + 40 * step.contextual + step.latent, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_repeated_steps_lower_the_contextual_loss(fabric, x, optimizer):
    p = players(optimizer=optimizer, learning_rate=2e-3 if optimizer == "adam" else 1e-2)
    seen = []
    for _ in range(25):
        reconstruction = p.pair.generator(x)
        discriminator_step(fabric, p, x, reconstruction, LossWeights())
        seen.append(generator_step(fabric, p, x, reconstruction, LossWeights()).contextual)
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_takes_its_share_of_every_weight_that_the_loss_leaves_alone(optimizer, decay):
    p = players(optimizer=optimizer, learning_rate=1e-2, weight_decay=decay)
    before = {k: v.detach().clone() for k, v in p.pair.generator.named_parameters()}
    for parameter in p.pair.generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    p.optimizers["generator"].step()
    for name, parameter in p.pair.generator.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 1e-2 * decay), rtol=1e-6, atol=0)


def test_a_discriminator_without_opponent_learns_to_tell(fabric, x):
    p = players(learning_rate=2e-3)
    fake = -x
    losses = [discriminator_step(fabric, p, x, fake, LossWeights()).loss for _ in range(40)]
    assert losses[-1] < 0.9 * losses[0]


def test_weights_choose_the_terms(fabric, x):
    """With the contextual loss alone, the generator's gradient does not depend on the discriminator."""
    norms = []
    for seed in (0, 1):
        p = players()
        p.pair.discriminator.load_state_dict(build_pair(SPEC, seed).discriminator.state_dict())
        weights = LossWeights(adversarial=0, contextual=1, latent=0)
        norms.append(generator_step(fabric, p, x, p.pair.generator(x), weights).gradient_norm)
    assert norms[0] == norms[1] > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_discriminator_before_it_moves(fabric, x, bad):
    p = players()
    reconstruction = p.pair.generator(x).detach()
    reconstruction[0, 0, 0, 0] = bad
    before = {k: v.detach().clone() for k, v in p.pair.discriminator.named_parameters()}
    with pytest.raises(TrainingDiverged, match=r"discriminator step: expected finite .* found loss = nan"):
        discriminator_step(fabric, p, x, reconstruction, LossWeights())
    assert equal(before, dict(p.pair.discriminator.named_parameters())) == list(before)
    assert not p.optimizers["discriminator"].state


def test_what_is_not_finite_stops_the_generator_before_it_moves(fabric, x):
    p = players()
    before = {k: v.detach().clone() for k, v in p.pair.generator.named_parameters()}
    reconstruction = p.pair.generator(x)
    bad = x.clone()
    bad[0, 0, 0, 0] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"generator step: .*contextual = inf"):
        generator_step(fabric, p, bad, reconstruction, LossWeights())
    assert equal(before, dict(p.pair.generator.named_parameters())) == list(before)
    assert not p.optimizers["generator"].state


def test_a_gradient_that_is_not_finite_stops_a_step_whose_loss_is(fabric, x):
    p = players()
    reconstruction = p.pair.generator(x)
    p.pair.generator.output.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {k: v.detach().clone() for k, v in p.pair.generator.named_parameters()}
    with pytest.raises(TrainingDiverged, match=r"generator step: .* found gradient_norm = (inf|nan);"):
        generator_step(fabric, p, x, reconstruction, LossWeights())
    assert equal(before, dict(p.pair.generator.named_parameters())) == list(before)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.125, 0.01])
def test_the_generator_plays_first_and_then_in_its_share_of_the_batches(share):
    turns = [generator_plays(turn, share) for turn in range(1000)]
    assert turns[0]
    assert sum(turns) == pytest.approx(1000 * share, abs=1)
    gaps = np.diff(np.flatnonzero(turns))
    assert set(gaps) <= {math.floor(1 / share), math.ceil(1 / share)}


def test_a_step_without_the_generator_moves_the_pointing_decoder_alone(fabric, x):
    spec = SPEC.model_copy(
        update={
            "model": SPEC.model.model_copy(update={"pointing": True, "pointing_sees": "patch", "pointing_width": 4})
        }
    )
    weights = LossWeights(adversarial=0.0, latent=0.0)
    p = make_players(
        build_pair(spec, 0).train(),
        train_section(objective="restore", generator_share=0.25, weights=weights.model_dump()),
    )
    before = state(p.pair)
    marked = torch.zeros(4, 32, 32, dtype=torch.bool)
    marked[:, 8:16, 8:16] = True
    batch = Batch(x, Corruption(x.flip(-1), marked), None, seed=0, images_seen=p.train.batch_size, process=0)
    losses = training_step(fabric, p, batch)
    moved = {key for key, value in p.pair.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all(".pointing." in key for key in moved)
    assert losses.left_out == OF_THE_GAME
    assert losses.pointing_loss > 0 < losses.discriminator_gradient_norm
    # In its turn it moves as well.
    first = training_step(fabric, p, batch._replace(images_seen=0))
    assert first.contextual_loss > 0 == len(first.left_out)
    assert not torch.equal(p.pair.state_dict()["generator.output.weight"], before["generator.output.weight"])


def test_the_wasserstein_loss_takes_the_place_of_eq_2(fabric, x):
    """The critic raises D(x) - D(x^) within its penalty; the generator's loss is -D(x^), and the rest stays."""
    p = players(adversarial="wasserstein_gp", learning_rate=1e-3)
    assert isinstance(p.pair, DenseSkipGan)
    fake, critic = -x, []
    for number in range(30):
        penalty = Penalty(torch.full((4,), 0.1 + 0.02 * number), 10.0)
        critic.append(discriminator_step(fabric, p, x, fake, LossWeights(), penalty=penalty).adversarial)
    assert critic[-1] < critic[0] - 0.5
    with torch.no_grad():
        judged = p.pair.eval().discriminator(p.pair.generator(x)).logits
    found = generator_step(fabric, p, x, p.pair.train().generator(x), LossWeights(), wasserstein=True)
    assert found.adversarial == pytest.approx(-judged.mean().item(), abs=0.05)


@pytest.mark.parametrize(
    "model", [{}, {"spectral_norm": False}, {"attention": {**SPEC.model.attention.model_dump(), "enabled": False}}]
)
@pytest.mark.parametrize("adversarial", ["log", "wasserstein_gp"])
def test_every_ablation_of_the_pair_trains(fabric, x, model, adversarial):
    section = ModelSection.model_validate({**SPEC.model.model_dump(), **model})
    pair = build_pair(SPEC.model_copy(update={"model": section}), 0).train()
    p = make_players(pair, train_section(adversarial=adversarial, learning_rate=2e-3))
    losses = [pair_step(fabric, p, Batch(x, None, None, 0, 4 * number, 0)) for number in range(20)]
    assert losses[-1].contextual_loss < 0.9 * losses[0].contextual_loss
    assert all(step.discriminator_gradient_norm > 0 for step in losses)


def test_the_penalty_is_drawn_anew_at_each_step_and_the_same_when_a_run_goes_on(fabric, x):
    seen = []
    for images_seen in (8, 8, 12):
        p = players(adversarial="wasserstein_gp")
        seen.append(pair_step(fabric, p, Batch(x, None, None, 0, images_seen, 0)).discriminator_loss)
    assert seen[0] == seen[1] != seen[2]
