"""The generator: an encoder-decoder whose levels are joined by dense convolutional skip blocks.

Legend: B batch, C channels, H W pixels. A node (i, j) is level i (0 = full resolution), column j (0 = encoder).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vigil.config import ModelSection
from vigil.networks.blocks import conv_block, convolution

Node = tuple[int, int]


def level_widths(model: ModelSection) -> tuple[int, ...]:
    """Channels of the levels 0 to `depth`: twice as many each, up to `max_width`."""
    return tuple(min(model.base_width * 2**level, model.max_width) for level in range(model.depth + 1))


def dense_nodes(model: ModelSection) -> dict[Node, tuple[Node, ...]]:
    """The nodes with j > 0 in the order of computation, each with the earlier nodes of its level that it concatenates.

    Every node also takes U(x(i+1, j-1)). Without left-out rows, level i has the nodes j = 1 .. depth - i, and each
    concatenates all of (i, 0) .. (i, j-1), as Eq. (1), arXiv 2211.13808, says.

    differs from the paper: where `outer_rows_without_skips` is not 0, the levels above it hold the decoder's own node
    alone, and it concatenates nothing: full-resolution skips let the generator copy anomalies, and they cost most.
    """
    nodes: dict[Node, tuple[Node, ...]] = {}
    for column in range(1, model.depth + 1):
        for level in range(model.depth - column + 1):
            if level >= model.outer_rows_without_skips:
                nodes[level, column] = tuple((level, k) for k in range(column))
            elif level + column == model.depth:
                nodes[level, column] = ()
    return nodes


class DenseSkipGenerator(nn.Module):
    """G: reconstructs a patch through the nested dense skip blocks of Eq. (1), arXiv 2211.13808.

        x(i, 0) = H(x(i-1, 0))                                          x(0, 0) = H(x)
        x(i, j) = H([x(i, 0), .., x(i, j-1), U(x(i+1, j-1))])           j > 0

    H is one convolution with spectral normalisation and ReLU; in the encoder it has stride 2 below level 0 (the text
    says "downsampling" and no more). U doubles H and W by nearest neighbour and has no weights. The last node of
    level 0 goes through a 3x3 convolution and tanh.

    differs from the paper: the output convolution carries no spectral normalisation, because a bound on its gain would
    bound the contrast of the reconstruction.
    """

    def __init__(self, channels: int, model: ModelSection) -> None:
        """
        Args:
            channels: Channels of the patches, 1 or 3.
            model: Widths, depth, left-out rows, spectral normalisation.
        """
        super().__init__()
        widths, normed = level_widths(model), model.spectral_norm
        self.depth = model.depth
        self.skips = dense_nodes(model)
        self.blocks = nn.ModuleDict()
        for level, width in enumerate(widths):
            above, stride = (channels, 1) if level == 0 else (widths[level - 1], 2)
            self.blocks[_key((level, 0))] = conv_block(above, width, stride=stride, normed=normed)
        for (level, column), skipped in self.skips.items():
            channels_in = len(skipped) * widths[level] + widths[level + 1]
            self.blocks[_key((level, column))] = conv_block(channels_in, widths[level], normed=normed)
        self.output = convolution(widths[0], channels, normed=False)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction x^ [B, C, H, W] float32 in [-1, 1] of x [B, C, H, W]; H, W multiples of 2**depth."""
        features: dict[Node, Tensor] = {(0, 0): self.blocks[_key((0, 0))](x)}
        for level in range(1, self.depth + 1):
            features[level, 0] = self.blocks[_key((level, 0))](features[level - 1, 0])
        for (level, column), skipped in self.skips.items():
            inputs = [features[node] for node in skipped]
            inputs.append(nn.functional.interpolate(features[level + 1, column - 1], scale_factor=2, mode="nearest"))
            features[level, column] = self.blocks[_key((level, column))](torch.cat(inputs, dim=1))
        return torch.tanh(self.output(features[0, self.depth]).float())


def _key(node: Node) -> str:
    return f"{node[0]}_{node[1]}"
