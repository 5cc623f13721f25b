"""A bundle with the threshold of other images: for a display that changed, or another site, without training.

The pair, its score and the preprocessing stay; scale, threshold, promise, map level and look are those of the images
given. They are judged by the path that screens, so that a later image meets the threshold with the score that it was
fitted on.

Beyond arXiv 2211.13808. Legend: M images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vigil.calibration.calibration import Calibration, recalibrated
from vigil.calibration.threshold import Rate, conformal_threshold, is_anomalous
from vigil.config import CalibrateSection
from vigil.delivery.bundle import (
    PAIR,
    RECORD,
    Bundle,
    BundleRecord,
    Estimate,
    EvaluationSummary,
    Recalibrated,
    write_bundle,
)
from vigil.delivery.verdict import Judgement, Pixels, pixels_of
from vigil.errors import ConfigError, DataError
from vigil.files import digest_bytes, digest_json
from vigil.images.appearance import Appearance, Look, look_of
from vigil.records import ANOMALOUS, NORMAL
from vigil.serving.judging import judged_with_progress
from vigil.serving.screening import content_of, expanded


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What a bundle's threshold becomes on other images."""

    calibration: Calibration
    appearance: Appearance
    map_level: float
    source: Recalibrated
    fpr_before: Rate
    """Of these normal images at the bundle's threshold so far."""
    recall_before: Rate | None
    """Of these anomalous images at the bundle's threshold so far; None where there are none."""


def recalibrate(
    bundle: Bundle,
    normal: Iterable[Path],
    anomalous: Iterable[Path],
    section: CalibrateSection,
    *,
    device: str = "auto",
    batch_size: int = 64,
) -> Recalibration:
    """Fits scale and threshold on images of known label, as the stage calibrate does on those of a data set.

    With anomalous images the threshold promises a recall, without them a false-positive rate; `calibration.notes` say
    which, or how many images it would take. Each image counts as drawn by itself: give one picture per object.

    Args:
        bundle: From `load_bundle`.
        normal: Files and folders of normal images, as `screen` takes them.
        anomalous: The same of anomalous ones; may be empty.
        section: Target and confidence.
        device, batch_size: As `judge`.

    Raises:
        DataError: There is no normal image, an image cannot be read or would be REJECTED, or two files hold the same
            bytes.
        CalibrationError: All scores are equal.
    """
    files = [(path, NORMAL) for path in expanded(normal)]
    if not files:
        raise DataError("no normal images found; expected image files, or folders of them")
    files += [(path, ANOMALOUS) for path in expanded(anomalous)]
    labels = np.array([label for _, label in files], np.int64)
    digests = _digests([path for path, _ in files])
    looks: list[Look] = []

    def opened() -> Iterator[Pixels | Judgement]:
        for path, label in files:
            pixels = pixels_of(bundle, _content(path), path.name)[0]
            if label == NORMAL and not isinstance(pixels, Judgement):
                looks.append(look_of(pixels))
            yield pixels

    judged: list[Judgement] = []
    waiting = judged_with_progress(bundle, opened(), "calibration", len(files), device=device, batch_size=batch_size)
    for (path, _), judgement in zip(files, waiting, strict=True):
        if judgement.score is None:
            raise DataError(f"{path}: screening would reject it, so leave it out: {judgement.reason}")
        judged.append(judgement)

    scores = np.array([judgement.score for judgement in judged], np.float64)
    peaks = np.array([judgement.map_peak for judgement in judged], np.float64)
    flagged = is_anomalous(scores, bundle.calibration.threshold)
    counted = {label: flagged[labels == label] for label in (NORMAL, ANOMALOUS)}
    named = sorted((digest, int(label)) for digest, label in zip(digests, labels, strict=True))
    return Recalibration(
        recalibrated(bundle.calibration, digests, labels, scores, section),
        Appearance.of(looks),
        conformal_threshold(peaks[labels == NORMAL], section.target_fpr).value,
        Recalibrated(
            bundle=bundle.record.digest,
            images=digest_json(named),
            normal=len(counted[NORMAL]),
            anomalous=len(counted[ANOMALOUS]),
        ),
        Rate.of_decisions(counted[NORMAL], section.confidence),
        Rate.of_decisions(counted[ANOMALOUS], section.confidence) if len(counted[ANOMALOUS]) else None,
    )


def _digests(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, all of them before an image is scored, since that takes long."""
    known: dict[str, Path] = {}
    for path in paths:
        if (same := known.setdefault(digest_bytes(_content(path)), path)) is not path:
            raise DataError(f"{path}: holds the same bytes as {same}; an image counts once, so leave one out")
    return list(known)


def _content(path: Path) -> bytes:
    try:
        return content_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def check_folder(folder: Path, bundle: Bundle) -> None:
    """Whether a bundle made of `bundle` may be written there: where nothing is, or another bundle.

    Raises:
        ConfigError: It may not; ask before long work.
    """
    if not folder.exists():
        return
    if not (folder / RECORD).is_file():
        raise ConfigError(f"{folder}: is there already and is no bundle, so it is not replaced; name another folder")
    if folder.resolve() == bundle.folder.resolve():
        raise ConfigError(f"{folder}: is the bundle that the new one is made of; name another folder")


def write_recalibrated(folder: Path, bundle: Bundle, found: Recalibration) -> BundleRecord:
    """Writes the bundle with the new threshold at `folder`, aside then renamed, and returns its record.

    Nothing was measured on test images with it, so its figures are the threshold alone; what the audit found about the
    pair and the data it learned from stays with it.

    Raises:
        ConfigError: As `check_folder`.
    """
    check_folder(folder, bundle)
    record = bundle.record
    return write_bundle(
        folder,
        pair=bundle.folder / PAIR,
        calibration=found.calibration,
        patch=bundle.patch,
        accept=bundle.accept,
        appearance=found.appearance,
        data_set=record.data_set,
        kinds=record.kinds,
        data_digest=record.data_digest,
        test_digest=found.source.images,
        map_level=found.map_level,
        evaluation=EvaluationSummary(
            auroc=None, recall=None, fpr=None, threshold=Estimate(value=found.calibration.threshold)
        ),
        audit=record.audit,
        recalibrated=found.source,
    )


def as_text(found: Recalibration, before: float) -> str:
    """What changed, for a terminal.

    Args:
        found: From `recalibrate`.
        before: The threshold so far.
    """
    was = f"{found.fpr_before.count} of {found.fpr_before.of} normal images flagged"
    if found.recall_before is not None:
        was += f", {found.recall_before.count} of {found.recall_before.of} anomalous ones"
    lines = [f"Threshold {found.calibration.threshold:.6g}, was {before:.6g} (with that, {was})."]
    return "\n".join([*lines, *(f"  {note}" for note in found.calibration.notes)])
