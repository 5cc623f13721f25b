"""DAGAN (Tang et al., 2020, Sensors 20(12) 3336): generator and discriminator are both auto-encoders.

Legend: B batch, C channels, P patch size in pixels, Z latent channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from vigil.networks.baselines.dcgan import DcganPair, Decoder, Encoder
from vigil.networks.baselines.skip_ganomaly import SkipGenerator, residual_and_latent
from vigil.networks.generator import level_widths
from vigil.networks.system import PairOutputs, PairSpec


class AutoencodingDiscriminator(nn.Module):
    """Reconstructs patches that look real and fails on those that do not; its latent vector is f(x). No skips."""

    def __init__(self, channels: int, widths: list[int], latent_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(channels, widths, latent_channels)
        self.decoder = Decoder(channels, widths, latent_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """D(x) [B, C, P, P] in [-1, 1] and f(x) [B, Z], float32."""
        z = self.encoder(x)
        return self.decoder(z), z


class Dagan(DcganPair):
    """A generator with skips, and a discriminator that is an auto-encoder too.

    differs from the paper: built from its abstract and from what later work says of it, since its equations were not at
    hand. The game of the two auto-encoders is that of arXiv 1902.06924 (Vu et al., 2019), the score Skip-GANomaly's.
    """

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        model = spec.model
        self.generator = SkipGenerator(spec.channels, level_widths(model)[: model.depth])
        widths = self.widths(model.discriminator_width)
        self.discriminator = AutoencodingDiscriminator(spec.channels, widths, model.latent_channels)

    def outputs(self, x: Tensor) -> PairOutputs:
        """x^, and the discriminator's latent vectors f(x) and f(x^); the score as Skip-GANomaly's."""
        reconstruction = self.generator(x)
        features_x, features_reconstruction = (self.discriminator.encoder(images) for images in (x, reconstruction))
        published = residual_and_latent(x, reconstruction, features_x, features_reconstruction)
        return PairOutputs(reconstruction, features_x, features_reconstruction, published=published)
