"""What makes each system itself, as far as its training says it."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests.tiny_systems import placed_patches, smooth_patches, tiny_spec
from tests.unit.training.make_patches import train_section
from vigil.networks.pair import build_pair
from vigil.training.baselines.patch_svdd import almost_the_same, beside
from vigil.training.losses import adversarial_discriminator_loss
from vigil.training.steps import Batch, make_players, move
from vigil.training.systems import training_step


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def trained(fabric, name, steps, x, **changes):
    spec = tiny_spec(name, channels=x.shape[1])
    players = make_players(build_pair(spec, 0).train(), train_section(**changes))
    losses = [training_step(fabric, players, Batch(x, None, None, 0, n * len(x), 0)) for n in range(steps)]
    return players, losses


def test_egbads_discriminator_learns_to_tell_the_two_kinds_of_pairs_apart(fabric):
    """(x, E(x)) from (G(z), z), generator and encoder standing still."""
    players = make_players(build_pair(tiny_spec("egbad"), 0).train(), train_section(learning_rate=2e-3))
    pair, x, z = players.pair, smooth_patches(16), torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        generated, encoded = pair.generator.decoder(z), pair.generator.encoder(x)
    losses = []
    for _ in range(40):
        real, fake = pair.discriminator(x, encoded)[0], pair.discriminator(generated, z)[0]
        losses.append(move(fabric, players, "discriminator", {"loss": adversarial_discriminator_loss(real, fake)}))
    assert losses[0]["loss"] == pytest.approx(1.386, abs=0.1)
    assert losses[-1]["loss"] < 0.3
    assert real.min() > 0 > fake.max()


def test_dagans_discriminator_learns_to_reconstruct_what_is_real_better_than_what_is_not(fabric):
    """Patches against noise, which no generator moves."""
    players = make_players(build_pair(tiny_spec("dagan"), 0).train(), train_section(learning_rate=2e-3))
    discriminator, x = players.pair.discriminator, smooth_patches(16)
    other = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    losses = []
    for _ in range(25):
        real, fake = (discriminator(images)[0] for images in (x, other))
        losses.append(
            move(fabric, players, "discriminator", {"loss": (real - x).abs().mean() - (fake - other).abs().mean()})
        )
    assert losses[-1]["loss"] < losses[0]["loss"] - 0.2


def test_patch_svdds_classifier_learns_where_the_other_window_lies_and_embeddings_do_not_collapse(fabric):
    x = placed_patches(32)
    players, losses = trained(fabric, "patch_svdd", 60, x, learning_rate=5e-3)
    chance = 2 * np.log(8)  # of both sizes
    assert losses[0].self_supervised_loss == pytest.approx(chance, rel=0.2)
    assert losses[-1].self_supervised_loss < 0.75 * chance
    with torch.no_grad():
        spread = {size: e.std(dim=(0, 2, 3)).mean().item() for size, e in players.pair.eval().encoder(x).items()}
        near = losses[-1].latent_loss / 2
    assert min(spread.values()) > 0.05
    assert min(spread.values()) > near / 8**0.5 / 2  # windows differ by more than neighbours do, per channel


def test_without_the_classifier_patch_svdds_embeddings_do_collapse(fabric):
    """So that the test above can fail, and since the paper says that it happens."""
    x = placed_patches(32)
    weights = {"latent": 1.0, "self_supervision": 0.0}
    players, _ = trained(fabric, "patch_svdd", 60, x, learning_rate=5e-3, weights=weights)
    with torch.no_grad():
        spread = {size: e.std(dim=(0, 2, 3)).mean().item() for size, e in players.pair.eval().encoder(x).items()}
    assert max(spread.values()) < 0.05


@pytest.mark.parametrize("kernel", [8, 16])
def test_second_windows_lie_where_the_position_says_and_all_lie_in_the_patch(kernel):
    pairs = beside(np.random.default_rng(0), 500, 32, kernel)
    assert set(pairs.position.tolist()) == set(range(8))
    for corners in pairs[:2]:
        assert corners.min() >= 0
        assert corners.max() <= 32 - kernel
    towards = {0: (-1, -1), 1: (-1, 0), 2: (-1, 1), 3: (0, -1), 4: (0, 1), 5: (1, -1), 6: (1, 0), 7: (1, 1)}
    moved = pairs.second - pairs.first
    assert np.array_equal(np.sign(moved), [towards[p] for p in pairs.position.tolist()])
    away = np.abs(moved[moved != 0])
    assert away.min() >= 3 * kernel // 4
    assert away.max() < kernel


@pytest.mark.parametrize("kernel", [8, 64])
def test_windows_that_are_almost_the_same_differ_by_a_step(kernel):
    one, other = almost_the_same(np.random.default_rng(0), 500, 128, kernel)
    step = np.abs(one - other).max(axis=1)
    assert step.min() == 1
    assert step.max() == max(kernel // 32, 1)
    assert min(one.min(), other.min()) >= 0
    assert max(one.max(), other.max()) <= 128 - kernel
