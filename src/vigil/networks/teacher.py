"""A frozen teacher: the first three stages of a ResNet-18 with weights that the user has on disk. Beyond the paper.

Legend: B batch, C channels, H W pixels, F feature channels, h w positions.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import relu

from vigil.errors import CheckpointError, ConfigError
from vigil.files import digest_bytes

_STAGES = {"layer1": (64, 64, 1), "layer2": (64, 128, 2), "layer3": (128, 256, 2)}
"""Channels in and out, and stride."""
_UNUSED = ("layer4.", "fc.")
# Of the images that weights with these names were trained on: RGB in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, as in ResNet-18 (He et al., 2016)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            shortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, h, w] to [B, out_channels, h / stride, w / stride]."""
        inner: Tensor = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(inner + self.downsample(x))


class ResNet18Features(nn.Module):
    """What three stages of a ResNet-18 make of patches, always in evaluation mode and without gradients of its own.

    Modules are named as in torchvision, so that a state dict saved from its `resnet18` fits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        for name, (channels, out_channels, stride) in _STAGES.items():
            blocks = BasicBlock(channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1)
            self.add_module(name, nn.Sequential(*blocks))
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ResNet18Features:  # noqa: ARG002 - as every module's
        """Stays in evaluation mode: batch normalisation uses the statistics that came with the weights."""
        return super().train(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The features after each stage, [B, F, h, w] with F = 64, 128, 256 at 1/4, 1/8, 1/16 of the size.

        Args:
            x: [B, C, H, W] in [-1, 1]; grey patches (C = 1) count as RGB with three equal channels.
        """
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        colour = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
        found = self.maxpool(relu(self.bn1(self.conv1(((colour + 1) / 2 - mean) / std))))
        stages = []
        for name in _STAGES:
            found = self.get_submodule(name)(found)
            stages.append(found)
        return tuple(stages)


def read_teacher(path: Path, sha256: str | None = None) -> tuple[ResNet18Features, str]:
    """The frozen network with the weights of a safetensors file, and the file's SHA-256. Nothing is unpickled.

    Args:
        path: A state dict with the names of torchvision's `resnet18`, float32; its `layer4` and `fc` are not used.
        sha256: What the file must be; None takes any.

    Raises:
        ConfigError: There is no such file.
        CheckpointError: The file is damaged, holds other tensors or values that are not finite, or is another one.
    """
    try:
        encoded = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"train.teacher.weights: {path} cannot be read ({error.strerror}); give the path of a .safetensors file "
            f"with the weights of a ResNet-18, or leave train.teacher out"
        ) from error
    found = digest_bytes(encoded)
    if sha256 is not None and found != sha256:
        raise CheckpointError(f"{path}: the file was changed while the run was under way; start the run again")
    try:
        tensors = safetensors.torch.load(encoded)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}). Copy it again; a .pth or .pt file must be converted by "
            f"somebody who trusts it, since reading one can run code"
        ) from error
    network = ResNet18Features()
    used = OrderedDict((name, tensor) for name, tensor in tensors.items() if not name.startswith(_UNUSED))
    _check(path, network.state_dict(), used)
    network.load_state_dict(used)
    return network, found


def _check(path: Path, own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wrong = [f"'{name}' is missing" for name in own if name not in found]
    wrong += [f"'{name}' is unknown" for name in found if name not in own]
    for name in own.keys() & found.keys():
        expected, given = ((t.dtype, tuple(t.shape)) for t in (own[name], found[name]))
        if given != expected:
            wrong.append(f"'{name}' is {given[0]} {given[1]}, expected {expected[0]} {expected[1]}")
        elif not bool(torch.isfinite(found[name]).all()):
            wrong.append(f"'{name}' holds values that are not finite")
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(
            f"{path}: these are not the weights of a ResNet-18 as torchvision names them: "
            f"{'; '.join(sorted(wrong)[:4])}{more}. Give train.teacher.weights such a file"
        )
