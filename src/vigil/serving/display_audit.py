"""What a bundle is worth where the display changes: labelled images as they are and shown otherwise, judged.

The threshold stays the bundle's own, as it would at a site that goes on after a change. Whether screening would have
warned (`images.appearance`) stands beside.

Legend: M images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from vigil.calibration.threshold import Rate, is_anomalous
from vigil.config import EvaluateSection
from vigil.delivery.bundle import Bundle
from vigil.delivery.verdict import Judgement, Pixels
from vigil.errors import DataError
from vigil.evaluation.evaluation import READ_FPR
from vigil.evaluation.intervals import bootstrap, percentile_interval
from vigil.evaluation.metrics import RankedLabels, recall_at_fpr
from vigil.images.appearance import Look, look_of
from vigil.images.displays import shown_on
from vigil.records import ANOMALOUS, NORMAL
from vigil.serving.judging import judged_with_progress
from vigil.serving.screening import appearance_shifts


class Labelled(NamedTuple):
    """An image whose label is known."""

    name: str
    pixels: Pixels
    """Scaled, uint8 [H, W, C]."""
    label: int
    group: str


@dataclass(frozen=True, slots=True)
class DisplayRow:
    """What the bundle reaches on one display."""

    display: str
    auroc: float
    auroc_low: float | None
    auroc_high: float | None
    recall: Rate
    fpr: Rate
    recall_at_5_percent_fpr: float
    """Read off the curve: what a threshold fitted on this display could reach."""
    warned_by: tuple[str, ...]
    """Figures by which screening the normal ones would have warned; empty for a bundle that keeps none."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        rates = {"recall": self.recall.model_dump(), "fpr": self.fpr.model_dump()}
        return {**asdict(self), **rates, "warned_by": list(self.warned_by)}


def judged_on(
    display: str,
    bundle: Bundle,
    images: Callable[[], Iterator[Labelled]],
    count: int,
    section: EvaluateSection,
    *,
    device: str = "auto",
    batch_size: int = 64,
) -> DisplayRow | None:
    """The images as one display shows them, each judged by the bundle; None where this display changes nothing.

    Args:
        display: One of `images.displays.DISPLAYS`.
        bundle: From `load_bundle`.
        images: Gives the M images, normal and anomalous, from the first on.
        count: M, for the progress that is shown.
        section: How intervals are drawn: of the AUROC from whole groups, of the rates exact binomial ones.
        device, batch_size: As `judge`.

    Raises:
        DataError: An image has no score, or a label is missing.
    """
    seen: list[tuple[str, int, str]] = []
    looks: list[Look] = []

    def shown() -> Iterator[Pixels | Judgement]:
        for number, image in enumerate(images()):
            changed = shown_on(display, image.pixels, number)
            if changed is None:
                return
            seen.append((image.name, image.label, image.group))
            if image.label == NORMAL:
                looks.append(look_of(changed))
            yield np.ascontiguousarray(changed)

    judged = list(judged_with_progress(bundle, shown(), display, count, device=device, batch_size=batch_size))
    if not judged:
        return None
    names, all_labels, groups = zip(*seen, strict=True)
    for name, judgement in zip(names, judged, strict=True):
        if judgement.score is None:
            raise DataError(f"{name}: {judgement.reason}; leave the image out, or train anew")
    labels = np.array(all_labels)
    if not {NORMAL, ANOMALOUS} <= set(labels.tolist()):
        raise DataError("expected normal and anomalous images, found one label alone: raise the number of images")
    scores = np.array([judgement.score for judgement in judged], np.float64)
    flagged = is_anomalous(scores, bundle.calibration.threshold)
    ranked = RankedLabels(labels, scores)
    draws = bootstrap(
        lambda weights: np.array([ranked.auroc(weights)]),
        groups,
        section.bootstrap_samples,
        section.seed,
    )
    low, high = percentile_interval(draws[:, 0], section.confidence)
    return DisplayRow(
        display,
        ranked.auroc(np.ones(len(labels))),
        low,
        high,
        Rate.of_decisions(flagged[labels == ANOMALOUS], section.confidence),
        Rate.of_decisions(flagged[labels == NORMAL], section.confidence),
        recall_at_fpr(labels, scores, READ_FPR),
        tuple(shift.feature for shift in appearance_shifts(bundle, looks) if shift.beyond),
    )
