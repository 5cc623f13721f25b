"""The baselines' losses and scores, and the gradient penalty, against plain NumPy in float64, from the equations."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from tests.tiny_systems import smooth_patches, tiny_pair, tiny_spec
from tests.unit.training.make_patches import train_section
from vigil.config import LatentSearchSection
from vigil.networks.pair import build_pair
from vigil.training.losses import gradient_penalty, wasserstein_discriminator_loss, wasserstein_generator_loss
from vigil.training.steps import Batch, make_players
from vigil.training.systems import training_step


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def bce(logits: np.ndarray, real: bool) -> float:
    probability = 1 / (1 + np.exp(-logits))
    return float(-np.log(probability if real else 1 - probability).mean())


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def one_step(fabric, name):
    """A step that moves nothing, its losses, and what the networks made of x before it."""
    train = train_section(learning_rate=1e-30, weights={"adversarial": 1.5, "contextual": 50.0, "latent": 2.0})
    pair = build_pair(tiny_spec(name), 0).train()
    with torch.no_grad():
        for parameter in pair.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    x = smooth_patches(6)
    players = make_players(pair, train)
    return training_step(fabric, players, Batch(x, None, None, 0, 0, 0)), pair, x


def test_ganomalys_three_losses(fabric):
    losses, pair, x = one_step(fabric, "ganomaly")
    with torch.no_grad():
        made = pair.generator(x)
        (real, f), (fake, f_again) = pair.discriminator(x), pair.discriminator(made.reconstruction)
    adversarial = ((array(f) - array(f_again)) ** 2).mean()
    contextual = np.abs(array(x) - array(made.reconstruction)).mean()
    encoder = ((array(made.z) - array(made.z_again)) ** 2).mean()
    assert losses.adversarial_loss == pytest.approx(adversarial, rel=1e-4)
    assert losses.contextual_loss == pytest.approx(contextual, rel=1e-4)
    assert losses.latent_loss == pytest.approx(encoder, rel=1e-4)
    assert losses.generator_loss == pytest.approx(1.5 * adversarial + 50 * contextual + 2 * encoder, rel=1e-4)
    assert losses.discriminator_loss == pytest.approx(bce(array(real), True) + bce(array(fake), False), rel=1e-4)


def test_skip_ganomalys_three_losses(fabric):
    losses, pair, x = one_step(fabric, "skip_ganomaly")
    with torch.no_grad():
        again = pair.generator(x)
        (_, f), (fake, f_again) = pair.discriminator(x), pair.discriminator(again)
    assert losses.adversarial_loss == pytest.approx(bce(array(fake), True), rel=1e-4)
    assert losses.contextual_loss == pytest.approx(np.abs(array(x) - array(again)).mean(), rel=1e-4)
    assert losses.latent_loss == pytest.approx(((array(f) - array(f_again)) ** 2).mean(), rel=1e-4)


def test_dagans_losses_are_those_of_two_auto_encoders(fabric):
    losses, pair, x = one_step(fabric, "dagan")
    with torch.no_grad():
        made = pair.generator(x)
        (x_again, f), (made_again, f_made) = pair.discriminator(x), pair.discriminator(made)
    of_real, of_made = np.abs(array(x - x_again)).mean(), np.abs(array(made - made_again)).mean()
    assert losses.discriminator_loss == pytest.approx(of_real - of_made, rel=1e-4)
    assert losses.adversarial_loss == pytest.approx(of_made, rel=1e-4)
    assert losses.latent_loss == pytest.approx(((array(f) - array(f_made)) ** 2).mean(), rel=1e-4)


def test_published_scores_are_those_of_their_descriptions():
    x = smooth_patches(3)
    with torch.no_grad():
        found = {n: tiny_pair(n).outputs(x) for n in ("egbad", "ganomaly", "skip_ganomaly", "dagan")}
    for name, outputs in found.items():
        residual = np.abs(array(x) - array(outputs.reconstruction)).reshape(3, -1)
        difference = (array(outputs.features_x) - array(outputs.features_reconstruction)).reshape(3, -1)
        expected = {
            "egbad": 0.9 * residual.sum(axis=1) + 0.1 * np.abs(difference).sum(axis=1),
            "ganomaly": np.abs(difference).mean(axis=1),
            "skip_ganomaly": 0.9 * residual.mean(axis=1) + 0.1 * (difference**2).mean(axis=1),
            "dagan": 0.9 * residual.mean(axis=1) + 0.1 * (difference**2).mean(axis=1),
        }[name]
        np.testing.assert_allclose(array(outputs.published), expected, rtol=1e-5)


def test_anogans_score_is_its_search_loss():
    pair = tiny_pair("anogan", latent_search=LatentSearchSection(discrimination_weight=0.3))
    x, z = smooth_patches(3), torch.rand(3, 6)
    with torch.no_grad():
        found = pair.outputs_at(x, z)
    residual = np.abs(array(x) - array(found.reconstruction)).reshape(3, -1).sum(axis=1)
    difference = np.abs(array(found.features_x) - array(found.features_reconstruction)).reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(array(found.published), 0.7 * residual + 0.3 * difference, rtol=1e-5)


def test_the_wasserstein_losses_are_differences_of_means():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(0, 2, 50), rng.normal(0, 2, 50)
    found = wasserstein_discriminator_loss(torch.tensor(real), torch.tensor(fake))
    assert found.item() == pytest.approx(fake.mean() - real.mean(), rel=1e-12)
    assert wasserstein_generator_loss(torch.tensor(fake)).item() == pytest.approx(-fake.mean(), rel=1e-12)


def test_the_gradient_penalty_of_a_linear_critic_is_that_of_its_weights():
    """|grad| is |w| everywhere, so the penalty is (|w| - 1)^2 whatever x, x^ and the mix."""
    weights = torch.linspace(-1, 1, 32)
    x, again = torch.rand(4, 1, 4, 8), torch.rand(4, 1, 4, 8)
    found = gradient_penalty(lambda u: u.flatten(1) @ weights, x, again, torch.rand(4))
    assert found.item() == pytest.approx((np.linalg.norm(weights.numpy()) - 1) ** 2, rel=1e-5)


def test_the_gradient_penalty_equals_finite_differences_between_x_and_its_reconstruction():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    x, again, mix = torch.rand(3, 1, 2, 3), torch.rand(3, 1, 2, 3), torch.tensor([0.0, 0.3, 1.0])
    found = gradient_penalty(lambda u: critic(u)[:, 0], x, again, mix)

    wide = critic.double()
    share = array(mix)[:, None]
    u = share * array(x).reshape(3, -1) + (1 - share) * array(again).reshape(3, -1)
    slopes = np.empty_like(u)
    for column in range(u.shape[1]):
        step = np.zeros(u.shape[1])
        step[column] = 1e-6
        high, low = (array(wide(torch.tensor(u + s).reshape(3, 1, 2, 3))[:, 0]) for s in (step, -step))
        slopes[:, column] = (high - low) / 2e-6
    expected = ((np.linalg.norm(slopes, axis=1) - 1) ** 2).mean()
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_gradient_penalty_can_be_descended_along():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = torch.optim.Adam(critic.parameters(), 0.05)
    x, again = torch.rand(8, 1, 2, 3), torch.rand(8, 1, 2, 3)
    values = []
    for _ in range(60):
        penalty = gradient_penalty(lambda u: critic(u)[:, 0], x, again, torch.rand(8))
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        values.append(penalty.item())
    assert values[-1] < 0.05 * values[0]
