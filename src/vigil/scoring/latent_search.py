"""AnoGAN's latent search: the z whose image G(z) is most like a patch (arXiv 1703.05921).

Legend: B batch, C channels, P patch size in pixels, Z latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vigil.networks.baselines.anogan import AnoGan
from vigil.seeding import torch_generator

_CHUNK = 16
"""Patches that are searched for together, always so many.

A difference in the last bit grows over hundreds of steps, and a batch of another size may choose other kernels; so the
search's batches are of one size whatever the scorer's are."""


def search_latent(pair: AnoGan, x: Tensor, steps: int | None = None) -> Tensor:
    """The latent vectors [B, Z] that Adam finds for x [B, C, P, P] in [-1, 1], along `AnoGan.search_loss`.

    Each is a function of the pair and of its patch alone: all patches start from one seeded draw of the prior and are
    independent of each other in evaluation mode. No weight is changed and none gets a gradient.

    differs from the paper: Adam with the learning rate of `model.latent_search`, where the paper names no optimiser.

    Args:
        pair: In evaluation mode; in training mode the patches of 16 at a time are mixed.
        steps: In place of the model section's.
    """
    section = pair.spec.model.latent_search
    steps = section.steps if steps is None else steps
    with torch.inference_mode(False), torch.enable_grad():
        parts = []
        for chunk in torch.split(x.clone(), _CHUNK):
            filled = torch.cat([chunk, chunk[:1].expand(_CHUNK - len(chunk), *chunk.shape[1:])])
            parts.append(_descend(pair, filled, steps, section.learning_rate)[: len(chunk)])
        return torch.cat(parts)


def _descend(pair: AnoGan, x: Tensor, steps: int, learning_rate: float) -> Tensor:
    with torch.no_grad():
        features_x = pair.discriminator(x)[1]
    z = starting_latent(pair, len(x)).to(x.device).requires_grad_()
    optimizer = torch.optim.Adam([z], learning_rate)
    for _ in range(steps):
        reconstruction = pair.generator(z)
        loss = pair.search_loss(x, features_x, reconstruction, pair.discriminator(reconstruction)[1]).sum()
        (z.grad,) = torch.autograd.grad(loss, [z])
        optimizer.step()
    return z.detach()


def starting_latent(pair: AnoGan, count: int) -> Tensor:
    """Where every search starts: one draw of the prior, uniform in [-1, 1], [B, Z]; all rows are equal."""
    channels = pair.spec.model.latent_channels
    start = torch.rand(channels, generator=torch_generator(0, "latent search"))
    return (2 * start - 1).repeat(count, 1)
