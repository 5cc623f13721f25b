"""Eq. (1) as an independent loop over (i, j) that uses nothing of the generator but its convolutions."""

import numpy as np
import pytest
import torch

from vigil.config import ModelSection
from vigil.networks.generator import DenseSkipGenerator


def doubled(x: np.ndarray) -> np.ndarray:
    """Nearest-neighbour upsampling, pixel by pixel."""
    out = np.empty((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), x.dtype)
    for y in range(out.shape[2]):
        for c in range(out.shape[3]):
            out[:, :, y, c] = x[:, :, y // 2, c // 2]
    return out


def convolved(x: np.ndarray, layer: torch.nn.Conv2d) -> np.ndarray:
    """A convolution in float64, one output position at a time, with the layer's own (normed) weights."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    stride, pad, kernel = layer.stride[0], layer.padding[0], layer.kernel_size[0]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    side = (x.shape[2] - kernel) // stride + 1
    out = np.empty((x.shape[0], weight.shape[0], side, side))
    for row in range(side):
        for column in range(side):
            top, left = row * stride, column * stride
            window = x[:, None, :, top : top + kernel, left : left + kernel]
            out[:, :, row, column] = (window * weight[None]).sum((2, 3, 4)) + bias
    return out


def generated(generator: DenseSkipGenerator, x: np.ndarray, depth: int) -> tuple[np.ndarray, dict]:
    """Eq. (1) literally, and what was concatenated at each node."""

    def h(i: int, j: int, value: np.ndarray) -> np.ndarray:
        return np.maximum(convolved(value, generator.blocks[f"{i}_{j}"][0]), 0)

    node, concatenated = {}, {}
    for j in range(depth + 1):
        for i in range(depth - j + 1):
            if j == 0:
                node[i, 0] = h(i, 0, x if i == 0 else node[i - 1, 0])
            else:
                parts = [node[i, k] for k in range(j)] + [doubled(node[i + 1, j - 1])]
                concatenated[i, j] = [p.shape[1] for p in parts]
                node[i, j] = h(i, j, np.concatenate(parts, axis=1))
    return np.tanh(convolved(node[0, depth], generator.output)), concatenated


@pytest.mark.parametrize("depth", [2, 3])
def test_generator_equals_a_naive_loop_over_eq_1(depth):
    torch.manual_seed(depth)
    generator = DenseSkipGenerator(2, ModelSection(base_width=4, depth=depth)).eval()
    x = torch.rand(2, 2, 16, 16) * 2 - 1
    expected, concatenated = generated(generator, x.double().numpy(), depth)
    with torch.no_grad():
        found = generator(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert found.std() > 0.01

    # Every block's input is as wide as the concatenation of Eq. (1), and no block goes unused.
    widths = {key: block[0].in_channels for key, block in generator.blocks.items() if not key.endswith("_0")}
    assert widths == {f"{i}_{j}": sum(parts) for (i, j), parts in concatenated.items()}
    assert concatenated[0, depth] == [4] * depth + [8]


def test_every_node_reaches_the_output():
    """Zeroing any single node changes the reconstruction: all concatenations are wired through."""
    torch.manual_seed(0)
    generator = DenseSkipGenerator(1, ModelSection(base_width=4, depth=3)).eval()
    x = torch.rand(1, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        whole = generator(x)
        assert len(generator.blocks) == 10
        for key, block in generator.blocks.items():
            hook = block.register_forward_hook(lambda _m, _i, output: torch.zeros_like(output))
            assert not torch.equal(generator(x), whole), key
            hook.remove()
        assert torch.equal(generator(x), whole)
