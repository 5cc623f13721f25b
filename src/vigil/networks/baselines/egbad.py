"""EGBAD (Zenati et al., 2018, arXiv 1802.06222): a BiGAN, whose encoder spares AnoGAN's search.

Legend: B batch, C channels, P patch size in pixels, Z latent channels, F feature channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vigil.networks.baselines.dcgan import SMALLEST_SIDE, DcganPair, Decoder, DownConvolutions, Encoder, sum_of_patch
from vigil.networks.blocks import LEAK
from vigil.networks.system import PairOutputs, PairSpec

RECONSTRUCTION_WEIGHT = 0.9
"""alpha of the anomaly score."""


class BidirectionalGenerator(nn.Module):
    """G: z -> x and E: x -> z, which are one player against the discriminator."""

    def __init__(self, channels: int, widths: list[int], latent_channels: int) -> None:
        super().__init__()
        self.decoder = Decoder(channels, widths, latent_channels)
        self.encoder = Encoder(channels, widths, latent_channels)


class JointDiscriminator(nn.Module):
    """Of a patch and a latent vector: do they come of (x, E(x)) or of (G(z), z)?

    Both are brought to F channels and go side by side through a linear layer, whose activations are f(x, z); a second
    one gives the verdict.
    """

    def __init__(self, channels: int, widths: list[int], latent_channels: int, features: int) -> None:
        super().__init__()
        self.of_patch = DownConvolutions(channels, widths)
        # Linear layers, written as convolutions: a matrix product may add in another order in another place of a batch.
        self.of_patch_joined = nn.Conv2d(widths[-1], features, SMALLEST_SIDE)
        self.of_latent = nn.Conv2d(latent_channels, features, 1)
        self.joint = nn.Conv2d(2 * features, features, 1)
        self.verdict = nn.Conv2d(features, 1, 1)
        self.activation = nn.LeakyReLU(LEAK)

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B] and features [B, F] of x [B, C, P, P] with z [B, Z], float32; high logits say (x, E(x))."""
        both = torch.cat([self.of_patch_joined(self.of_patch(x)), self.of_latent(z[:, :, None, None])], dim=1)
        features = self.activation(self.joint(self.activation(both)))
        return self.verdict(features).float().flatten(), features.float().flatten(1)


class Egbad(DcganPair):
    """A generator with an encoder, and a discriminator of pairs.

    differs from the paper: no dropout in the discriminator, as training's randomness is a function of seed and images
    seen alone; widths are the model section's, and `feature_channels` is the width of the discriminator's linear layers
    (the paper's: 512 and 1024).
    """

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        model = spec.model
        self.generator = BidirectionalGenerator(spec.channels, self.widths(model.base_width), model.latent_channels)
        widths = self.widths(model.discriminator_width)
        self.discriminator = JointDiscriminator(spec.channels, widths, model.latent_channels, model.feature_channels)

    def outputs(self, x: Tensor) -> PairOutputs:
        """G(E(x)), and f(x, E(x)) against f(G(E(x)), E(x)); the score is alpha L_G + (1 - alpha) L_D, both sums.

        L_D is the feature-matching variant, which the paper found better than the cross entropy.
        """
        z = self.generator.encoder(x)
        reconstruction = self.generator.decoder(z)
        features_x, features_reconstruction = (self.discriminator(images, z)[1] for images in (x, reconstruction))
        residual, matching = sum_of_patch((x - reconstruction).abs()), features_x - features_reconstruction
        published = RECONSTRUCTION_WEIGHT * residual + (1 - RECONSTRUCTION_WEIGHT) * sum_of_patch(matching.abs())
        return PairOutputs(reconstruction, features_x, features_reconstruction, published=published)
