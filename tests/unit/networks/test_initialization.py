"""Every parameter is drawn from the seed, and nothing else is touched."""

import pytest
import torch
from torch import nn

from tests.unit.networks.test_network_shapes import SMALL
from vigil.networks.initialization import initialize
from vigil.networks.pair import PairSpec, build_pair

SPEC = PairSpec(channels=3, patch_size_px=32, model=SMALL)


def state(pair):
    networks = (pair.generator, pair.discriminator)
    return {(i, name): tensor for i, n in enumerate(networks) for name, tensor in n.state_dict().items()}


def test_initialisation_reaches_every_parameter_and_every_power_iteration_vector():
    pair = build_pair(SPEC, 0)
    for network in (pair.generator, pair.discriminator):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.fill_(7.0)
        initialize(network, torch.Generator().manual_seed(1))
        untouched = [name for name, tensor in network.state_dict().items() if (tensor == 7.0).any()]
        assert untouched == []


def test_weights_follow_the_promised_distribution():
    layer = nn.Sequential(nn.Conv2d(64, 256, 3))
    initialize(layer, torch.Generator().manual_seed(0))
    expected = (2 / (1 + 0.2**2) / (64 * 9)) ** 0.5
    assert layer[0].weight.std().item() == pytest.approx(expected, rel=0.01)
    assert layer[0].bias.abs().max() == 0


def test_spectral_norms_fit_the_new_weights():
    pair = build_pair(SPEC, 3).eval()
    sigmas = [
        torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2).item()
        for network in (pair.generator, pair.discriminator)
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and hasattr(m, "parametrizations")
    ]
    assert len(sigmas) > 10
    assert min(sigmas) > 0.95
    assert max(sigmas) < 1.05


def test_equal_seeds_give_equal_pairs_and_others_differ():
    first, again, other = (state(build_pair(SPEC, seed)) for seed in (5, 5, 6))
    assert all(torch.equal(first[k], again[k]) for k in first)
    weights = [k for k in first if "original" in k[1]]
    assert weights
    assert not any(torch.equal(first[k], other[k]) for k in weights)


def test_the_global_random_state_is_neither_used_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = state(build_pair(SPEC, 5))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = state(build_pair(SPEC, 5))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_an_unknown_kind_of_parameter_is_an_error():
    with pytest.raises(TypeError, match=r"without a rule for their starting values: \['1.weight', '1.bias'\]"):
        initialize(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), torch.Generator())
