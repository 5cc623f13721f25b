"""What the GAN baselines are made of: DCGAN's convolutions with batch normalisation (arXiv 1511.06434).

Batch normalisation makes a patch's output depend on its batch in training mode. Vigil scores in evaluation mode, where
it does not.

Legend: B batch, C channels, P patch size in pixels, Z latent channels, F feature channels.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from vigil.networks.blocks import LEAK
from vigil.networks.system import Pair

SMALLEST_SIDE = 4
"""Height and width of the lowest feature maps; a 4x4 convolution joins them to the latent vector."""


def halving_widths(first: int, most: int, size: int) -> list[int]:
    """Channels after each halving of `size` pixels down to 4x4: twice as many each, up to `most`."""
    return [min(first * 2**level, most) for level in range(int(math.log2(size // SMALLEST_SIDE)))]


class DownConvolutions(nn.Module):
    """x [B, C, P, P] -> [B, F, 4, 4]: 4x4 convolutions of stride 2, batch normalisation but on the first, LeakyReLU."""

    def __init__(self, channels: int, widths: list[int]) -> None:
        """
        Args:
            channels: Of the patches.
            widths: Channels after each halving.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for level, (above, width) in enumerate(itertools.pairwise([channels, *widths])):
            layers.append(nn.Conv2d(above, width, 4, 2, 1, bias=level == 0))
            layers += [] if level == 0 else [nn.BatchNorm2d(width)]
            layers.append(nn.LeakyReLU(LEAK))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, P, P] -> [B, F, 4, 4]."""
        features: Tensor = self.layers(x)
        return features


class Encoder(nn.Module):
    """x [B, C, P, P] -> z [B, Z]."""

    def __init__(self, channels: int, widths: list[int], latent_channels: int) -> None:
        super().__init__()
        self.down = DownConvolutions(channels, widths)
        self.latent = nn.Conv2d(widths[-1], latent_channels, SMALLEST_SIDE)

    def forward(self, x: Tensor) -> Tensor:
        """The latent vectors, float32."""
        latent: Tensor = self.latent(self.down(x)).float()
        return latent.flatten(1)


class Decoder(nn.Module):
    """z [B, Z] -> x^ [B, C, P, P]: transposed convolutions with batch normalisation and ReLU, the last with tanh."""

    def __init__(self, channels: int, widths: list[int], latent_channels: int) -> None:
        """
        Args:
            channels: Of the patches.
            widths: Channels as an encoder's, highest resolution first.
            latent_channels: Z.
        """
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_channels, widths[-1], SMALLEST_SIDE, bias=False)]
        for width, below in itertools.pairwise(reversed(widths)):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, below, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.ConvTranspose2d(widths[0], channels, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """The patches, float32 in [-1, 1]."""
        return torch.tanh(self.layers(z[:, :, None, None]).float())


class Discriminator(nn.Module):
    """Real or generated, and the features f(x): the last maps before the verdict."""

    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        self.down = DownConvolutions(channels, widths)
        self.verdict = nn.Conv2d(widths[-1], 1, SMALLEST_SIDE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B] and features [B, F, 4, 4] of x [B, C, P, P], float32; sigmoid(logit) = D(x)."""
        features = self.down(x)
        return self.verdict(features).float().flatten(), features.float()


class DcganPair(Pair):
    """A pair whose weights start as DCGAN's do."""

    def widths(self, first: int) -> list[int]:
        """Channels after each halving, from `first` on."""
        return halving_widths(first, self.spec.model.max_width, self.spec.patch_size_px)

    @torch.no_grad()
    def draw_weights(self, network: nn.Module, generator: torch.Generator) -> None:
        """Normal with deviation .02: weights around 0, batch normalisation's scales around 1; all else 0."""
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.weight.normal_(0.0, 0.02, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1.0, 0.02, generator=generator)
            elif list(module.parameters(recurse=False)):
                raise TypeError(f"parameters without a rule for their starting values: {type(module).__name__}")
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def mean_of_patch(values: Tensor) -> Tensor:
    """The mean over all but the first dimension, [B, ...] -> [B] float64."""
    return values.flatten(1).double().mean(dim=1)


def sum_of_patch(values: Tensor) -> Tensor:
    """The sum over all but the first dimension, [B, ...] -> [B] float64."""
    return values.flatten(1).double().sum(dim=1)
