"""The discriminator's self-supervised trunk: by how many quarters was a patch turned?

Beyond arXiv 2211.13808. A network that learned on normal patches which way is up is unsure on patches of another kind
(Golan & El-Yaniv, 2018), and its features separate kinds for the same reason.

Legend: B batch, C channels, P patch size in pixels, F feature channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from vigil.config import ModelSection
from vigil.networks.blocks import FullyConnected, convolution

TURNS = 4
_GROUPS = 8


class TrunkOutput(NamedTuple):
    """What the trunk says of a batch of turned patches."""

    logits: Tensor
    """[B, 4] float32, of each number of quarters."""
    features: Tensor
    """[B, F] float32, what the logits are made of."""


class _Residual(nn.Module):
    """Two 3x3 convolutions, each after group normalisation and ReLU, and a shortcut around both."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(_GROUPS, channels_in)
        self.first = convolution(channels_in, channels_out, kernel=4 if stride == 2 else 3, stride=stride, normed=False)
        self.second_norm = nn.GroupNorm(_GROUPS, channels_out)
        self.second = convolution(channels_out, channels_out, normed=False)
        changes = stride == 2 or channels_in != channels_out
        self.shortcut = convolution(channels_in, channels_out, kernel=1, normed=False) if changes else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
        h = relu(self.first_norm(x))
        short = x if self.shortcut is None else self.shortcut(h[:, :, :: self.stride, :: self.stride])
        out: Tensor = short + self.second(relu(self.second_norm(self.first(h))))
        return out


class SelfSupervisedTrunk(nn.Module):
    """A small residual network that tells by how many quarters a patch was turned.

    A 4x4 convolution of stride 2, three levels of residual blocks (the second and third halve H and W and double the
    channels), the mean over positions, a linear layer. Group normalisation: nothing mixes patches. No spectral
    normalisation: the trunk learns from labels, not in a game, and a bound on its gain would bound its certainty.
    """

    def __init__(self, channels: int, model: ModelSection) -> None:
        """
        Args:
            channels: Of the patches, 1 or 3.
            model: Width and blocks per level, under `self_supervision`.
        """
        super().__init__()
        section = model.self_supervision
        widths = [section.width * 2**level for level in range(3)]
        self.stem = convolution(channels, widths[0], kernel=4, stride=2, normed=False)
        blocks: list[nn.Module] = []
        for level, width in enumerate(widths):
            above, stride = (width, 1) if level == 0 else (widths[level - 1], 2)
            blocks.append(_Residual(above, width, stride))
            blocks += [_Residual(width, width, 1) for _ in range(section.blocks - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.GroupNorm(_GROUPS, widths[-1])
        self.head = FullyConnected(widths[-1], TURNS)

    def forward(self, x: Tensor) -> TrunkOutput:
        """Logits and features of x [B, C, P, P] in [-1, 1]."""
        features = relu(self.norm(self.blocks(self.stem(x)))).float().mean(dim=(2, 3))
        return TrunkOutput(self.head(features), features)


def turned(x: Tensor, quarters: int) -> Tensor:
    """x [B, C, P, P] turned counter-clockwise by 0 to 3 quarters, channels last."""
    return torch.rot90(x, quarters, (2, 3)).contiguous(memory_format=torch.channels_last)


def turn_loss(logits: Tensor, quarters: Tensor) -> Tensor:
    """-log p of the turn that was made, [B] float32, nats; ln 4 = 1.386 where the trunk knows nothing.

    Args:
        logits: [B, 4].
        quarters: The turns, int64 [B], 0 to 3.
    """
    return cross_entropy(logits.float(), quarters, reduction="none")


class TurnOutputs(NamedTuple):
    """What the trunk says of patches in all four turns."""

    loss: Tensor
    """[B] float32; the mean over the four turns of -log p of the turn, nats, >= 0; higher = more anomalous."""
    features: Tensor
    """[B, 4, F] float32."""


def turn_outputs(trunk: SelfSupervisedTrunk, x: Tensor) -> TurnOutputs:
    """Loss and features of the patches x [B, C, P, P] in [-1, 1], each turned four ways."""
    outputs = [trunk(turned(x, quarters)) for quarters in range(TURNS)]
    losses = [
        turn_loss(found.logits, torch.full((len(x),), quarters, device=x.device))
        for quarters, found in enumerate(outputs)
    ]
    return TurnOutputs(torch.stack(losses).mean(dim=0), torch.stack([o.features for o in outputs], dim=1))
