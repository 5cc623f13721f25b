"""How anomalous a patch is by what all patches that overlap it point at.

Legend: N patches of one image, P patch side in pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vigil.images.patches import Positions, blended
from vigil.scoring.anomaly_map import surest_pixels


def stitched_peaks(log_odds: NDArray[np.float32], positions: Positions) -> NDArray[np.float64]:
    """The peak of the image's log-odds within each patch, [N] in [0, 1]; the largest is the image's own.

    As `anomaly_map.map_peak`: the probability at the mean log-odds of the 0.5 % of pixels that are surest; but of
    log-odds that are averaged first over all patches that see a pixel, with the weights of `stitch`, so that the patch
    that has a pixel in its middle says the most. At a patch's border, where a thing is cut off, a single patch is
    sure of what its neighbours see to be normal. An image of one patch has that patch's `map_peak`, but for rounding.

    Args:
        log_odds: What the pair points at, of all grid patches of the image, [N, P, P].
        positions: Of the patches' first pixels in the padded image, [N, 2].

    Raises:
        ValueError: The positions leave a part of the image uncovered.
    """
    size = log_odds.shape[-1]
    height, width = (int(last) + size for last in positions.max(axis=0))
    whole, count = blended(log_odds, positions, (height, width)), surest_pixels(size)
    windows = (whole[y : y + size, x : x + size].ravel() for y, x in positions.tolist())
    surest = np.array([np.partition(window, -count)[-count:].mean() for window in windows])
    return np.asarray(1 / (1 + np.exp(-surest)), np.float64)
