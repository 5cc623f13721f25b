"""Within anomalous images: do the patches that meet the anomaly score above those that do not?

Where normal and anomalous images were recorded differently, as in SIXray, an image's score may say how it was recorded
and nothing of a threat. Patches of one image share their recording, so this comparison is free of that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vigil.calibration.calibration import Calibration
from vigil.config import EvaluateSection
from vigil.evaluation.baselines import pixel_features
from vigil.evaluation.intervals import bootstrap, percentile_interval
from vigil.evaluation.metrics import RankedLabels
from vigil.images.shards import PatchShards
from vigil.records import ANOMALOUS
from vigil.scoring.reduction import components_of

Values = NDArray[np.float64]


def patches_inside(
    scores: pa.Table, calibration: Calibration, test: PatchShards, section: EvaluateSection
) -> dict[str, Any] | None:
    """AUROC of the grid patches that meet a mask or box against the other patches of the same images.

    All anomalous images count that have patches of both kinds. The interval is a bootstrap over groups. Trivial
    features of the same patches stand beside, each in the direction that favours it on these very patches.

    Args:
        scores: records.PATCH_SCORES of the test split, rows as in `test`.
        calibration: Makes one score of a patch's components.
        test: The test patches.
        section: Bootstrap and confidence.

    Returns:
        JSON values: value, low, high, patches by kind, images, trivial; None where no image has patches of both kinds.
    """
    ids, sources, groups = (
        np.asarray(scores.column(name).to_pylist(), dtype=np.str_) for name in ("image_id", "source", "group")
    )
    label, image_label = (scores.column(name).to_numpy() for name in ("label", "image_label"))
    rows = np.flatnonzero((sources == "grid") & (image_label == ANOMALOUS))
    _, image = np.unique(ids[rows], return_inverse=True)
    meets = label[rows] == ANOMALOUS
    share = np.bincount(image, meets) / np.bincount(image) if len(rows) else np.empty(0)
    mixed = (share > 0) & (share < 1)
    kept = mixed[image] if len(rows) else np.empty(0, np.bool_)
    rows, meets = rows[kept], meets[kept].astype(np.int64)
    if not len(rows):
        return None
    components = {name: values[rows] for name, values in components_of(scores).items()}
    ranked = RankedLabels(meets, calibration.patch_scores(components))
    draws = bootstrap(lambda w: np.array([ranked.auroc(w)]), groups[rows], section.bootstrap_samples, section.seed)
    low, high = percentile_interval(draws[:, 0], section.confidence)
    features = [pixel_features(patch) for patch in test.read(rows)]
    trivial = {}
    for name in features[0]:
        found = RankedLabels(meets, np.array([row[name] for row in features])).auroc(np.ones(len(rows)))
        trivial[name] = max(found, 1 - found)
    return {
        "value": ranked.auroc(np.ones(len(rows))),
        "low": low,
        "high": high,
        "patches_that_meet": int(meets.sum()),
        "other_patches": int((1 - meets).sum()),
        "images": int(mixed.sum()),
        "trivial": trivial,
    }
