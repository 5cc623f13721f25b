"""Skip-GANomaly (Akcay et al., 2019, arXiv 1901.08954): an encoder-decoder with skips, and a discriminator's features.

Legend: B batch, C channels, P patch size in pixels, F feature channels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from vigil.networks.baselines.dcgan import DcganPair, Discriminator, mean_of_patch
from vigil.networks.blocks import LEAK
from vigil.networks.generator import level_widths
from vigil.networks.system import PairOutputs, PairSpec

RESIDUAL_WEIGHT = 0.9
"""lambda of the anomaly score."""


class SkipGenerator(nn.Module):
    """An encoder-decoder whose levels are joined by skips: convolution, batch normalisation, LeakyReLU downwards;
    transposed convolution, batch normalisation, ReLU upwards.

    `depth` levels, each halving H and W; published for 32 px are 5, down to a single position.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        """
        Args:
            channels: Of the patches.
            widths: Channels of each level below full resolution.
        """
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(above, width, 4, 2, 1, bias=level == 0),
                *([] if level == 0 else [nn.BatchNorm2d(width)]),
                nn.LeakyReLU(LEAK),
            )
            for level, (above, width) in enumerate(itertools.pairwise([channels, *widths]))
        )
        upwards = list(reversed(widths))
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(width if level == 0 else 2 * width, below, 4, 2, 1, bias=False),
                nn.BatchNorm2d(below),
                nn.ReLU(),
            )
            for level, (width, below) in enumerate(itertools.pairwise(upwards))
        )
        self.output = nn.ConvTranspose2d(2 * widths[0] if len(widths) > 1 else widths[0], channels, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x^ [B, C, P, P] float32 in [-1, 1] of x [B, C, P, P]; P a multiple of 2**depth."""
        levels = []
        h = x
        for block in self.down:
            h = block(h)
            levels.append(h)
        for block, level in zip(self.up, reversed(levels[:-1]), strict=True):
            h = torch.cat([block(h), level], dim=1)
        return torch.tanh(self.output(h).float())


class SkipGanomaly(DcganPair):
    """The generator with skips, and DCGAN's discriminator, whose last maps are f(x)."""

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        self.generator = SkipGenerator(spec.channels, level_widths(spec.model)[: spec.model.depth])
        self.discriminator = Discriminator(spec.channels, self.widths(spec.model.discriminator_width))

    def outputs(self, x: Tensor) -> PairOutputs:
        """x^, f(x) and f(x^); the score is that of arXiv 1901.08954, lambda R + (1 - lambda) L.

        R is the mean of |x - x^|, L the mean of (f(x) - f(x^))^2.

        differs from the paper: means, where it writes norms; no scaling by the extremes of the test set.
        """
        reconstruction = self.generator(x)
        features_x, features_reconstruction = (self.discriminator(images)[1] for images in (x, reconstruction))
        published = residual_and_latent(x, reconstruction, features_x, features_reconstruction)
        return PairOutputs(reconstruction, features_x, features_reconstruction, published=published)


def residual_and_latent(x: Tensor, reconstruction: Tensor, features_x: Tensor, features_again: Tensor) -> Tensor:
    """lambda mean |x - x^| + (1 - lambda) mean (f(x) - f(x^))^2, [B] float64."""
    residual, latent = (x - reconstruction).abs(), (features_x - features_again).square()
    return RESIDUAL_WEIGHT * mean_of_patch(residual) + (1 - RESIDUAL_WEIGHT) * mean_of_patch(latent)
