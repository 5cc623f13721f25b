"""The discriminator's pointing decoder: which pixels of a patch are anomalous.

Beyond arXiv 2211.13808, whose discriminator judges whole patches.

Legend: B batch, C channels, P patch size in pixels, H W pixels of a level.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, interpolate, pad, pixel_shuffle, pixel_unshuffle, relu

from vigil.config import ModelSection
from vigil.networks.blocks import convolution

_VIEWS: dict[int, list[tuple[int, bool]]] = {
    1: [(0, False)],
    2: [(0, False), (0, True)],
    4: [(turns, False) for turns in range(4)],
    8: [(turns, mirrored) for turns in range(4) for mirrored in (False, True)],
}
"""Quarter turns, and whether mirrored, of each view."""
_DEPTH = 4
"""Levels below half resolution; patches of 32 px end as one position."""
_RESIDUAL_SHARE = 0.5
"""Keeps the sum of many residuals from growing at the start; nothing is normalised here."""

_COLOUR_BLUR_PX = 5
"""Side of the square over which a colour is averaged, twice: weights fall to 0 at 5 pixels to each side."""


class _Residual(nn.Module):
    """Adds half of a 3x3 convolution of ReLU(h) to h."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(channels, channels, normed=False)

    def forward(self, h: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        out: Tensor = h + _RESIDUAL_SHARE * self.convolution(relu(h))
        return out


class PointingDecoder(nn.Module):
    """A per-pixel verdict on a patch, made of the patch and its restoration.

    Reads x, or x, x^ and |x - x^|; where the model says so, of images whose colour is blurred. Each 2x2 block of pixels
    is folded into channels, so that all levels run at half resolution or below, which costs about a third; a residual
    encoder-decoder follows, whose levels are added on the way up, and its output is unfolded into pixels again. No
    spectral normalisation: the decoder learns from labelled pixels, not in a game.
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
        self.blurs_colour = model.pointing_colour == "blurred"
        widest = model.max_width if model.pointing_max_width is None else model.pointing_max_width
        widths = [min(model.pointing_width * 2**level, widest) for level in range(_DEPTH + 1)]
        self.stem = convolution(4 * channels * (3 if self.sees_restoration else 1), widths[0], normed=False)
        steps = list(itertools.pairwise(widths))
        self.halving = nn.ModuleList(convolution(w, below, kernel=4, stride=2, normed=False) for w, below in steps)
        self.on_the_way_down = nn.ModuleList(_Residual(width) for width in widths)
        self.narrowing = nn.ModuleList(convolution(below, w, kernel=1, normed=False) for w, below in steps)
        self.on_the_way_up = nn.ModuleList(_Residual(width) for width in widths[:-1])
        self.output = convolution(widths[0], 4, normed=False)

    def forward(self, x: Tensor, restoration: Tensor | None) -> Tensor:
        """Logits [B, P, P] float32; sigmoid(logit) is the probability that the pixel is anomalous.

        Args:
            x: Patches [B, C, P, P] in [-1, 1]; P a multiple of 32.
            restoration: x^ of the same shape; not read, and may be None, where the decoder sees the patch alone.
        """
        if self.blurs_colour:
            x = with_blurred_colour(x)
        seen = x
        if self.sees_restoration:
            assert restoration is not None
            if self.blurs_colour:
                restoration = with_blurred_colour(restoration)
            seen = torch.cat([x, restoration, (x - restoration).abs()], dim=1)
        h = self.on_the_way_down[0](self.stem(pixel_unshuffle(seen, 2)))  # B C P/2 P/2
        levels = [h]
        for halving, residual in zip(self.halving, self.on_the_way_down[1:], strict=True):
            h = residual(halving(relu(h)))
            levels.append(h)
        upwards = zip(self.narrowing, self.on_the_way_up, levels[:-1], strict=True)
        for narrowing, residual, level in reversed(list(upwards)):
            h = residual(level + interpolate(narrowing(relu(h)), scale_factor=2, mode="nearest"))
        return pixel_shuffle(self.output(relu(h)).float(), 2)[:, 0]

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


def with_blurred_colour(images: Tensor) -> Tensor:
    """The same lightness (mean of the channels) pixel by pixel, with the colour beside it averaged over the vicinity.

    How colour turns at a border tells matter that was in the beam from a stamp, at a distance of a pixel or two; what
    the decoder cannot see, it cannot learn in place of shapes.

    Args:
        images: [B, C, H, W].

    Returns:
        The same shape; images of one channel are their own lightness. Values may leave [-1, 1] by what the colour of
        a pixel's vicinity differs from its own.
    """
    lightness = images.mean(dim=1, keepdim=True)
    rows, columns = (_blur_matrix(images.shape[side], images.device) for side in (2, 3))
    return lightness + rows @ (images - lightness) @ columns.T


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # else training in the same process could not use what scoring made
def _blur_matrix(length: int, device: torch.device) -> Tensor:
    """[length, length] float32, whose product with a column of values averages each over 5 of them, twice; the ends go
    on as their last value. Two products of matrices take a tenth of the time of pooling on a CPU."""
    averages = torch.eye(length)
    for _ in range(2):
        ends = pad(averages[None], [_COLOUR_BLUR_PX // 2] * 2, mode="replicate")
        averages = avg_pool1d(ends, _COLOUR_BLUR_PX, stride=1)[0]
    return averages.T.contiguous().to(device)


def _turned(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    view = torch.rot90(images, turns, (-2, -1))
    view = view.flip(-1) if mirrored else view
    return view.contiguous(memory_format=torch.channels_last)


def _turned_back(maps: Tensor, turns: int, mirrored: bool) -> Tensor:
    return torch.rot90(maps.flip(-1) if mirrored else maps, -turns, (-2, -1))
