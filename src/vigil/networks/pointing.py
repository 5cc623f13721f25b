"""The discriminator's pointing decoder: which pixels of a patch are anomalous.

Beyond arXiv 2211.13808, whose discriminator judges whole patches.

Legend: B batch, C channels, P patch size in pixels, H W pixels of a level.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from vigil.config import ModelSection
from vigil.networks.blocks import conv_block, convolution

_VIEWS: dict[int, list[tuple[int, bool]]] = {
    1: [(0, False)],
    2: [(0, False), (0, True)],
    4: [(turns, False) for turns in range(4)],
    8: [(turns, mirrored) for turns in range(4) for mirrored in (False, True)],
}
"""Quarter turns, and whether mirrored, of each view."""
_DEPTH = 4
"""Levels below half resolution; patches of 32 px end as one position."""


class PointingDecoder(nn.Module):
    """A per-pixel verdict on a patch, made of the patch and its restoration.

    Reads x, or x, x^ and |x - x^|. Each 2x2 block of pixels is folded into channels, so that all levels run at half
    resolution or below, which costs about a third; an encoder-decoder with plain skips follows, and its output is
    unfolded into pixels again. No spectral normalisation: the decoder learns from labelled pixels, not in a game.
    """

    def __init__(self, channels: int, model: ModelSection) -> None:
        """
        Args:
            channels: Channels of the patches, 1 or 3.
            model: What the decoder sees, its width and the bound on widths.
        """
        super().__init__()
        self.views = model.pointing_views
        self.sees_restoration = model.pointing_sees == "patch_and_restoration"
        widths = [min(model.pointing_width * 2**level, model.max_width) for level in range(_DEPTH + 1)]
        channels_in = 4 * channels * (3 if self.sees_restoration else 1)
        self.down = nn.ModuleList(
            conv_block(above, width, stride=1 if level == 0 else 2, normed=False)
            for level, (above, width) in enumerate(zip([channels_in, *widths], widths, strict=False))
        )
        self.up = nn.ModuleList(
            conv_block(width + below, width, normed=False) for width, below in itertools.pairwise(widths)
        )
        self.output = convolution(widths[0], 4, normed=False)

    def forward(self, x: Tensor, restoration: Tensor | None) -> Tensor:
        """Logits [B, P, P] float32; sigmoid(logit) is the probability that the pixel is anomalous.

        Args:
            x: Patches [B, C, P, P] in [-1, 1]; P a multiple of 32.
            restoration: x^ of the same shape; not read, and may be None, where the decoder sees the patch alone.
        """
        seen = x
        if self.sees_restoration:
            assert restoration is not None
            seen = torch.cat([x, restoration, (x - restoration).abs()], dim=1)
        features = nn.functional.pixel_unshuffle(seen, 2)  # B 4C P/2 P/2
        levels = []
        for block in self.down:
            features = block(features)
            levels.append(features)
        for block, level in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            features = nn.functional.interpolate(features, scale_factor=2, mode="nearest")
            features = block(torch.cat([level, features], dim=1))
        return nn.functional.pixel_shuffle(self.output(features).float(), 2)[:, 0]

    def averaged(self, x: Tensor, restoration: Tensor | None) -> Tensor:
        """The mean of the logits over the model's views of each patch: as it is, mirrored, turned; [B, P, P] float32.

        Arguments as of `forward`. A patch's views run one after the other, so that memory is that of one.
        """
        logits = [
            _turned_back(
                self(
                    _turned(x, turns, mirrored), None if restoration is None else _turned(restoration, turns, mirrored)
                ),
                turns,
                mirrored,
            )
            for turns, mirrored in _VIEWS[self.views]
        ]
        return torch.stack(logits).mean(dim=0)


def _turned(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    view = torch.rot90(images, turns, (-2, -1))
    view = view.flip(-1) if mirrored else view
    return view.contiguous(memory_format=torch.channels_last)


def _turned_back(maps: Tensor, turns: int, mirrored: bool) -> Tensor:
    return torch.rot90(maps.flip(-1) if mirrored else maps, -turns, (-2, -1))
