"""Every loss against plain NumPy in float64, written from the equations."""

import numpy as np
import pytest
import torch

from vigil.config import LossWeights
from vigil.training.losses import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    contextual_loss,
    feature_loss,
    latent_loss,
    total_loss,
)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def test_discriminator_loss_is_minus_eq_2(rng):
    real, fake = rng.normal(0, 2, 50), rng.normal(0, 2, 50)
    expected = -(np.log(sigmoid(real)).mean() + np.log(1 - sigmoid(fake)).mean())
    found = adversarial_discriminator_loss(torch.tensor(real), torch.tensor(fake))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_discriminator_loss_at_chance_is_2_ln_2():
    zeros = torch.zeros(4, dtype=torch.float64)
    assert adversarial_discriminator_loss(zeros, zeros).item() == pytest.approx(2 * np.log(2), rel=1e-15)


def test_generator_loss_is_the_non_saturating_side_of_eq_2(rng):
    fake = rng.normal(0, 2, 50)
    expected = -np.log(sigmoid(fake)).mean()
    assert adversarial_generator_loss(torch.tensor(fake)).item() == pytest.approx(expected, rel=1e-12)


def test_both_forms_of_the_generators_loss_pull_the_same_way(rng):
    """The paper's literal E[log(1 - D)] and ours fall together; ours keeps its slope where D is sure of a fake."""
    fake = torch.tensor([-20.0, 0.0, 20.0], dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(adversarial_generator_loss(fake), fake)
    (literal,) = torch.autograd.grad(torch.log(1 - torch.sigmoid(fake[:2])).sum(), fake)
    assert (ours < 0).all()
    assert (literal[:2] < 0).all()
    assert ours[0].item() == pytest.approx(-1 / 3, abs=1e-6)
    assert abs(literal[0].item()) < 1e-8


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_losses_stay_finite_where_the_sigmoid_saturates(logit):
    logits = torch.full((3,), logit, requires_grad=True)
    loss = adversarial_discriminator_loss(logits, logits) + adversarial_generator_loss(logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_contextual_loss_is_eq_3(rng):
    x, reconstruction = rng.uniform(-1, 1, (2, 5, 3, 8, 8))
    expected = sum(abs(a - b) for a, b in zip(x.ravel(), reconstruction.ravel(), strict=True)) / x.size
    found = contextual_loss(torch.tensor(x), torch.tensor(reconstruction))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_latent_loss_is_eq_4(rng):
    features_x, features_reconstruction = rng.normal(0, 3, (2, 5, 16, 4, 4))
    expected = sum(abs(a - b) for a, b in zip(features_x.ravel(), features_reconstruction.ravel(), strict=True))
    found = latent_loss(torch.tensor(features_x), torch.tensor(features_reconstruction))
    assert found.item() == pytest.approx(expected / features_x.size, rel=1e-12)


def test_feature_loss_is_1_less_the_cosine_of_the_features(rng):
    shapes = ((3, 8, 4, 4), (3, 16, 2, 2))
    pairs = [rng.normal(0, 2, (2, *shape)) for shape in shapes]
    per_stage = []
    for a, b in pairs:
        cosines = []
        for batch, y, x in np.ndindex(a.shape[0], *a.shape[2:]):
            u, v = a[batch, :, y, x], b[batch, :, y, x]
            cosines.append(u @ v / np.sqrt((u @ u) * (v @ v)))
        per_stage.append(1 - np.mean(cosines))
    stages = [[torch.tensor(pair[side]) for pair in pairs] for side in (0, 1)]
    assert feature_loss(*stages).item() == pytest.approx(np.mean(per_stage), rel=1e-5)
    assert feature_loss(stages[0], stages[0]).item() == pytest.approx(0, abs=1e-6)


def test_total_is_the_weighted_sum_of_eq_5():
    terms = [torch.tensor(v, dtype=torch.float64) for v in (0.7, 0.11, 0.013)]
    assert total_loss(*terms, LossWeights()).item() == pytest.approx(1 * 0.7 + 40 * 0.11 + 1 * 0.013, rel=1e-15)
    weights = LossWeights(adversarial=2, contextual=3, latent=5)
    assert total_loss(*terms, weights).item() == pytest.approx(2 * 0.7 + 3 * 0.11 + 5 * 0.013, rel=1e-15)
