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
from vigil.images.patches import Positions, extract, grid_positions
from vigil.images.rehearsal import decode
from vigil.images.shards import PatchShards
from vigil.networks.pair import Pair
from vigil.records import ANOMALOUS, NORMAL
from vigil.scoring.reduction import image_scores
from vigil.scoring.scorer import device_of, score_patches, with_stitched_peaks

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
    index = test.index.take(rows)
    ids = np.asarray(index.column("image_id").to_pylist(), dtype=np.str_)
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if len(ids) else np.empty(0, np.intp)
    positions = np.stack([index.column(name).to_numpy() for name in ("y", "x")], axis=1).astype(np.int64)
    cut = (
        (test.read(rows[start:stop]), positions[start:stop])
        for start, stop in zip(starts, np.append(starts[1:], len(ids)), strict=True)
    )
    place = {image_id: number for number, image_id in enumerate(ids[starts].tolist())}
    return _scores(judge, cut)[[place[image_id] for image_id in image_ids]]


def _of_images(judge: Judge, images: list[Pixels], patch: PatchSection) -> Scores:
    """The scores of scaled images, [M]."""
    positions = [grid_positions(image.shape[0], image.shape[1], patch) for image in images]
    return _scores(judge, ((extract(image, p, patch), p) for image, p in zip(images, positions, strict=True)))


Cut = tuple[Pixels, Positions]
"""An image's grid patches [N, P, P, C] and where they lie."""


def _gathered(images: Iterable[Cut]) -> Iterator[list[Cut]]:
    """Several images together, so that small images do not leave batches mostly empty."""
    waiting: list[Cut] = []
    for image in images:
        waiting.append(image)
        if sum(len(patches) for patches, _ in waiting) >= _PIECE:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _scores(judge: Judge, images: Iterable[Cut]) -> Scores:
    pair, calibration = judge
    device = device_of("auto")
    scored = [np.empty(0)]
    for piece in _gathered(images):
        positions = [own for _, own in piece]
        patches = np.concatenate([patches for patches, _ in piece])
        found = with_stitched_peaks(score_patches(pair, patches, device=device, batch_size=64), positions)
        patch_image = np.repeat(np.arange(len(piece)), [len(own) for own in positions])
        scored.append(image_scores(calibration.patch_scores(found.columns()), patch_image, calibration.reduction))
    return np.concatenate(scored)
