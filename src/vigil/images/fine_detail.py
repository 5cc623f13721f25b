"""When two pictures count as one: the rule by which near-duplicates are confirmed, in the manifest and in the audit.

Perceptual hashes (`near_repeats`) also meet in pictures of different objects in one place; their fine detail does not.

Legend: M pictures, K pixels of a square.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vigil.images.near_repeats import Squares

FARTHEST = 0.1
"""No two pictures whose distance is larger count as one."""
REFERENCES, AGAINST = 100, 1000
"""From how many pictures the limit is read off, each held against how many."""
_BLUR_PX = 1.0
_SHARE = 0.07

Details = npt.NDArray[np.float32]


def fine_detail(squares: Squares) -> Details:
    """What is left of grey squares [M, 64, 64] without their blur, [M, K], each of length 1; zeros where one is flat.

    Brightness, contrast and scale do not count. The dot product of two is their correlation, and 1 less that is their
    distance: 0 for the same picture, about 1 for two that have nothing in common.
    """
    from scipy.ndimage import gaussian_filter

    pixels = squares.astype(np.float64)
    detail = pixels - gaussian_filter(pixels, (0, _BLUR_PX, _BLUR_PX))
    detail = detail.reshape(len(pixels), pixels.shape[1] * pixels.shape[2])
    detail -= detail.mean(axis=1, keepdims=True)
    length = np.linalg.norm(detail, axis=1, keepdims=True)
    return np.where(length > 1e-6, detail / np.maximum(length, 1e-6), 0).astype(np.float32)


def limit_of_likeness(details: Details, references: Iterable[int], groups: npt.NDArray[np.generic]) -> float:
    """The distance up to which two pictures of a set count as one.

    A fourteenth of what is usual between a picture and the one most like it, and at most `FARTHEST`. So where every
    picture shows the same kind of part in the same place, only what is much closer than that counts. 0 where all
    pictures are of one group.

    Args:
        details: [M, K].
        references: Positions of the pictures from which it is read off.
        groups: Of each picture; those of one group are not alike by chance, and do not count.
    """
    nearest = []
    for place in references:
        alike = (details @ details[place])[groups != groups[place]]
        if len(alike):
            nearest.append(1 - float(alike.max()))
    return min(FARTHEST, _SHARE * float(np.median(nearest))) if nearest else 0.0
