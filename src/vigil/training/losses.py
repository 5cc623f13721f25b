"""The losses of arXiv 2211.13808, one function per equation, and those beyond it.

All are means over the batch, in nats or pixel units.

Legend: B batch, C channels, H W pixels, F feature channels, h w positions. `real` and `fake` are the discriminator's
logits of x and of its reconstruction x^: D(x) = sigmoid(real).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity, l1_loss, softplus

from vigil.config import LossWeights


def adversarial_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-L_adv of Eq. (2), arXiv 2211.13808, which the discriminator minimises (it maximises L_adv).

        -E[log D(x)] - E[log(1 - D(x^))]  =  E[softplus(-real)] + E[softplus(fake)]

    2 ln 2 = 1.386 where the discriminator cannot tell real from fake.

    Args:
        real: Logits [B] of x.
        fake: Logits [B] of x^.
    """
    return softplus(-real).mean() + softplus(fake).mean()


def adversarial_generator_loss(fake: Tensor) -> Tensor:
    """The generator's side of Eq. (2), arXiv 2211.13808, in its non-saturating form.

        -E[log D(x^)]  =  E[softplus(-fake)]

    differs from the paper: read literally, the generator minimises E[log(1 - D(x^))], "the second part of the
    equation". Its gradient vanishes where the discriminator is sure, so the work that the paper cites for this loss
    trains the generator to maximise log D(x^) instead; both have the same fixed point, D(x^) = 1.

    Args:
        fake: Logits [B] of x^.
    """
    return softplus(-fake).mean()


def wasserstein_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's side of the Wasserstein loss, E[D(x^)] - E[D(x)] (Arjovsky et al., 2017, arXiv 1701.07875).

    In place of Eq. (2), arXiv 2211.13808, where `train.adversarial` says so; D is then unbounded, no probability.

    Args:
        real: D(x), [B].
        fake: D(x^), [B].
    """
    return fake.mean() - real.mean()


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """The generator's side of the Wasserstein loss, -E[D(x^)], of D(x^) [B]."""
    return -fake.mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], x: Tensor, reconstruction: Tensor, mix: Tensor
) -> Tensor:
    """E[(|grad D(u)| - 1)^2] at u = mix x + (1 - mix) x^ (Gulrajani et al., 2017, arXiv 1704.00028, Eq. (3)).

    Args:
        discriminator: D, [B, C, H, W] -> [B]; computed in 32 bits.
        x: [B, C, H, W].
        reconstruction: x^ [B, C, H, W].
        mix: [B], uniform in [0, 1].
    """
    share = mix[:, None, None, None]
    with torch.autocast(x.device.type, enabled=False):
        between = (share * x + (1 - share) * reconstruction).float().detach().requires_grad_()
        (slopes,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    steepness: Tensor = torch.linalg.vector_norm(slopes.flatten(1), dim=1)
    penalty: Tensor = (steepness - 1).square().mean()
    return penalty


def contextual_loss(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Eq. (3), arXiv 2211.13808: E|x - x^|, the mean absolute difference of pixels in [-1, 1]; 0 to 2.

    Args:
        x: [B, C, H, W].
        reconstruction: x^ [B, C, H, W].
    """
    return l1_loss(reconstruction, x)


def latent_loss(features_x: Tensor, features_reconstruction: Tensor) -> Tensor:
    """Eq. (4), arXiv 2211.13808: E|f(x) - f(x^)|, the mean absolute difference of the discriminator's features.

    Args:
        features_x: f(x) [B, F, h, w].
        features_reconstruction: f(x^) [B, F, h, w].
    """
    return l1_loss(features_reconstruction, features_x)


def pointing_loss(pointing: Tensor, anomalous: Tensor) -> Tensor:
    """The mean binary cross entropy over pixels; beyond arXiv 2211.13808. 0.693 where the decoder knows nothing.

    Args:
        pointing: Logits [B, P, P].
        anomalous: Which pixels were changed, bool [B, P, P].
    """
    return binary_cross_entropy_with_logits(pointing, anomalous.to(pointing.dtype))


def feature_loss(features_x: Sequence[Tensor], features_reconstruction: Sequence[Tensor]) -> Tensor:
    """1 - cosine similarity of a frozen teacher's features, the mean over positions and then stages; 0 to 2.

    Beyond arXiv 2211.13808; the distance is that of Eq. (1) and (2), arXiv 2201.10703, between the teacher's own
    features of the patch and of its restoration.

    Args:
        features_x: Of x, per stage [B, F, h, w].
        features_reconstruction: Of x^, the same shapes.
    """
    pairs = zip(features_x, features_reconstruction, strict=True)
    return torch.stack([(1 - cosine_similarity(a.float(), b.float(), dim=1)).mean() for a, b in pairs]).mean()


def total_loss(adversarial: Tensor, contextual: Tensor, latent: Tensor, weights: LossWeights) -> Tensor:
    """Eq. (5), arXiv 2211.13808: w1 L_adv + w2 L_con + w3 L_lat, which the generator minimises."""
    return weights.adversarial * adversarial + weights.contextual * contextual + weights.latent * latent
