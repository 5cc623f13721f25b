"""The memory of a pair: how normal training patches lie in the discriminator's features.

Beyond arXiv 2211.13808. One Gaussian per slot, its covariance shrunk (Ledoit & Wolf, 2004); a patch far from the mean,
in units of the spread of normal patches (Mahalanobis), does not look like training.

Legend: B batch, C channels of a patch, P patch size, S slots, D feature channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vigil.config import ModelSection
from vigil.networks.discriminator import AttentionDiscriminator
from vigil.networks.self_supervision import TURNS


class Memory(nn.Module):
    """Mean and whitening matrix per slot. Its state is buffers, stored as the networks' weights are.

    4 S D (D + 1) bytes: 1 MiB of a trunk of width 64; of the discriminator 1.4 MiB at width 16 and patches of 64 px,
    3.8 MiB at 128 px, and 30 MiB where all its levels have 256 channels.
    """

    mean: Tensor
    """[S, D] float32."""
    whitening: Tensor
    """[S, D, D] float32; whitened features of normal patches have the covariance 1."""

    def __init__(self, model: ModelSection, discriminator: AttentionDiscriminator) -> None:
        """
        Args:
            model: Says whose features are remembered.
            discriminator: The one whose features they are; fixes S and D.
        """
        super().__init__()
        if model.memory.features == "self_supervision":
            trunk = discriminator.self_supervision
            assert trunk is not None  # the model section says so
            slots, channels = TURNS, trunk.head.in_features
        else:
            slots, channels = 1, discriminator.statistics_channels
        self.register_buffer("mean", torch.zeros(slots, channels))
        self.register_buffer("whitening", torch.zeros(slots, channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """The Mahalanobis distance of each patch, [B, S, D] -> [B] float64.

        The root of its square averaged over slots and channels, about 1 on normal patches. Computed in float64 and
        rounded to float32, so that the order in which a matrix product adds, which may differ between places in a
        batch, does not show.
        """
        centred = features.double() - self.mean.double()
        whitened = torch.einsum("bsd,sde->bse", centred, self.whitening.double())
        return whitened.square().mean(dim=(1, 2)).sqrt().float().double()
