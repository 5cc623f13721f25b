"""The self-supervised trunk: turns as NumPy turns, its loss by hand, and no patch that sees another."""

import math

import numpy as np
import pytest
import torch

from tests.unit.networks.test_network_shapes import SMALL
from vigil.config import SelfSupervisionSection
from vigil.networks.pair import PairSpec, build_pair
from vigil.networks.self_supervision import turn_loss, turn_outputs, turned

TRUNK = SelfSupervisionSection(enabled=True, width=8, blocks=2)
MODEL = SMALL.model_copy(update={"self_supervision": TRUNK})


@pytest.fixture(scope="module")
def trunk():
    trunk = build_pair(PairSpec(channels=3, patch_size_px=32, model=MODEL), 0).eval().discriminator.self_supervision
    assert trunk is not None
    return trunk


def patches(count):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_turn_is_that_of_numpy(quarters):
    x = patches(2)
    assert np.array_equal(turned(x, quarters).numpy(), np.rot90(x.numpy(), quarters, (2, 3)))


def test_the_loss_of_a_turn_is_minus_its_log_probability():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    expected = [math.log(4), -math.log(1 / (math.exp(2) + 3))]
    assert turn_loss(logits, torch.tensor([3, 1])).tolist() == pytest.approx(expected)


def test_the_score_is_the_mean_over_four_turns_by_plain_numpy(trunk):
    x = patches(3)
    with torch.no_grad():
        found = turn_outputs(trunk, x)
        for number in range(3):
            losses = []
            for quarters in range(4):
                view = np.ascontiguousarray(np.rot90(x[number].numpy(), quarters, (1, 2)))
                logits = trunk(torch.from_numpy(view)[None]).logits[0].numpy().astype(np.float64)
                losses.append(np.log(np.exp(logits).sum()) - logits[quarters])
            assert found.loss[number].item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.features.shape == (3, 4, 32)


def test_a_patch_and_its_turns_score_the_same_up_to_their_order(trunk):
    """The four features of a turned patch are those of the patch, one place on."""
    x = patches(2)
    with torch.no_grad():
        there, one_on = turn_outputs(trunk, x).features, turn_outputs(trunk, turned(x, 1)).features
    torch.testing.assert_close(one_on, there.roll(-1, dims=1))


def test_no_patch_sees_another_also_in_training_mode(trunk):
    x = patches(6)
    with torch.no_grad():
        alone, together = trunk(x[:1]).logits, trunk(torch.cat([x[:1], 100 * x[1:]])).logits
        trunk.train()
        in_training = trunk(x[:1]).logits
        trunk.eval()
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(in_training, alone)


def test_a_trunk_leaves_the_other_weights_as_they_are_without_it():
    plain = build_pair(PairSpec(channels=3, patch_size_px=32, model=SMALL), 5)
    with_trunk = build_pair(PairSpec(channels=3, patch_size_px=32, model=MODEL), 5)
    for name, tensor in plain.generator.state_dict().items():
        assert torch.equal(with_trunk.generator.state_dict()[name], tensor), name
    for name, tensor in plain.discriminator.state_dict().items():
        assert torch.equal(with_trunk.discriminator.state_dict()[name], tensor), name
