"""A version and the one that it was trained from, on the same images: those kept from before, and today's.

Each is measured whole, with its own weights, calibration and threshold, because that is what would serve. N patches,
M images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vigil.calibration.calibration import Calibration
from vigil.calibration.threshold import Rate, is_anomalous
from vigil.config import EvaluateSection, PatchSection
from vigil.evaluation.intervals import bootstrap, percentile_interval
from vigil.evaluation.metrics import RankedLabels
from vigil.files import digest_json
from vigil.images.patches import extract, grid_positions
from vigil.images.rehearsal import decode
from vigil.images.shards import PatchShards
from vigil.networks.pair import Pair
from vigil.records import ANOMALOUS, NORMAL
from vigil.scoring.reduction import image_scores
from vigil.scoring.scorer import device_of, score_patches

_PIECE = 512
"""Patches that are scored at a time; their maps are in memory together."""
Pixels = NDArray[np.uint8]
Scores = NDArray[np.float64]
Judge = tuple[Pair, Calibration]


def beside_parent(
    own: Judge,
    parent: Judge,
    patch: PatchSection,
    section: EvaluateSection,
    *,
    kept: pa.Table,
    images: pa.Table,
    test: PatchShards,
    test_digest: str,
) -> dict[str, Any]:
    """`{"old": ..., "new": ...}` for the report: AUROC, recall and FPR of both on both sets, and their differences.

    Intervals are as in `evaluation.evaluate`; those of differences are paired. What a set cannot give is None.

    Args:
        own: The pair and its calibration.
        parent: Those that it was trained from.
        patch: How images are cut, for both.
        section: Bootstrap and confidence.
        kept: records.KEPT, whole test images from before.
        images: Of the test split: image_id, label, group and the pair's own score.
        test: The patches of the test split.
        test_digest: Of its images.

    Raises:
        DataError: A kept image does not decode.
        ScoreNotFinite: A score is NaN or infinite.
    """
    sample = decode(kept)
    known = zip(kept.column("sha256").to_pylist(), sample.labels.tolist(), strict=True)
    labels, groups = images.column("label").to_numpy(), np.asarray(images.column("group").to_pylist(), np.str_)
    own_old, parent_old = (
        _Scored(_of_images(judge, sample.pixels, patch), judge[1].threshold) for judge in (own, parent)
    )
    own_new = _Scored(images.column("score").to_numpy(), own[1].threshold)
    parent_new = _Scored(_of_split(parent, test, images.column("image_id").to_pylist()), parent[1].threshold)
    return {
        "old": {
            "digest": digest_json(list(known)),
            **_both(sample.labels, sample.groups, own_old, parent_old, section),
        },
        "new": {"digest": test_digest, **_both(labels, groups, own_new, parent_new, section)},
    }


class _Scored(NamedTuple):
    scores: Scores
    threshold: float


def _both(
    labels: NDArray[np.int64], groups: NDArray[np.str_], own: _Scored, parent: _Scored, section: EvaluateSection
) -> dict[str, Any]:
    normal, anomalous = labels == NORMAL, labels == ANOMALOUS
    found: dict[str, Any] = {
        "images": {"normal": int(normal.sum()), "anomalous": int(anomalous.sum())},
        **dict.fromkeys(("auroc", "parent_auroc", "auroc_difference")),
    }
    if normal.any() and anomalous.any():
        ranked = RankedLabels(labels, own.scores), RankedLabels(labels, parent.scores)

        def of_both(weights: Scores) -> Scores:
            mine, theirs = (each.auroc(weights) for each in ranked)
            return np.array([mine, theirs, mine - theirs])

        values = of_both(np.ones(len(labels)))
        draws = bootstrap(of_both, groups, section.bootstrap_samples, section.seed)
        for name, value, column in zip(("auroc", "parent_auroc", "auroc_difference"), values, draws.T, strict=True):
            low, high = percentile_interval(column, section.confidence)
            found[name] = {"value": float(value), "low": low, "high": high}
    for prefix, scored in (("", own), ("parent_", parent)):
        flagged = is_anomalous(scored.scores, scored.threshold)
        for name, which in (("recall", anomalous), ("fpr", normal)):
            of = Rate.of_decisions(flagged[which], section.confidence).model_dump() if which.any() else None
            found[prefix + name] = of
    return found


def _of_split(judge: Judge, test: PatchShards, image_ids: list[str]) -> Scores:
    """The scores of the split's images, [M] in the order of `image_ids`."""
    rows = test.rows_of(source="grid")
    place = {image_id: number for number, image_id in enumerate(image_ids)}
    patch_image = np.array([place[i] for i in test.index.column("image_id").take(rows).to_pylist()], np.intp)
    pieces = (test.read(rows[start : start + _PIECE]) for start in range(0, len(rows), _PIECE))
    return _scores(judge, pieces, patch_image)


def _of_images(judge: Judge, images: list[Pixels], patch: PatchSection) -> Scores:
    """The scores of scaled images, [M]."""
    if not images:
        return np.empty(0)
    positions = [grid_positions(image.shape[0], image.shape[1], patch) for image in images]
    patch_image = np.repeat(np.arange(len(images)), [len(p) for p in positions])
    cut = (extract(image, p, patch) for image, p in zip(images, positions, strict=True))
    return _scores(judge, _gathered(cut), patch_image)


def _gathered(pieces: Iterable[Pixels]) -> Iterator[Pixels]:
    """The patches of several images together, so that small images do not leave batches mostly empty."""
    waiting: list[Pixels] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= _PIECE:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _scores(judge: Judge, pieces: Iterable[Pixels], patch_image: NDArray[np.intp]) -> Scores:
    pair, calibration = judge
    device = device_of("auto")
    scored = []
    for patches in pieces:
        found = score_patches(pair, patches, device=device, batch_size=64)
        scored.append(calibration.patch_scores(found.columns()))
    return image_scores(np.concatenate(scored), patch_image, calibration.reduction)
