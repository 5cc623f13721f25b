"""Starting weights: every parameter of a network is drawn from one seeded generator."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from vigil.networks.attention import RelativeSelfAttention
from vigil.networks.blocks import LEAK

_POWER_ITERATIONS = 30


@torch.no_grad()
def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draws all parameters of `network` anew; nothing is left as the constructors made it.

    Convolutions, transposed ones too, and linear layers: He's normal distribution (fan-in, for LeakyReLU), biases zero.
    Position encodings: normal with variance 1 / depth, as in attention-augmented convolutions. Group norms: scale 1,
    shift 0. Spectral norms start from fresh vectors with several power iterations, so that they fit the new weights.

    Raises:
        TypeError: The network holds parameters of a kind that this function does not know.
    """
    seen: set[int] = set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            seen |= _initialize_layer(module, generator)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            seen |= {id(module.weight), id(module.bias)}
        elif isinstance(module, RelativeSelfAttention):
            for encoding in (module.relative_height, module.relative_width):
                encoding.normal_(0.0, encoding.shape[1] ** -0.5, generator=generator)
                seen.add(id(encoding))
    unknown = [name for name, parameter in network.named_parameters() if id(parameter) not in seen]
    if unknown:
        raise TypeError(f"parameters without a rule for their starting values: {unknown}")


def _initialize_layer(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, generator: torch.Generator) -> set[int]:
    norm = _spectral_norm_of(layer)
    weight = layer.weight if norm is None else cast(nn.Parameter, norm.original)
    nn.init.kaiming_normal_(weight, LEAK, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if norm is not None:
        _restart_power_iteration(layer, norm, generator)
    return {id(weight), id(layer.bias)}


def _spectral_norm_of(layer: nn.Module) -> nn.Module | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    return cast(nn.ModuleDict, layer.parametrizations)["weight"]


def _restart_power_iteration(layer: nn.Module, norm: nn.Module, generator: torch.Generator) -> None:
    """Fits the spectral norm's singular vectors to the layer's weights, from a seeded start."""
    for vector in norm.buffers():
        vector.normal_(generator=generator)
    training = layer.training
    layer.train()
    for _ in range(_POWER_ITERATIONS):
        _ = layer.weight  # each access in training mode is one power iteration
    layer.train(training)
