"""The convolution that both networks are made of, with spectral normalisation and an activation.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Layer = TypeVar("Layer", bound=nn.Module)

LEAK = 0.2
"""Slope of the discriminator's LeakyReLU below zero."""


class Convolution(nn.Conv2d):
    """A 2D convolution whose spectral norm is computed in 32 bits, also under autocast.

    In 16 bits the norm is off by up to 0.4 %, and the weights used in training would differ from those in scoring.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W']."""
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class FullyConnected(nn.Linear):
    """A linear layer that is computed in 32 bits, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in] -> [B, C_out]."""
        with torch.autocast(x.device.type, enabled=False):
            output: Tensor = nn.functional.linear(x.float(), self.weight, self.bias)
        return output


def convolution(channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1, normed: bool) -> Convolution:
    """A convolution that keeps H and W (odd kernel, stride 1) or halves even ones (kernel 4, stride 2).

    Args:
        normed: Divide the weights by their largest singular value (spectral normalisation, one power iteration per
            forward pass in training mode, none in evaluation mode).
    """
    layer = Convolution(channels_in, channels_out, kernel, stride, padding=(kernel - 1) // 2)
    return with_spectral_norm(layer) if normed else layer


def with_spectral_norm(layer: Layer) -> Layer:
    """The same layer, its weights divided by their largest singular value; the estimate is part of the state dict."""
    spectral_norm(layer)
    return layer


def conv_block(channels_in: int, channels_out: int, *, stride: int = 1, normed: bool) -> nn.Sequential:
    """H of Eq. (1), arXiv 2211.13808: ONE convolution, spectral normalisation, ReLU.

    The text says "Convolution Operation followed by an activation function". Stride 1: 3x3. Stride 2: 4x4, so that
    every input pixel has the same number of outputs.
    """
    kernel = 3 if stride == 1 else 4
    return nn.Sequential(convolution(channels_in, channels_out, kernel=kernel, stride=stride, normed=normed), nn.ReLU())
