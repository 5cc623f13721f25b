"""How anomalous a patch is by what all patches that overlap it point at.

Legend: N patches of one image, P patch side in pixels.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vigil.images.patches import Positions, blended

_SQUARE_SHARE: Final = 5 / 64


def stitched_peaks(log_odds: NDArray[np.float32], positions: Positions) -> NDArray[np.float64]:
    """The peak of the image's log-odds within each patch, [N] in [0, 1]; the largest is the image's own.

    The log-odds are averaged first over all patches that see a pixel, with the weights of `stitch`, so that the patch
    that has a pixel in its middle says the most. At a patch's border, where a thing is cut off, a single patch is sure
    of what its neighbours see to be normal. The peak is the probability at the mean log-odds of the square that is
    surest, of all that lie in the patch (`square_px`). So what is sure must lie together: single pixels along a thin
    rod, of which `map_peak` takes the surest wherever they are, are outvoted by what is beside them.

    Args:
        log_odds: What the pair points at, of all grid patches of the image, [N, P, P].
        positions: Of the patches' first pixels in the padded image, [N, 2].

    Raises:
        ValueError: The positions leave a part of the image uncovered.
    """
    size = log_odds.shape[-1]
    height, width = (int(last) + size for last in positions.max(axis=0))
    means = _square_means(blended(log_odds, positions, (height, width)), square_px(size))
    places = size - square_px(size) + 1
    surest = np.array([means[y : y + places, x : x + places].max() for y, x in positions.tolist()])
    return np.asarray(1 / (1 + np.exp(-surest)), np.float64)


def square_px(patch_size_px: int) -> int:
    """Side of the squares whose surest is the peak: 5/64 of the patch's, 10 px of 128."""
    return max(1, round(patch_size_px * _SQUARE_SHARE))


def _square_means(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The mean over the square whose upper left pixel each is, [H, W] -> [H - side + 1, W - side + 1]."""
    sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(inside / side**2, np.float64)
