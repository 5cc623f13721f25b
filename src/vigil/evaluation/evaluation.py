"""The evaluation report: what the calibrated pair reaches on the test split. It chooses nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vigil.calibration.calibration import Calibration
from vigil.calibration.normalisation import apply_scale, fit_scale
from vigil.calibration.ranking import auroc
from vigil.calibration.threshold import Rate, is_anomalous
from vigil.config import EvaluateSection, PatchSection
from vigil.errors import DataError
from vigil.evaluation.baselines import trivial_features, untrained_scores
from vigil.evaluation.inside import patches_inside
from vigil.evaluation.intervals import bootstrap, percentile_interval
from vigil.evaluation.localisation import measure_maps
from vigil.evaluation.metrics import RankedLabels, f1, recall_at_fpr
from vigil.files import digest_json
from vigil.images.shards import PatchShards
from vigil.networks.pair import PairSpec
from vigil.records import ANOMALOUS, NORMAL, NORMAL_KIND
from vigil.scoring.reduction import Images, components_of, image_scores, images_of
from vigil.scoring.scorer import device_of

FORMAT_VERSION = 1
READ_FPR = 0.05
UNTRAINED = "untrained"

Values = NDArray[np.float64]
Decisions = NDArray[np.bool_]
Statistic = Callable[[Values], float]
Estimate = dict[str, float | None]


class Evaluation(NamedTuple):
    """The report and the table behind it."""

    report: dict[str, Any]
    """What `reports/evaluation.json` holds; every number is finite, or None, and then `undefined` says why."""
    images: pa.Table
    """One row per test image: image_id, label, kind, group, score, scaled_score (Eq. (7)), verdict."""


def evaluate(
    scores: pa.Table,
    calibration: Calibration,
    section: EvaluateSection,
    *,
    manifest: pa.Table,
    test: PatchShards,
    train: PatchShards,
    maps_folder: Path,
    patch: PatchSection,
    spec: PairSpec,
) -> Evaluation:
    """Measures ranking, decisions and localisation on the test split, with the baselines beside.

    Intervals of AUROC, average precision and F1 are percentiles of bootstrap draws of whole groups; those of recall,
    FPR and precision are Clopper-Pearson, which takes the images for independent.

    Args:
        scores: records.PATCH_SCORES of the test split.
        calibration: The fitted calibration; its score, reduction and threshold are used as they are.
        section: Protocol, bootstrap, confidence.
        manifest: records.MANIFEST with the test images: their checksums and lengths.
        test: The test patches.
        train: The training patches, for the baselines alone.
        maps_folder: Anomaly maps of the test patches.
        patch: How the patches were cut.
        spec: Of the pair that was trained, for the untrained baseline.

    Raises:
        DataError: Scores, shards and manifest are not of the same images.
        ScoreNotFinite: A component or a map is NaN or infinite.
    """
    if not scores.column("patch_id").equals(test.index.column("patch_id")):
        raise DataError(f"the test scores are not those of the patches in {test.folder}; run the score stage again")
    images = images_of(scores)
    facts = _facts(images, manifest)
    image_score = image_scores(calibration.patch_scores(images.components), images.patch_image, calibration.reduction)
    flagged = is_anomalous(image_score, calibration.threshold)
    normal, anomalous = images.labels == NORMAL, images.labels == ANOMALOUS
    kinds = {kind: _of_kind(images, kind) for kind in _kinds(images)}
    baselines = _baselines(images, section, facts, spec, test=test, train=train, patch=patch)

    ranked = RankedLabels(images.labels, image_score)
    statistics: dict[str, Statistic] = {
        "auroc": ranked.auroc,
        "average_precision": ranked.average_precision,
        "f1": lambda weights: f1(images.labels, flagged, weights),
    }
    for kind, of_kind in kinds.items():
        statistics[f"kind {kind}"] = partial(_auroc_within, ranked, normal | of_kind)
    for name, baseline in baselines.items():
        statistics[f"baseline {name}"] = RankedLabels(images.labels, baseline).auroc
    estimates, draws = _estimates(statistics, images, section)

    def rate(decisions: Decisions) -> dict[str, Any] | None:
        return Rate.of_decisions(decisions, section.confidence).model_dump() if decisions.size else None

    maps, without_mask = measure_maps(test, patch, maps_folder)
    hits, with_region = maps.hits
    report: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "protocol": section.protocol,
        "test_digest": digest_of_test(images, manifest),
        "images": {"normal": int(normal.sum()), "anomalous": int(anomalous.sum()), "groups": len(set(images.groups))},
        "confidence": section.confidence,
        "auroc": estimates["auroc"],
        "average_precision": estimates["average_precision"],
        "recall": rate(flagged[anomalous]),
        "fpr": rate(flagged[normal]),
        "precision": rate(anomalous[flagged]),
        "f1": estimates["f1"],
        "threshold": calibration.threshold,
        "promise": calibration.notes[0],
        "promise_kept": calibration.promise_kept,
        # Read off the test set's own ROC curve: it compares pairs, and is no promise of any threshold.
        "recall_at_5_percent_fpr": (
            recall_at_fpr(images.labels, image_score, READ_FPR) if normal.any() and anomalous.any() else None
        ),
        "per_kind": {
            kind: {"n": int(of_kind.sum()), "auroc": estimates[f"kind {kind}"], "recall": rate(flagged[of_kind])}
            for kind, of_kind in kinds.items()
        },
        "pixel_auroc": _number(maps.pixel_auroc()),
        "aupro": _number(maps.aupro()),
        "box_hit_rate": rate(np.arange(with_region) < hits),
        "anomalous_images_without_mask_or_box": without_mask,
        "patch_auroc_inside": patches_inside(scores, calibration, test, section),
        **_baseline_rows(estimates, baselines, draws, section),
    }
    if section.protocol == "paper":
        report["paper_protocol"] = _paper_protocol(scores, calibration)
    report["undefined"] = _reasons(report)
    table = pa.table(
        {
            "image_id": images.ids.tolist(),
            "label": images.labels,
            "kind": images.kinds.tolist(),
            "group": images.groups.tolist(),
            "score": image_score,
            "scaled_score": calibration.scale(image_score),
            "verdict": np.where(flagged, "ANOMALOUS", "NORMAL").tolist(),
        }
    )
    return Evaluation(report, table)


def digest_of_test(images: Images, manifest: pa.Table) -> str:
    """Of ids, contents and labels of the test images: only numbers measured on equal ones can be compared.

    Raises:
        DataError: An image is not in the manifest.
    """
    facts = _facts(images, manifest)
    return digest_json([[i, facts[i].sha256, int(n)] for i, n in zip(images.ids, images.labels, strict=True)])


class _Facts(NamedTuple):
    sha256: str
    bytes: int


def _facts(images: Images, manifest: pa.Table) -> dict[str, _Facts]:
    columns = (manifest.column(name).to_pylist() for name in ("image_id", "sha256", "bytes"))
    known = {image_id: _Facts(sha256, length) for image_id, sha256, length in zip(*columns, strict=True)}
    unknown = [image_id for image_id in images.ids.tolist() if image_id not in known]
    if unknown:
        raise DataError(f"{len(unknown)} scored images are not in the manifest, such as {unknown[0]}; run `dvc repro`")
    return known


def _kinds(images: Images) -> list[str]:
    """The kinds of anomaly; an image with several (joined by "+") counts for each."""
    return sorted({kind for kinds in set(images.kinds.tolist()) for kind in kinds.split("+")} - {NORMAL_KIND})


def _of_kind(images: Images, kind: str) -> Decisions:
    return np.array([kind in kinds.split("+") for kinds in images.kinds.tolist()])


def _auroc_within(ranked: RankedLabels, which: Decisions, weights: Values) -> float:
    return ranked.auroc(weights * which)


def _estimates(
    statistics: dict[str, Statistic], images: Images, section: EvaluateSection
) -> tuple[dict[str, Estimate | None], dict[str, Values]]:
    """Each statistic as {value, low, high}, None where it is undefined, and its bootstrap draws."""

    def all_of_them(weights: Values) -> Values:
        return np.array([statistic(weights) for statistic in statistics.values()])

    draws = bootstrap(all_of_them, images.groups, section.bootstrap_samples, section.seed)
    estimates: dict[str, Estimate | None] = {}
    for name, value, column in zip(statistics, all_of_them(np.ones(len(images.ids))), draws.T, strict=True):
        low, high = percentile_interval(column, section.confidence)
        estimates[name] = None if math.isnan(value) else {"value": float(value), "low": low, "high": high}
    return estimates, dict(zip(statistics, draws.T, strict=True))


# ----------------------------------------------------------------------------------------------------------- baselines


def _baselines(
    images: Images,
    section: EvaluateSection,
    facts: dict[str, _Facts],
    spec: PairSpec,
    *,
    test: PatchShards,
    train: PatchShards,
    patch: PatchSection,
) -> dict[str, Values]:
    """The baselines' scores of the images, [M] each, in the order of `images`."""
    lengths = {image_id: facts[image_id].bytes for image_id in images.ids.tolist()}
    ids, features = trivial_features(test, train, patch, lengths, section.seed)
    untrained_ids, untrained = untrained_scores(spec, test, train, seed=section.seed, device=device_of("auto"))
    place = np.argsort(np.asarray(ids, dtype=np.str_))  # images are in the order of their ids
    assert images.ids.tolist() == [ids[i] for i in place] == untrained_ids
    return {**{name: values[place] for name, values in features.items()}, UNTRAINED: untrained}


def _baseline_rows(
    estimates: dict[str, Estimate | None],
    baselines: dict[str, Values],
    draws: dict[str, Values],
    section: EvaluateSection,
) -> dict[str, Any]:
    """The rows of the baselines, and how far the pair stands above the best of them."""
    rows: dict[str, dict[str, Any]] = {}
    for name in baselines:
        estimate = estimates[f"baseline {name}"]
        if estimate is None:
            rows[name] = {"auroc": None, "auroc_raw": None, "low": None, "high": None, "direction": None}
            continue
        raw, low, high = (estimate[key] for key in ("value", "low", "high"))
        assert raw is not None
        rows[name] = {"auroc": raw, "auroc_raw": raw, "low": low, "high": high, "direction": "higher"}
        if raw < 0.5 and name != UNTRAINED:
            # A feature has no direction of its own. Taking the better one on the test set favours the baseline.
            turned = {"auroc": 1 - raw, "low": _turned(high), "high": _turned(low), "direction": "lower"}
            rows[name].update(turned)
    margin = None
    if estimates["auroc"] is not None:
        best = max(rows, key=lambda name: rows[name]["auroc"])
        column = draws[f"baseline {best}"]
        other = column if rows[best]["direction"] == "higher" else 1 - column
        low, high = percentile_interval(draws["auroc"] - other, section.confidence)
        value = estimates["auroc"]["value"]
        assert value is not None
        margin = {"baseline": best, "value": value - rows[best]["auroc"], "low": low, "high": high}
    untrained = rows.pop(UNTRAINED)
    return {"trivial_baselines": rows, "untrained_baseline": untrained, "margin_over_best_baseline": margin}


def _turned(bound: float | None) -> float | None:
    return None if bound is None else 1 - bound


# ------------------------------------------------------------------------------------------------------ other protocols


def _paper_protocol(scores: pa.Table, calibration: Calibration) -> dict[str, Any]:
    """Patch AUROC as the paper measures it, with Eq. (7), arXiv 2211.13808, over the test set itself.

    Anomalous patches are the regions of interest, cut where the mask or box is known to lie, and normal patches the
    grid patches of normal images. This removes the hard part, finding a small anomaly in a large image.
    """
    patch_score = calibration.patch_scores(components_of(scores))
    source = np.asarray(scores.column("source").to_pylist(), dtype=np.str_)
    label, image_label = (scores.column(name).to_numpy() for name in ("label", "image_label"))
    negative = (source == "grid") & (image_label == NORMAL)
    has_regions = bool((source == "roi").any())
    positive = (source == ("roi" if has_regions else "grid")) & (label == ANOMALOUS)
    used = positive | negative
    found: dict[str, Any] = {
        "patch_auroc": None,
        "anomalous_patches": int(positive.sum()),
        "normal_patches": int(negative.sum()),
        "anomalous_patches_are": "regions of interest" if has_regions else "grid patches that meet a mask or box",
        "scaling": "Eq. (7) with the extremes of these test patches; it changes no AUROC",
    }
    if positive.any() and negative.any():
        low, high = fit_scale(patch_score[used])
        found["patch_auroc"] = auroc(positive[used], apply_scale(patch_score[used], low, high))
        found |= {"scale_min": low, "scale_max": high}
    return found


def _reasons(report: dict[str, Any]) -> dict[str, str]:
    """Why a number of the report is None."""
    count = report["images"]
    both = f"needs both labels; the test split holds {count['normal']} normal and {count['anomalous']} anomalous images"
    reasons = {
        "auroc": both,
        "average_precision": "the test split holds no anomalous image",
        "recall": "the test split holds no anomalous image",
        "fpr": "the test split holds no normal image",
        "precision": "no test image was flagged",
        "f1": "no test image is anomalous or flagged",
        "recall_at_5_percent_fpr": both,
        "pixel_auroc": "no anomalous test image has a mask or a box, or no pixel lies outside of them",
        "aupro": "no anomalous test image has a mask or a box, or no pixel lies outside of them",
        "box_hit_rate": "no anomalous test image has a mask or a box",
        "patch_auroc_inside": "no anomalous test image has both patches that meet a mask or box and others",
        "margin_over_best_baseline": both,
    }
    return {name: reason for name, reason in reasons.items() if report[name] is None}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
