"""Percentile intervals from bootstrap draws of whole groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vigil.seeding import numpy_generator

Values = NDArray[np.float64]


def bootstrap(statistics: Callable[[Values], Values], groups: ArrayLike, samples: int, seed: int) -> Values:
    """The K statistics under each bootstrap draw, [samples, K]; NaN where a draw does not define one.

    Groups are drawn with replacement, all images of a group together, because images of one bag or part are not
    independent. All statistics of a draw see the same images, so that differences between columns are paired. Draw
    number s is a function of seed and s alone.

    Args:
        statistics: From the weight of each image (how often it was drawn, [M]) to K numbers.
        groups: Group of each image, [M].
        samples: Number of draws.
        seed: Of the draws.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    count = int(group.max()) + 1
    draws = []
    for sample in range(samples):
        drawn = numpy_generator(seed, "bootstrap", sample).integers(0, count, count)
        draws.append(statistics(np.bincount(drawn, minlength=count).astype(np.float64)[group]))
    return np.array(draws)


def percentile_interval(draws: Values, confidence: float) -> tuple[float | None, float | None]:
    """The central `confidence` part of the draws [samples] that are defined; None where under half of them are."""
    defined = draws[~np.isnan(draws)]
    if 2 * len(defined) < len(draws):
        return None, None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
