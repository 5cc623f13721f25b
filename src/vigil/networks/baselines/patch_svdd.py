"""Patch-SVDD (Yi & Yoon, 2020, arXiv 2006.16067): embeddings of windows, and how far they are from normal ones.

Two sizes of windows, a half and a quarter of the patch; the embedding of a large window is made of those of its four
quarters. A window's score is its distance to the nearest embedding that is remembered of normal training patches.

Legend: B batch, C channels, P patch size in pixels, K window size in pixels, D embedding channels, S windows.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from vigil.networks.baselines.dcgan import SMALLEST_SIDE
from vigil.networks.blocks import LEAK, FullyConnected, convolution
from vigil.networks.system import Pair, PairOutputs, PairSpec

Size = Literal["small", "large"]
SIZES: tuple[Size, ...] = ("small", "large")
POSITIONS = 8
"""Places that one window may have beside another."""
_STRIDES = 8
"""Windows are an eighth of the patch apart."""
_SHARE: dict[Size, int] = {"small": 4, "large": 2}


def window_px(patch_size_px: int, size: Size) -> int:
    """K: a quarter or a half of the patch."""
    return patch_size_px // _SHARE[size]


def windows_a_side(size: Size) -> int:
    """How many windows lie side by side in a patch: 7 small ones, 5 large ones."""
    return _STRIDES - _STRIDES // _SHARE[size] + 1


class PositionClassifier(nn.Module):
    """Where the second of two windows lies, seen from the first, of the difference of their embeddings."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        hidden = 2 * embedding
        self.layers = nn.Sequential(
            FullyConnected(embedding, hidden),
            nn.LeakyReLU(LEAK),
            FullyConnected(hidden, hidden),
            nn.LeakyReLU(LEAK),
            FullyConnected(hidden, POSITIONS),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits [B, 8] of the embeddings [B, D] of both windows."""
        logits: Tensor = self.layers(first - second)
        return logits


class HierarchicalEncoder(nn.Module):
    """The embeddings of windows of both sizes, and the classifier of each that training needs.

    A small window: 4x4 convolutions of stride 2 down to 4x4, one of 3x3, and one of 4x4 without padding, whose tanh is
    the embedding. A large one: a 2x2 convolution over the embeddings of its four quarters, LeakyReLU, a 1x1
    convolution, tanh.

    differs from the paper: windows are shares of a patch of P px, where the paper's are 32 and 64 px of an image of
    256; stride 2 and padding in place of eight 3x3 convolutions without; the classifier's last layer is not normalised.
    """

    def __init__(self, channels: int, patch_size: int, first_width: int, most: int, embedding: int) -> None:
        super().__init__()
        halvings = int(math.log2(window_px(patch_size, "small") // SMALLEST_SIDE))
        widths = [min(first_width * 2**level, most) for level in range(halvings)]
        layers: list[nn.Module] = []
        for above, width in itertools.pairwise([channels, *widths]):
            layers += [convolution(above, width, kernel=4, stride=2, normed=False), nn.LeakyReLU(LEAK)]
        layers += [convolution(widths[-1], widths[-1], normed=False), nn.LeakyReLU(LEAK)]
        self.quarter = nn.Sequential(*layers, nn.Conv2d(widths[-1], embedding, SMALLEST_SIDE))
        # Four quarters of a large window lie two small strides apart.
        self.joined = nn.Conv2d(embedding, 2 * embedding, 2, dilation=2)
        self.embedding = nn.Conv2d(2 * embedding, embedding, 1)
        self.positions = nn.ModuleDict({size: PositionClassifier(embedding) for size in SIZES})
        self.activation = nn.LeakyReLU(LEAK)

    def forward(self, x: Tensor) -> dict[Size, Tensor]:
        """The embeddings of all windows of x [B, C, P, P], by size: [B, D, 7, 7] and [B, D, 5, 5] float32."""
        size_px = x.shape[-1] // _SHARE["small"]
        small = self._small(x, size_px, x.shape[-1] // _STRIDES)
        return {"small": small, "large": self._joined(small, dilation=2)}

    def of_windows(self, windows: Tensor, size: Size) -> Tensor:
        """The embeddings [B, D] of windows [B, C, K, K] of one size, float32."""
        if size == "small":
            return self._small(windows, windows.shape[-1], windows.shape[-1]).flatten(1)
        quarter = windows.shape[-1] // 2
        return self._joined(self._small(windows, quarter, quarter), dilation=1).flatten(1)

    def _small(self, x: Tensor, size_px: int, stride: int) -> Tensor:
        """[B, C, H, W] -> [B, D, h, w], of all windows that lie `stride` apart."""
        cut = x.unfold(2, size_px, stride).unfold(3, size_px, stride)  # B C h w K K
        batch, channels, height, width = cut.shape[:4]
        windows = cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, size_px, size_px)
        embedded = torch.tanh(self.quarter(windows.contiguous(memory_format=torch.channels_last)).float())
        return embedded.reshape(batch, height, width, -1).permute(0, 3, 1, 2)

    def _joined(self, small: Tensor, dilation: int) -> Tensor:
        joined = nn.functional.conv2d(small, self.joined.weight, self.joined.bias, dilation=dilation)
        return torch.tanh(self.embedding(self.activation(joined)).float())


class EmbeddingMemory(nn.Module):
    """Embeddings of windows of normal training patches, equally many of each size."""

    small: Tensor
    large: Tensor

    def __init__(self, remembered: int, embedding: int) -> None:
        super().__init__()
        for size in SIZES:
            self.register_buffer(size, torch.zeros(remembered, embedding))

    def forward(self, embeddings: Tensor, size: Size) -> Tensor:
        """The distance of each embedding [N, D] to the nearest one remembered, [N] float32.

        Computed in float64 and rounded, so that the order in which a matrix product adds does not show.
        """
        distances = torch.cdist(embeddings.double(), getattr(self, size).double())
        return distances.amin(dim=1).float()


class PatchSvdd(Pair):
    """One network that embeds windows, and a memory of embeddings; the score is the highest value of its map."""

    NETWORKS = ("encoder",)
    memory: EmbeddingMemory | None

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        model = spec.model
        self.encoder = HierarchicalEncoder(
            spec.channels, spec.patch_size_px, model.discriminator_width, model.max_width, model.feature_channels
        )

    def outputs(self, x: Tensor) -> PairOutputs:
        """The map of x: the product of both sizes' maps, a pixel of each being the mean of the windows that hold it."""
        assert self.memory is not None, "the memory is fitted at the end of training and stored with the pair"
        maps = x.new_ones((len(x), *x.shape[2:]))
        for size, embeddings in self.encoder(x).items():
            channels, side = embeddings.shape[1], embeddings.shape[2]
            flat = embeddings.permute(0, 2, 3, 1).reshape(-1, channels)
            distances = self.memory(flat, size).reshape(len(x), side, side)
            maps = maps * spread_over_windows(distances, self.spec.patch_size_px, size)
        return PairOutputs(None, None, None, published=maps.flatten(1).amax(dim=1).double(), anomaly_map=maps)

    @property
    def has_memory(self) -> bool:
        """Always: without one there is nothing to compare with."""
        return True

    def new_memory(self) -> EmbeddingMemory:
        """Room for `model.patch_svdd.remembered` embeddings of each size."""
        return EmbeddingMemory(self.spec.model.patch_svdd.remembered, self.spec.model.feature_channels)

    def remembered(self, x: Tensor) -> Tensor:
        """The embeddings of all windows, small ones first, [B, 49 + 25, D] float32."""
        return torch.cat([e.flatten(2).permute(0, 2, 1) for e in self.encoder(x).values()], dim=1)


def spread_over_windows(distances: Tensor, patch_size_px: int, size: Size) -> Tensor:
    """Each pixel's mean over the windows that hold it, [B, side, side] -> [B, P, P]."""
    kernel, stride = window_px(patch_size_px, size), patch_size_px // _STRIDES

    def folded(values: Tensor) -> Tensor:
        columns = values.flatten(1)[:, None].expand(-1, kernel**2, -1)
        return nn.functional.fold(columns, patch_size_px, kernel, stride=stride)[:, 0]

    return folded(distances) / folded(torch.ones_like(distances[:1]))
