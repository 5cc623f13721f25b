"""The calibration record: everything that turns the components of patches into a verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError, model_validator

from vigil.calibration.fitted_score import (
    WeightedComponent,
    fit_weights,
    fitted_score,
    scales_of,
    standardised,
)
from vigil.calibration.normalisation import apply_scale, fit_scale, weighted_score
from vigil.calibration.ranking import auroc
from vigil.calibration.threshold import (
    Rate,
    Threshold,
    conformal_threshold,
    is_anomalous,
    lower_bound,
    lowest_of_groups,
    recall_threshold,
)
from vigil.config import CalibrateSection, ReductionSection, Section, explain
from vigil.errors import CalibrationError, DataError
from vigil.files import canonical_json, write_json
from vigil.records import ANOMALOUS, NORMAL
from vigil.scoring.reduction import Images, components_of, finite, image_scores, images_of

Scores = NDArray[np.float64]

ETA_GRID = tuple(round(0.05 * step, 2) for step in range(21))
_USUAL_ETA = 0.9


class Calibration(Section):
    """A fitted calibration, as it lies in `models/calibration.json` and in the bundle."""

    version: Literal[1] = 1
    score: Literal["eq6", "map_peak", "stitched_peak", "self_supervision", "memory", "published", "fitted"]
    eta: float | None = Field(ge=0, le=1)
    """Weight of A_G in Eq. (6); null where the score is another."""
    eta_fitted: bool
    """True: eta was chosen by AUROC on the calibration images."""
    weighted: tuple[WeightedComponent, ...] = ()
    """What a `fitted` score is made of; empty where the score is another."""
    weights_fitted_on: Literal["calibration anomalies", "pseudo-anomalies"] | None = None
    reduction: ReductionSection
    scale_min: float
    """Lowest image score of calibration, min(V_A) of Eq. (7)."""
    scale_max: float
    threshold: float
    """In score units; an image with a higher score is anomalous."""
    method: Literal["recall", "fpr"]
    """What the threshold promises: a recall (calibration held anomalies) or a false-positive rate."""
    target: float
    confidence: float
    promise_kept: bool
    """False: too few calibration images for the promise; `notes` say how many are needed."""
    images_needed: int
    """Calibration images (anomalous for `recall`, normal for `fpr`) that the promise needs at least; groups of
    anomalous images where `anomalous_groups` is given."""
    recall: Rate | None
    """Of the calibration anomalies at the threshold; null where there are none. Its interval counts images."""
    recall_lower_bound: float | None
    """One-sided, at `confidence`; what may be promised of further anomalies of the same kinds, or of further groups."""
    fpr: Rate
    """Of the calibration normals at the threshold. Its interval counts images."""
    n_normal: int
    n_anomalous: int
    anomalous_groups: int | None = Field(default=None, exclude_if=lambda groups: groups is None)
    """Groups that the anomalous images come in; null where each is a group of its own."""
    notes: tuple[str, ...]
    """What the threshold promises, and what it does not, in plain words."""
    inputs_digest: str
    """`scores_digest` of the calibration scores that all of this was fitted on."""

    @model_validator(mode="after")
    def _consistent(self) -> Calibration:
        if (self.score == "eq6") != (self.eta is not None):
            raise ValueError("eta belongs to the score 'eq6' and to no other")
        if (self.score == "fitted") != bool(self.weighted):
            raise ValueError("weighted components belong to the score 'fitted' and to no other")
        if self.scale_min >= self.scale_max:
            raise ValueError(f"scale_min ({self.scale_min}) is not below scale_max ({self.scale_max})")
        return self

    def patch_scores(self, components: Mapping[str, ArrayLike]) -> Scores:
        """The score of each patch, [N] float64: Eq. (6), a single component, or the fitted sum.

        Args:
            components: [N] each, by the names of records.COMPONENTS; more than the score needs may be given.

        Raises:
            CalibrationError: The score needs a component that is not there.
            ScoreNotFinite: A component that the score needs is NaN or infinite.
        """
        return _patch_scores(self.score, self.eta, self.weighted, components)

    def scale(self, scores: ArrayLike) -> Scores:
        """Eq. (7) with the calibration's extremes: 0 and 1 are the lowest and the highest calibration image."""
        return apply_scale(scores, self.scale_min, self.scale_max)

    @property
    def achieved(self) -> Rate:
        """The rate that the threshold was fitted for, on calibration."""
        return self.recall if self.method == "recall" and self.recall is not None else self.fpr


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes the record as JSON, aside then renamed; every float is kept to the last bit."""
    write_json(path, calibration.model_dump(mode="json"))


def read_calibration(path: Path) -> Calibration:
    """Reads a record that `write_calibration` wrote.

    Raises:
        DataError: The file is missing, not JSON, of another version, or breaks a rule.
    """
    try:
        return Calibration.model_validate_json(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: file not found. Run `dvc repro` to rebuild it.") from error
    except ValidationError as error:
        raise DataError(f"{explain(error, str(path))}\nRun the calibrate stage again.") from error


def fit_calibration(patches: pa.Table, section: CalibrateSection) -> Calibration:
    """Fits eta or the weights of the components (where asked), the scale and the threshold on the calibration images.

    Where calibration holds anomalies, the threshold is the largest that promises `target_recall` at `confidence`
    (see `recall_threshold`), and `fpr` says what that costs. Groups are drawn as a whole, so it is they that are
    counted: one is found where all its anomalies are. Where calibration holds normal images only, the threshold is
    conformal for `target_fpr` (see `conformal_threshold`). A promise that the number of images cannot carry is never
    made silently: `promise_kept` is False and `notes` say how many images are needed.

    Args:
        patches: records.PATCH_SCORES of the calibration split; regions of interest are left out here, and patches
            with pseudo-anomalies serve for the weights of a fitted score alone.
        section: What is asked for.

    Raises:
        CalibrationError: There is no normal image, eta is to be fitted without anomalies, all scores are equal,
            or the score needs components or anomalies that are not there.
        DataError: An image carries two labels.
        ScoreNotFinite: A component is NaN or infinite.
    """
    images = images_of(patches)
    normal, anomalous = images.labels == NORMAL, images.labels == ANOMALOUS
    if not normal.any():
        raise CalibrationError(
            f"the calibration split holds no normal image ({anomalous.sum()} anomalous); raise "
            f"split.calibration_fraction"
        )

    weighted, fitted_on = _weighted(section, images, patches)

    def scores_with(eta: float | None) -> Scores:
        of_patches = _patch_scores(section.score, eta, weighted, images.components)
        return image_scores(of_patches, images.patch_image, section.reduction)

    eta, eta_fitted = _eta(section, images.labels, scores_with)
    fields, notes = _promise(scores_with(eta), images.labels, images.groups, section)
    if eta_fitted:
        notes.append(
            f"eta = {eta} has the highest AUROC of {len(ETA_GRID)} values on these same images, which makes the "
            f"promise slightly optimistic."
        )
    if fitted_on is not None:
        notes.append(_weights_note(weighted, fitted_on))
    return Calibration(
        score=section.score,
        eta=eta,
        eta_fitted=eta_fitted,
        weighted=weighted,
        weights_fitted_on=fitted_on,
        reduction=section.reduction,
        **fields,
        notes=tuple(notes),
        inputs_digest=scores_digest(patches),
    )


def recalibrated(
    calibration: Calibration,
    names: Sequence[str],
    labels: NDArray[np.int64],
    scores: Scores,
    section: CalibrateSection,
) -> Calibration:
    """The same score with scale, threshold and promise fitted on other images, as `fit_calibration` fits them.

    What makes a score of components (eta, weights, reduction) stays. Each image counts as drawn by itself.

    Args:
        calibration: The one so far, whose score it is.
        names: [M], of the images.
        labels: [M], records.NORMAL or records.ANOMALOUS; at least one is normal.
        scores: [M], of the images.
        section: Says target and confidence; the rest of it is not read.

    Raises:
        CalibrationError: There is no normal image, or all scores are equal.
        ScoreNotFinite: A score is NaN or infinite.
    """
    if not (labels == NORMAL).any():
        raise CalibrationError("there is no normal image to calibrate on")
    fields, notes = _promise(scores, labels, np.asarray(names, dtype=np.str_), section)
    table = pa.table({"image_id": pa.array(names), "image_label": labels, "score": scores})
    kept = {name: getattr(calibration, name) for name in _OF_THE_SCORE}
    return Calibration(**kept, **fields, notes=tuple(notes), inputs_digest=scores_digest(table))


_OF_THE_SCORE = ("score", "eta", "eta_fitted", "weighted", "weights_fitted_on", "reduction")
"""Fields of `Calibration` that say how components become the score of an image."""


def _promise(
    scores: Scores, labels: NDArray[np.int64], groups: NDArray[np.str_], section: CalibrateSection
) -> tuple[dict[str, Any], list[str]]:
    """Scale and threshold of image scores and what is promised, as fields of `Calibration`; and what that is in words.

    Args:
        scores, labels, groups: [M] each, of the images; at least one is normal.
        section: Says target and confidence.
    """
    normal, anomalous = labels == NORMAL, labels == ANOMALOUS
    scale_min, scale_max = fit_scale(scores)
    recall = bound = whole = None
    if anomalous.any():
        of_groups = lowest_of_groups(scores[anomalous], groups[anomalous])
        threshold = recall_threshold(of_groups, section.target_recall, section.confidence)
        recall = Rate.of_decisions(is_anomalous(scores[anomalous], threshold.value), section.confidence)
        whole = Rate.of_decisions(is_anomalous(of_groups, threshold.value), section.confidence)
        bound = lower_bound(whole.count, whole.of, section.confidence)
    else:
        threshold = conformal_threshold(scores[normal], section.target_fpr)
    fpr = Rate.of_decisions(is_anomalous(scores[normal], threshold.value), section.confidence)
    if recall is None or whole is None:
        notes = _fpr_notes(threshold, fpr, section)
    else:
        notes = _recall_notes(threshold, recall, whole, fpr, section)
    normal_groups = len(np.unique(groups[normal]))
    if normal_groups < normal.sum():
        notes.append(
            f"The {normal.sum()} normal images come in {normal_groups} groups, and images of one resemble each other: "
            f"the false-positive rate is less certain than its interval, which counts images, says."
        )
    fields = {
        "scale_min": scale_min,
        "scale_max": scale_max,
        "threshold": threshold.value,
        "method": "fpr" if recall is None else "recall",
        "target": section.target_fpr if recall is None else section.target_recall,
        "confidence": section.confidence,
        "promise_kept": threshold.promise_kept,
        "images_needed": threshold.images_needed,
        "recall": recall,
        "recall_lower_bound": bound,
        "fpr": fpr,
        "n_normal": int(normal.sum()),
        "n_anomalous": int(anomalous.sum()),
        "anomalous_groups": None if recall is None or whole is None or whole.of == recall.of else whole.of,
    }
    return fields, notes


def scores_digest(patches: pa.Table) -> str:
    """The SHA-256 over every column of a table of patch scores: name, type and values, in the table's order."""
    sha = hashlib.sha256()
    for name, column in zip(patches.column_names, patches.columns, strict=True):
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        content = column.to_numpy().tobytes() if numeric else canonical_json(column.to_pylist()).encode()
        sha.update(f"{name} {column.type} {len(content)} ".encode() + content)
    return sha.hexdigest()


def _patch_scores(
    score: str, eta: float | None, weighted: tuple[WeightedComponent, ...], components: Mapping[str, ArrayLike]
) -> Scores:
    if score == "fitted":
        return fitted_score(components, weighted)
    needed = ("contextual", "latent") if eta is not None else (score,)
    missing = [name for name in needed if name not in components]
    if missing:
        raise CalibrationError(
            f"the score is '{score}', and the pair has no such component as {missing} (it has {sorted(components)}); "
            f"switch it on under model and train, or choose another calibrate.score"
        )
    if eta is not None:
        return weighted_score(components["contextual"], components["latent"], eta)
    return finite(np.asarray(components[score], np.float64), f"component '{score}'")


FittedOn = Literal["calibration anomalies", "pseudo-anomalies"]


def _weighted(
    section: CalibrateSection, images: Images, patches: pa.Table
) -> tuple[tuple[WeightedComponent, ...], FittedOn | None]:
    """The components of a fitted score with their weights, and on what these were fitted.

    The items are images, each component reduced as the score will be, where calibration holds anomalies; else they are
    patches, as they are and with a pseudo-anomaly.
    """
    if section.score != "fitted":
        return (), None
    there = dict(images.components)
    if ANOMALOUS not in images.labels:
        there.pop("stitched_peak", None)  # a stamped patch has no neighbours, so its peak is none of this kind
    missing = sorted(set(section.components or ()) - there.keys())
    if missing:
        raise CalibrationError(
            f"calibrate.components names {missing}, which cannot be weighed here (these can: {sorted(there)}); leave "
            f"them out, or switch them on under model and train; stitched_peak needs anomalous calibration images"
        )
    used = {n: v for n, v in there.items() if section.components is None or n in section.components}
    normal_patches = (images.labels == NORMAL)[images.patch_image]
    scales = scales_of({name: values[normal_patches] for name, values in used.items()})
    if not scales:
        raise CalibrationError("every component is the same on most normal calibration patches; train the pair longer")
    on: FittedOn
    if ANOMALOUS in images.labels:
        on, columns = "calibration anomalies", standardised(used, scales).T
        items = np.stack([image_scores(c, images.patch_image, section.reduction) for c in columns], axis=1)
        normal, anomalous = items[images.labels == NORMAL], items[images.labels == ANOMALOUS]
    else:
        stamped = components_of(patches.filter(pc.equal(patches.column("source"), "stamped")))
        if not len(stamped["map_peak"]):
            raise CalibrationError(
                "calibrate.score is 'fitted', and calibration holds neither anomalies nor patches with "
                "pseudo-anomalies; set score.stamped_patches (1000, say) or raise split.calibration_anomaly_fraction"
            )
        on, normal, anomalous = "pseudo-anomalies", standardised(used, scales), standardised(stamped, scales)
    weights = fit_weights(normal, anomalous)
    return tuple(s.model_copy(update={"weight": float(w)}) for s, w in zip(scales, weights, strict=True)), on


def _eta(
    section: CalibrateSection, labels: NDArray[np.int64], scores_with: Callable[[float | None], Scores]
) -> tuple[float | None, bool]:
    """The weight of A_G and whether it was fitted; the best AUROC wins, of equals the one nearest to the usual 0.9."""
    if section.score != "eq6":
        return None, False
    if section.eta != "fit":
        return section.eta, False
    if ANOMALOUS not in labels:
        raise CalibrationError(
            "calibrate.eta is 'fit', which needs anomalies in the calibration split, and it holds none; set "
            "calibrate.eta to a number (the usual one is 0.9) or raise split.calibration_anomaly_fraction"
        )
    best = max(ETA_GRID, key=lambda eta: (auroc(labels, scores_with(eta)), -abs(eta - _USUAL_ETA)))
    return best, True


def _weights_note(weighted: tuple[WeightedComponent, ...], on: FittedOn) -> str:
    weights = ", ".join(f"{c.name} {c.weight:.3g}" for c in weighted)
    if on == "calibration anomalies":
        return f"Weights ({weights}) fitted on these same images, which makes the promise slightly optimistic."
    return f"Weights ({weights}) fitted on the calibration patches with pseudo-anomalies; real ones may differ."


def _recall_notes(threshold: Threshold, recall: Rate, whole: Rate, fpr: Rate, section: CalibrateSection) -> list[str]:
    """`whole`: the groups that the threshold finds as a whole; each is a single image where both have the same `of`."""
    target, confidence = section.target_recall, section.confidence
    bound = lower_bound(whole.count, whole.of, confidence)
    grouped = whole.of < recall.of
    cost = (
        f"It costs {fpr.count} of {fpr.of} normal calibration images flagged (FPR {fpr.value:.3f}, {confidence:.0%} "
        f"interval {fpr.low:.3f} to {fpr.high:.3f})."
    )
    flagged = f"The threshold flags {recall.count} of {recall.of} anomalous calibration images"
    if grouped:
        flagged += f", which come in {whole.of} groups: {whole.count} of these as a whole"
    if threshold.promise_kept:
        finds = f"it finds at least {target:.0%} of further anomalies of the same kinds"
        if grouped:
            finds = f"it finds every anomaly of at least {target:.0%} of further groups like these"
        return [
            f"{flagged}. With {confidence:.0%} confidence {finds} (lower bound {bound:.3f}).",
            cost,
        ]
    counted = "groups of anomalous calibration images" if grouped else "anomalous calibration images"
    return [
        f"NOT a promise: a recall of {target:.0%} with {confidence:.0%} confidence needs at least "
        f"{threshold.images_needed} {counted}, and there are {whole.of}. {flagged}, which supports a recall of "
        f"{bound:.3f} only. Raise split.calibration_anomaly_fraction or add labelled anomalies.",
        cost,
    ]


def _fpr_notes(threshold: Threshold, fpr: Rate, section: CalibrateSection) -> list[str]:
    target = section.target_fpr
    unknown = "The calibration split holds no anomalies, so nothing is promised about the recall."
    if threshold.promise_kept:
        return [
            f"A further normal image is flagged with a probability of at most {target:.1%}, on average over "
            f"calibration sets of {fpr.of} images; with this one the rate may be up to {fpr.high:.3f} (upper end of "
            f"the {section.confidence:.0%} interval).",
            unknown,
        ]
    return [
        f"NOT a promise: a false-positive rate of {target:.1%} needs at least {threshold.images_needed} normal "
        f"calibration images, and there are {fpr.of}. The threshold is the highest of their scores, which a further "
        f"normal image exceeds with a probability of at most {1 / (fpr.of + 1):.1%}. Raise split.calibration_fraction "
        f"or add normal images.",
        unknown,
    ]
