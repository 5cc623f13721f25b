"""GANomaly (Akcay et al., 2018, arXiv 1805.06725): encoder, decoder, encoder; the score compares latent vectors.

Legend: B batch, C channels, P patch size in pixels, Z latent channels, F feature channels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from vigil.networks.baselines.dcgan import DcganPair, Decoder, Discriminator, Encoder, mean_of_patch
from vigil.networks.system import PairOutputs, PairSpec


class Encoded(NamedTuple):
    """What the generator makes of patches."""

    reconstruction: Tensor
    """x^ [B, C, P, P]."""
    z: Tensor
    """G_E(x) [B, Z]."""
    z_again: Tensor
    """E(x^) [B, Z]."""


class EncoderDecoderEncoder(nn.Module):
    """x -> z = G_E(x) -> x^ = G_D(z) -> z^ = E(x^); G_E and E have the same shape and their own weights."""

    def __init__(self, channels: int, widths: list[int], latent_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(channels, widths, latent_channels)
        self.decoder = Decoder(channels, widths, latent_channels)
        self.encoder_again = Encoder(channels, widths, latent_channels)

    def forward(self, x: Tensor) -> Encoded:
        """All three of x [B, C, P, P]."""
        z = self.encoder(x)
        reconstruction = self.decoder(z)
        return Encoded(reconstruction, z, self.encoder_again(reconstruction))


class Ganomaly(DcganPair):
    """The generator of three parts, and DCGAN's discriminator, which serves in training alone."""

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        model = spec.model
        self.generator = EncoderDecoderEncoder(spec.channels, self.widths(model.base_width), model.latent_channels)
        self.discriminator = Discriminator(spec.channels, self.widths(model.discriminator_width))

    def outputs(self, x: Tensor) -> PairOutputs:
        """x^, and the latent vectors as features; the score is that of arXiv 1805.06725, |G_E(x) - E(x^)|.

        differs from the paper: the mean over the latent channels, not the sum; no scaling by the extremes of the test
        set, which changes no ranking.
        """
        found = self.generator(x)
        published = mean_of_patch((found.z - found.z_again).abs())
        return PairOutputs(found.reconstruction, found.z, found.z_again, published=published)
