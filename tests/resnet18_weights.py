"""A safetensors file with the tensors of torchvision's resnet18, their values drawn at random."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor


def random_resnet18(seed: int = 0) -> dict[str, Tensor]:
    """The state dict by name; scaled so that activations neither vanish nor explode."""
    stream = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}

    def convolution(name: str, out: int, channels: int, side: int) -> None:
        values = torch.randn(out, channels, side, side, generator=stream)
        found[f"{name}.weight"] = values * (2 / (channels * side * side)) ** 0.5

    def normalisation(name: str, channels: int) -> None:
        for part, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
            found[f"{name}.{part}"] = low + torch.rand(channels, generator=stream)
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", 64, 3, 7)
    normalisation("bn1", 64)
    channels = 64
    for stage, out in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", out, channels, 3)
            normalisation(f"{name}.bn1", out)
            convolution(f"{name}.conv2", out, out, 3)
            normalisation(f"{name}.bn2", out)
            if channels != out:
                convolution(f"{name}.downsample.0", out, channels, 1)
                normalisation(f"{name}.downsample.1", out)
            channels = out
    found["fc.weight"], found["fc.bias"] = torch.randn(1000, 512, generator=stream), torch.zeros(1000)
    return found


def write_resnet18(path: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    """Writes them, or other `tensors`, and returns the path."""
    safetensors.torch.save_file(random_resnet18() if tensors is None else tensors, path)
    return path
