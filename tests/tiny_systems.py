"""Every system at the smallest widths that still train, for patches of 32 grey pixels."""

from __future__ import annotations

from typing import Any

import torch

from vigil.config import AttentionSection, LatentSearchSection, ModelSection, PatchSvddSection
from vigil.networks.pair import Pair, PairSpec, build_pair
from vigil.networks.registry import SYSTEMS

BASELINES = tuple(name for name in SYSTEMS if name != "dense_skip_gan")
BATCH_NORM = ("anogan", "egbad", "ganomaly", "skip_ganomaly", "dagan")


def tiny_spec(name: str, patch_size_px: int = 32, channels: int = 1, **changes: Any) -> PairSpec:
    """The spec of a system; `changes` are keys of its model section."""
    model = {
        "name": name,
        "base_width": 4,
        "depth": 3,
        "max_width": 16,
        "discriminator_width": 8,
        "feature_channels": 8,
        "attention": AttentionSection(heads=2, key_channels=4, value_channels=4),
        "latent_channels": 6,
        "latent_search": LatentSearchSection(steps=3),
        "patch_svdd": PatchSvddSection(remembered=40),
        **changes,
    }
    return PairSpec.model_validate(
        {"channels": channels, "patch_size_px": patch_size_px, "model": ModelSection.model_validate(model)}
    )


def tiny_pair(name: str, seed: int = 0, **changes: Any) -> Pair:
    """A pair with weights far from zero and, where its system has one, a random memory; in evaluation mode.

    DCGAN's starting weights, of deviation .02, make every output of the small networks almost nothing, which would hide
    what a test looks for.
    """
    pair = build_pair(tiny_spec(name, **changes), seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pair.parameters():
            if parameter.ndim > 1 and pair.normalises_batches:
                parameter.mul_(0.3 / parameter.std())
    if pair.has_memory:
        pair.memory = pair.new_memory()
        for buffer in pair.memory.buffers():
            buffer.uniform_(-1, 1, generator=random)
    return pair.eval()


def placed_patches(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Patches whose colour says where a pixel lies, [B, 3, P, P] in [-1, 1]: red downwards, green to the right."""
    random = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(-0.8, 0.8, size)
    down, right = ramp[:, None].expand(size, size), ramp.expand(size, size)
    noise = 0.1 * torch.rand(count, 3, size, size, generator=random)
    return torch.stack([down, right, torch.zeros(size, size)]) + noise


def smooth_patches(count: int, size: int = 32, channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Patches that something can be learned of: gradients of random direction and strength; [B, C, P, P] in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(-1, 1, size)
    down, right = (2 * torch.rand(count, channels, 1, 1, generator=random) - 1 for _ in range(2))
    return (down * ramp[:, None] + right * ramp) / 2
