"""Attention with relative positions against a loop over heads, queries and keys in NumPy (float64)."""

import numpy as np
import pytest
import torch

from vigil.config import AttentionSection
from vigil.networks.attention import AugmentedConvolution, RelativeSelfAttention
from vigil.networks.initialization import initialize


def pointwise(layer: torch.nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution of [C, H, W]."""
    weight = layer.weight.detach().double().numpy()[:, :, 0, 0]
    return np.einsum("oc,chw->ohw", weight, x) + layer.bias.detach().double().numpy()[:, None, None]


def attended(attention: RelativeSelfAttention, x: np.ndarray, section: AttentionSection) -> np.ndarray:
    """The attention's output for one input [C, H, W], one logit at a time."""
    side = x.shape[1]
    qkv = pointwise(attention.queries_keys_values, x)
    keys, values = section.key_channels, section.value_channels
    q, k, v = qkv[:keys], qkv[keys : 2 * keys], qkv[2 * keys :]
    dk, dv = keys // section.heads, values // section.heads
    relative_height = attention.relative_height.detach().double().numpy()
    relative_width = attention.relative_width.detach().double().numpy()
    out = np.zeros((values, side, side))
    for head in range(section.heads):
        query, key = q[head * dk : (head + 1) * dk], k[head * dk : (head + 1) * dk]
        value = v[head * dv : (head + 1) * dv]
        for y in range(side):
            for x_ in range(side):
                logits = np.empty((side, side))
                for b in range(side):
                    for a in range(side):
                        offset = relative_height[b - y + side - 1] + relative_width[a - x_ + side - 1]
                        logits[b, a] = query[:, y, x_] @ (key[:, b, a] + offset) / np.sqrt(dk)
                weights = np.exp(logits - logits.max())
                weights /= weights.sum()
                out[head * dv : (head + 1) * dv, y, x_] = (value * weights).sum((1, 2))
    return pointwise(attention.projection, out)


@pytest.mark.parametrize("normed", [True, False])
def test_attention_equals_a_loop_over_positions(normed):
    section = AttentionSection(heads=2, key_channels=6, value_channels=4)
    attention = RelativeSelfAttention(5, 4, section, normed=normed).eval()
    initialize(attention, torch.Generator().manual_seed(0))
    x = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(1)) * 3
    expected = np.stack([attended(attention, one, section) for one in x.double().numpy()])
    with torch.no_grad():
        found = attention(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)

    # The position encodings matter in this test: without them the answer is another.
    with torch.no_grad():
        attention.relative_height.zero_()
        attention.relative_width.zero_()
        assert np.abs(attention(x).numpy() - expected).max() > 1e-3


def test_augmented_convolution_keeps_both_branches_side_by_side():
    section = AttentionSection(heads=2, key_channels=4, value_channels=4)
    layer = AugmentedConvolution(6, 10, 4, section, normed=True).eval()
    x = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = layer(x)
        assert out.shape == (2, 10, 4, 4)
        assert torch.equal(out[:, :6], layer.convolution(x))
        assert torch.equal(out[:, 6:], layer.attention(x))


def test_attention_refuses_a_grid_that_it_was_not_built_for():
    section = AttentionSection(heads=2, key_channels=4, value_channels=4)
    with pytest.raises(ValueError, match="built for 4x4 positions, got 5x4"):
        RelativeSelfAttention(5, 4, section, normed=False)(torch.zeros(1, 5, 5, 4))
