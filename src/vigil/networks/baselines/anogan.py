"""AnoGAN (Schlegl et al., 2017, arXiv 1703.05921): a DCGAN; a patch is as normal as the best that it can generate.

The latent vector of a patch is searched for by gradient descent (`scoring.latent_search`), which makes this the slowest
system by far.

Legend: B batch, C channels, P patch size in pixels, Z latent channels.
"""

from __future__ import annotations

from torch import Tensor

from vigil.networks.baselines.dcgan import DcganPair, Decoder, Discriminator, sum_of_patch
from vigil.networks.system import PairOutputs, PairSpec


class AnoGan(DcganPair):
    """A generator z -> x and a discriminator, trained against each other on normal patches alone."""

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        model = spec.model
        self.generator = Decoder(spec.channels, self.widths(model.base_width), model.latent_channels)
        self.discriminator = Discriminator(spec.channels, self.widths(model.discriminator_width))

    def outputs_at(self, x: Tensor, z: Tensor) -> PairOutputs:
        """What is said of x [B, C, P, P], z [B, Z] being the latent vectors that were found for it."""
        reconstruction = self.generator(z)
        features_x, features_reconstruction = (self.discriminator(images)[1] for images in (x, reconstruction))
        published = self.search_loss(x, features_x, reconstruction, features_reconstruction)
        return PairOutputs(reconstruction, features_x, features_reconstruction, published=published)

    def search_loss(
        self, x: Tensor, features_x: Tensor, reconstruction: Tensor, features_reconstruction: Tensor
    ) -> Tensor:
        """(1 - lambda) sum |x - G(z)| + lambda sum |f(x) - f(G(z))|, [B] float64; arXiv 1703.05921.

        It is what the search descends along and, where it ends, the anomaly score.
        """
        weight = self.spec.model.latent_search.discrimination_weight
        residual = sum_of_patch((x - reconstruction).abs())
        discrimination = sum_of_patch((features_x - features_reconstruction).abs())
        return (1 - weight) * residual + weight * discrimination
