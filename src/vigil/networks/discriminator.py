"""The discriminator: strided convolutions, an attention-augmented convolution, and the features f(x).

Legend: B batch, C channels, F feature channels, P patch size in pixels, h w positions of the features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vigil.config import ModelSection
from vigil.networks.attention import AugmentedConvolution
from vigil.networks.blocks import LEAK, FullyConnected, convolution, with_spectral_norm
from vigil.networks.pointing import PointingDecoder
from vigil.networks.self_supervision import SelfSupervisedTrunk

_SMALLEST_GRID = 8
_MOST_HALVINGS = 4


class DiscriminatorOutput(NamedTuple):
    """What D says of a batch of patches."""

    logits: Tensor
    """[B] float32; sigmoid(logit) = D(x), the probability that the patch is real."""
    features: Tensor
    """[B, F, h, w] float32; f(x), the last convolution's output."""


def attention_side(patch_size_px: int) -> int:
    """Height and width of the grid on which attention runs: 8 for patches of 32, 64 and 128 px, 16 for 256."""
    halvings = min(int(math.log2(patch_size_px // _SMALLEST_GRID)), _MOST_HALVINGS)
    return int(patch_size_px // 2**halvings)


class AttentionDiscriminator(nn.Module):
    """D: real or reconstructed, and the latent representation f(x) = z of Eq. (4), arXiv 2211.13808.

    4x4 convolutions of stride 2 halve P to the attention grid; then the attention-augmented convolution ("placed
    before the last convolutional layer"); then the last convolution (4x4, stride 2), whose output is f(x); a linear
    layer reads the real/fake logit off LeakyReLU(f(x)). Every layer carries spectral normalisation if the model says
    so. The text names no sizes; those here are ours. No batch normalisation: a patch's output depends on it alone.

    Beyond the paper, where the model says so: `pointing` tells which pixels of a patch are anomalous, and
    `self_supervision` how a patch was turned and shifted.
    """

    def __init__(self, channels: int, patch_size: int, model: ModelSection) -> None:
        """
        Args:
            channels: Channels of the patches, 1 or 3.
            patch_size: P, 32 to 256.
            model: Widths, attention, spectral normalisation.

        Raises:
            ConfigError: The attention's value channels do not fit into the layer that it augments.
        """
        super().__init__()
        normed, side = model.spectral_norm, attention_side(patch_size)
        halvings = int(math.log2(patch_size // side))
        widths = [min(model.discriminator_width * 2**level, model.max_width) for level in range(halvings)]
        layers: list[nn.Module] = []
        for above, width in zip([channels, *widths], widths, strict=False):
            layers += [convolution(above, width, kernel=4, stride=2, normed=normed), nn.LeakyReLU(LEAK)]
        self.strided = nn.Sequential(*layers)
        self.statistics_channels = 2 * (sum(widths) + widths[-1] + model.feature_channels)
        """D of `statistics`."""
        self.augmented = (
            AugmentedConvolution(widths[-1], widths[-1], side, model.attention, normed=normed)
            if model.attention.enabled
            else convolution(widths[-1], widths[-1], normed=normed)
        )
        self.last = convolution(widths[-1], model.feature_channels, kernel=4, stride=2, normed=normed)
        verdict = FullyConnected(model.feature_channels * (side // 2) ** 2, 1)
        self.verdict = with_spectral_norm(verdict) if normed else verdict
        self.activation = nn.LeakyReLU(LEAK)
        self.pointing = PointingDecoder(channels, model) if model.pointing else None
        self.self_supervision = SelfSupervisedTrunk(channels, model) if model.self_supervision.enabled else None

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        """Logits and features of x [B, C, P, P] in [-1, 1]."""
        features = self.last(self.activation(self.augmented(self.strided(x)))).float()
        logits = self.verdict(self.activation(features).flatten(1))[:, 0]
        return DiscriminatorOutput(logits, features)

    def statistics(self, x: Tensor) -> Tensor:
        """Mean and standard deviation over positions of every activation, [B, C, P, P] -> [B, D] float32.

        The activations: each strided level, the attention-augmented maps, and f(x).
        """
        levels, h = [], x
        for layer in self.strided:
            h = layer(h)
            if isinstance(layer, nn.LeakyReLU):
                levels.append(h)
        levels.append(self.activation(self.augmented(h)))
        levels.append(self.activation(self.last(levels[-1])))
        spread = [level.float().std(dim=(2, 3), correction=0) for level in levels]
        return torch.cat([*(level.float().mean(dim=(2, 3)) for level in levels), *spread], dim=1)
