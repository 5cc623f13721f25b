"""One step of each player: who moves, who does not, and what stops the run."""

import copy

import pytest
import torch
from lightning_fabric import Fabric

from tests.unit.training.make_patches import SPEC, train_section
from vigil.config import LossWeights, ModelSection
from vigil.errors import TrainingDiverged
from vigil.networks.dense_skip_gan import DenseSkipGan
from vigil.networks.pair import build_pair
from vigil.training.steps import Batch, Penalty, discriminator_step, generator_step, make_players, pair_step


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
