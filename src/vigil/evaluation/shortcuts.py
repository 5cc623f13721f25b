"""Whether the test split can be sorted without looking for anomalies: by how its images were acquired or encoded.

Where normal and anomalous images differ in size, compression or brightness, a high AUROC says nothing about anomalies.

Legend: M images, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from vigil.config import AuditSection
from vigil.evaluation.audit_record import Separation
from vigil.evaluation.intervals import bootstrap, percentile_interval
from vigil.evaluation.metrics import RankedLabels
from vigil.images.source import open_image
from vigil.progress import track
from vigil.records import ANOMALOUS, NORMAL
from vigil.seeding import derive_seed, numpy_generator

Values = NDArray[np.float64]

COMBINED = "combined"
"""The name of the classifier on all features together, among the features' own names."""
POSITION = "file_position"
_MOST_PER_LABEL = 1000
_MAX_PIXELS = 100_000_000
_COLOUR_PIXELS = 100_000
_FOLDS = 5
_FEWEST = 2
"""Groups of each label below which nothing can be cross-validated."""


@dataclass(frozen=True, slots=True)
class TrivialImages:
    """Trivial features of the images of a test split."""

    labels: NDArray[np.int64]
    """[M]."""
    groups: list[str]
    """[M]."""
    features: dict[str, Values]
    """[M] each."""


def trivial_images(manifest: pa.Table, image_ids: list[str], root: Path, seed: int) -> TrivialImages:
    """Measures the raw files of these images; of more than 1,000 of a label, a seeded sample.

    `image_area` and `aspect_ratio` of the raw pixels; `bytes_per_pixel` of the file; `jpeg_quantisation`, the mean of
    the first quantisation table, coarser = larger (0 for other formats); `brightness`, `saturation` and `sharpness`
    (mean squared Laplacian over the variance, so that contrast does not count) of the pixels from 0 to 1; and
    `file_position`, the place in the order of the manifest, from 0 to 1.

    Args:
        manifest: records.MANIFEST with the images, in the order of the files.
        image_ids: The test images.
        root: Folder of the raw data set.
        seed: Of the sample.

    Raises:
        DataError: A raw file is missing or changed.
    """
    wanted = set(image_ids)
    ids = manifest.column("image_id").to_pylist()
    places = np.array([place for place, image_id in enumerate(ids) if image_id in wanted], np.int64)
    labels = manifest.column("label").to_numpy()[places]
    random = numpy_generator(seed, "trivial features")
    chosen = []
    for label in (NORMAL, ANOMALOUS):
        of_label = np.flatnonzero(labels == label)
        chosen.append(random.choice(of_label, min(_MOST_PER_LABEL, len(of_label)), replace=False))
    rank = np.sort(np.concatenate(chosen))
    rows = manifest.take(pa.array(places[rank])).to_pylist()
    measured = []
    for row in track(rows, "trivial features", len(rows), "images"):
        image = open_image(root, row["path"], row["offset"], row["bytes"], max_pixels=_MAX_PIXELS)
        measured.append(_features(image, row["bytes"]))
    features = {name: np.array([values[name] for values in measured], np.float64) for name in measured[0]}
    features[POSITION] = rank / max(len(places) - 1, 1)
    return TrivialImages(labels[rank].astype(np.int64), [row["group"] for row in rows], features)


def _features(image: Image.Image, length: int) -> dict[str, float]:
    area = image.width * image.height
    tables = getattr(image, "quantization", None) or {0: [0]}
    grey = np.asarray(image.convert("L"), np.float32) / 255
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    saturation = 0.0
    if image.mode not in ("1", "L"):
        factor = max(1, math.isqrt(area // _COLOUR_PIXELS))  # colour needs no detail
        colours = np.asarray(image.convert("RGB").reduce(factor), np.float32)
        highest = colours.max(axis=2)
        saturation = float(((highest - colours.min(axis=2)) / np.maximum(highest, 1)).mean(dtype=np.float64))
    return {
        "image_area": float(area),
        "aspect_ratio": image.width / image.height,
        "bytes_per_pixel": length / area,
        "jpeg_quantisation": float(np.mean(tables[min(tables)])),
        "brightness": float(grey.mean(dtype=np.float64)),
        "saturation": saturation,
        "sharpness": float((laplacian**2).mean(dtype=np.float64) / max(grey.var(dtype=np.float64), 1e-6))
        if laplacian.size
        else 0.0,
    }


def separations(images: TrivialImages, section: AuditSection) -> dict[str, Separation]:
    """How well each feature that varies separates the labels, and `combined`; empty where a label is missing.

    Intervals are percentiles of bootstrap draws of whole groups. `combined` is a logistic regression on all features
    but the position, cross-validated by group, its out-of-fold scores ranked together; it is missing where a label has
    fewer than two groups.
    """
    if len(np.unique(images.labels)) < 2:
        return {}
    varying = {name: values for name, values in images.features.items() if np.ptp(values) > 0}
    scores = dict(varying)
    visible = [values for name, values in varying.items() if name != POSITION]
    fitted = _out_of_fold(np.stack(visible, axis=1), images, section.seed) if visible else None
    if fitted is not None:
        scores[COMBINED] = fitted
    ranked = [RankedLabels(images.labels, values) for values in scores.values()]

    def aurocs(weights: Values) -> Values:
        return np.array([labels.auroc(weights) for labels in ranked])

    values = aurocs(np.ones(len(images.labels)))
    draws = bootstrap(aurocs, images.groups, section.bootstrap_samples, section.seed)
    found = {}
    for name, value, column in zip(scores, values.tolist(), draws.T, strict=True):
        low, high = percentile_interval(column, section.confidence)
        if name == COMBINED:
            found[name] = Separation(value, low, high, "fitted")
        elif value >= 0.5:
            found[name] = Separation(value, low, high, "higher")
        else:  # a feature has no direction of its own
            found[name] = Separation(1 - value, _turned(high), _turned(low), "lower")
    return found


def _turned(bound: float | None) -> float | None:
    return None if bound is None else 1 - bound


def _out_of_fold(features: Values, images: TrivialImages, seed: int) -> Values | None:
    """The score of each image [M] by a classifier that saw no image of its group; features are [M, F]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer, StandardScaler

    groups = np.asarray(images.groups, dtype=np.str_)
    fewest = min(len(np.unique(groups[images.labels == label])) for label in (NORMAL, ANOMALOUS))
    if fewest < _FEWEST:
        return None
    folds = StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=derive_seed(seed, "folds") % 2**32)
    scores = np.empty(len(groups))
    for inside, outside in folds.split(features, images.labels, groups):
        if len(np.unique(images.labels[inside])) < 2:
            return None
        # Ranks instead of values: an outlying file must not decide the scale of a feature.
        ranks = QuantileTransformer(n_quantiles=min(100, len(inside)), random_state=0)
        classifier = make_pipeline(ranks, StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        scores[outside] = classifier.fit(features[inside], images.labels[inside]).decision_function(features[outside])
    return scores
