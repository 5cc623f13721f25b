"""A U-Net (Ronneberger et al., 2015, arXiv 1505.04597) that reconstructs its input, as an auto-encoder.

Legend: B batch, C channels, P patch size in pixels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from vigil.networks.baselines.dcgan import mean_of_patch
from vigil.networks.blocks import conv_block, convolution
from vigil.networks.generator import level_widths
from vigil.networks.system import Pair, PairOutputs, PairSpec


def _two(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        conv_block(channels_in, channels_out, normed=False), conv_block(channels_out, channels_out, normed=False)
    )


class UNet(nn.Module):
    """Two 3x3 convolutions with ReLU per level, 2x2 maxima downwards, 2x2 transposed convolutions upwards, skips.

    differs from the paper: convolutions keep H and W; the last 1x1 convolution goes through tanh and gives a patch,
    where the paper's gives a segmentation.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        """
        Args:
            channels: Of the patches.
            widths: Channels of each level, full resolution first.
        """
        super().__init__()
        self.down = nn.ModuleList(_two(above, width) for above, width in itertools.pairwise([channels, *widths]))
        upwards = list(itertools.pairwise(reversed(widths)))
        self.raised = nn.ModuleList(nn.ConvTranspose2d(below, width, 2, 2) for below, width in upwards)
        self.up = nn.ModuleList(_two(2 * width, width) for _, width in upwards)
        self.output = convolution(widths[0], channels, kernel=1, normed=False)

    def forward(self, x: Tensor) -> Tensor:
        """x^ [B, C, P, P] float32 in [-1, 1] of x [B, C, P, P]; P a multiple of 2**depth."""
        levels = [self.down[0](x)]
        for block in self.down[1:]:
            levels.append(block(nn.functional.max_pool2d(levels[-1], 2)))
        h = levels.pop()
        for raised, block in zip(self.raised, self.up, strict=True):
            h = block(torch.cat([levels.pop(), raised(h)], dim=1))
        return torch.tanh(self.output(h).float())


class UNetAutoencoder(Pair):
    """One network; the score is its reconstruction error, the mean of |x - x^|."""

    NETWORKS = ("generator",)

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        self.generator = UNet(spec.channels, level_widths(spec.model))

    def outputs(self, x: Tensor) -> PairOutputs:
        """x^ and the error; there are no features."""
        reconstruction = self.generator(x)
        return PairOutputs(reconstruction, None, None, published=mean_of_patch((x - reconstruction).abs()))
