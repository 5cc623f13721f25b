"""Image scores from patch scores. Imports no torch, so that calibration and evaluation load without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vigil.config import ReductionSection
from vigil.errors import DataError, ScoreNotFinite
from vigil.records import COMPONENTS

Scores = NDArray[np.float64]


def image_scores(patch_scores: Scores, image_index: NDArray[np.intp], reduction: ReductionSection) -> Scores:
    """One score per image, [M] float64, higher = more anomalous: the maximum or the mean of the k highest patches.

    An image with fewer than k patches is averaged over all it has. The result of an image depends on its own patch
    scores alone, whatever their order or the other images.

    Args:
        patch_scores: [N], of grid patches; regions of interest know where the anomaly is and must be left out.
        image_index: [N], the image of each patch, 0 .. M - 1, every one at least once.
        reduction: `max`, or `top_k_mean` with its k.

    Raises:
        ScoreNotFinite: A patch score is NaN or infinite.
        DataError: An image has no patch.
    """
    scores = finite(np.asarray(patch_scores, np.float64), "patch score")
    image_index = np.asarray(image_index)
    patches_of = np.bincount(image_index)
    if len(scores) == 0 or not patches_of.all():
        without = "all" if len(scores) == 0 else f"numbers {np.flatnonzero(patches_of == 0)[:5].tolist()}"
        raise DataError(f"images ({without}) have no grid patch to make a score of; rebuild the patch index")
    order = np.lexsort((-scores, image_index))  # by image, highest score first
    scores, image_index = scores[order], image_index[order]
    first = np.cumsum(patches_of) - patches_of
    if reduction.name == "max":
        return np.asarray(scores[first])
    top = np.arange(len(scores)) - first[image_index] < reduction.k
    sums = np.bincount(image_index[top], weights=scores[top])
    return np.asarray(sums / np.minimum(patches_of, reduction.k), np.float64)


def finite(values: Scores, what: str) -> Scores:
    """`values`, which are all finite.

    Raises:
        ScoreNotFinite: One is NaN or infinite; it must never pass as a low score.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ScoreNotFinite(
            f"{what} number {bad[0]} is {values.flat[bad[0]]} ({len(bad)} of {values.size} are not finite). A score "
            f"that is no number says nothing about the image; check the pair's weights and train again."
        )
    return values


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a patch score table and their grid patches. M images in order of their ids, N patches."""

    ids: NDArray[np.str_]  # [M]
    labels: NDArray[np.int64]  # [M], 0 = normal, 1 = anomalous
    kinds: NDArray[np.str_]  # [M]
    groups: NDArray[np.str_]  # [M]
    patch_image: NDArray[np.intp]  # [N], the image of each patch
    components: dict[str, Scores]  # those of records.COMPONENTS that were computed, of each patch, [N] each


def images_of(patches: pa.Table) -> Images:
    """The images of `patches` (records.PATCH_SCORES) with the components of their grid patches.

    Regions of interest are left out: they were cut where the anomaly is known to be.

    Raises:
        DataError: An image carries two labels or has no grid patch.
    """
    grid = patches.filter(pc.equal(patches.column("source"), "grid"))
    if grid.num_rows == 0:
        raise DataError(f"none of the {patches.num_rows} scored patches was cut on the grid; rebuild the patch index")
    left_out = np.setdiff1d(_texts(patches, "image_id"), _texts(grid, "image_id"))
    if len(left_out):
        raise DataError(
            f"{len(left_out)} images have a region of interest but no grid patch, such as {left_out[0]}: they are "
            f"smaller than a patch. Set patch.edge to 'reflect' or lower patch.patch_size_px."
        )
    ids, first, patch_image = np.unique(_texts(grid, "image_id"), return_index=True, return_inverse=True)
    patch_labels = grid.column("image_label").to_numpy().astype(np.int64)
    labels = patch_labels[first]
    torn = np.flatnonzero(labels[patch_image] != patch_labels)
    if len(torn):
        raise DataError(
            f"image {ids[patch_image[torn[0]]]} carries two labels; rebuild the patch index and score again"
        )
    return Images(
        ids=ids,
        labels=labels,
        kinds=_texts(grid, "kind")[first],
        groups=_texts(grid, "group")[first],
        patch_image=patch_image,
        components=components_of(grid),
    )


def components_of(patches: pa.Table) -> dict[str, Scores]:
    """The components that a table records.PATCH_SCORES holds, [N] float64 each, by name."""
    return {name: patches.column(name).to_numpy() for name in COMPONENTS if name in patches.column_names}


def _texts(table: pa.Table, column: str) -> NDArray[np.str_]:
    return np.asarray(table.column(column).to_pylist(), dtype=np.str_)
