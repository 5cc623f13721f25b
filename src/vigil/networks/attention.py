"""Attention-augmented convolution (Bello et al., 2019, cited by arXiv 2211.13808 as its discriminator's attention).

Legend: B batch, N heads, H W positions, D channels per head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vigil.config import AttentionSection
from vigil.errors import ConfigError
from vigil.networks.blocks import convolution


class RelativeSelfAttention(nn.Module):
    """Multi-head self-attention over all positions, with relative position encodings in height and width.

    For the query at (y, x) and the key at (v, u), with r^H and r^W learned and shared by all heads:

        logit = q(y, x)^T / sqrt(D) (k(v, u) + r^H[v - y] + r^W[u - x])

    The value averages of all heads are concatenated and projected by a 1x1 convolution.
    """

    def __init__(self, channels: int, side: int, section: AttentionSection, *, normed: bool) -> None:
        """
        Args:
            channels: Channels of the input.
            side: Height and width of the input, which fix the number of relative positions.
            section: Heads, channels of keys and of values (over all heads).
            normed: Spectral normalisation of the two convolutions; the position encodings carry none.
        """
        super().__init__()
        self.side, self.heads = side, section.heads
        self.key_channels, self.value_channels = section.key_channels, section.value_channels
        total = 2 * section.key_channels + section.value_channels
        self.queries_keys_values = convolution(channels, total, kernel=1, normed=normed)
        self.projection = convolution(section.value_channels, section.value_channels, kernel=1, normed=normed)
        key_depth = section.key_channels // section.heads
        self.relative_height = nn.Parameter(torch.zeros(2 * side - 1, key_depth))  # row v - y + side - 1
        self.relative_width = nn.Parameter(torch.zeros(2 * side - 1, key_depth))  # row u - x + side - 1
        steps = torch.arange(side)
        self.register_buffer("offsets", steps[None, :] - steps[:, None] + side - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, value_channels, H, W].

        Raises:
            ValueError: H or W is not the `side` that the encodings were made for.
        """
        batch, _, height, width = x.shape
        if (height, width) != (self.side, self.side):
            raise ValueError(f"attention was built for {self.side}x{self.side} positions, got {height}x{width}")
        q, k, v = self.queries_keys_values(x).split([self.key_channels, self.key_channels, self.value_channels], dim=1)
        q, k, v = (t.reshape(batch, self.heads, -1, height * width).transpose(2, 3) for t in (q, k, v))  # B N HW D
        q = q * q.shape[-1] ** -0.5
        logits = q @ k.transpose(2, 3) + self.position_logits(q)  # B N HW HW
        weights = torch.softmax(logits.float(), dim=-1)
        averages = (weights.to(v.dtype) @ v).transpose(2, 3)  # B N D HW
        projected: Tensor = self.projection(averages.reshape(batch, self.value_channels, height, width))
        return projected

    def position_logits(self, q: Tensor) -> Tensor:
        """q^T (r^H[v - y] + r^W[u - x]) for scaled queries [B, N, HW, D] -> [B, N, HW, HW]."""
        grid = q.reshape(*q.shape[:2], self.side, self.side, -1)  # B N y x D
        offsets = self.get_buffer("offsets")
        height = torch.einsum("bnyxd,yvd->bnyxv", grid, self.relative_height[offsets])  # B N y x v
        width = torch.einsum("bnyxd,xud->bnyxu", grid, self.relative_width[offsets])  # B N y x u
        both = height[..., :, None] + width[..., None, :]  # B N y x v u
        return both.flatten(4).flatten(2, 3)


class AugmentedConvolution(nn.Module):
    """A 3x3 convolution's maps and self-attention's maps side by side, `channels_out` in all."""

    def __init__(
        self, channels_in: int, channels_out: int, side: int, section: AttentionSection, *, normed: bool
    ) -> None:
        """
        Raises:
            ConfigError: `section.value_channels` leaves no channel for the convolution.
        """
        super().__init__()
        if section.value_channels >= channels_out:
            raise ConfigError(
                f"model.attention.value_channels ({section.value_channels}) must be smaller than the "
                f"{channels_out} output channels of the augmented convolution; lower it or raise "
                f"model.discriminator_width"
            )
        self.convolution = convolution(channels_in, channels_out - section.value_channels, normed=normed)
        self.attention = RelativeSelfAttention(channels_in, side, section, normed=normed)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, side, side] -> [B, C_out, side, side], the convolution's maps first."""
        return torch.cat([self.convolution(x), self.attention(x)], dim=1)
