"""From an image to a verdict with a bundle: the one path that screening, the registered model and promotion share.

decode -> preprocess -> grid_positions -> extract -> score_patches -> calibration; every step is the one that the
pipeline's own stages call, so a screened image has the score that the pipeline gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from vigil.calibration.threshold import is_anomalous
from vigil.config import PatchSection
from vigil.delivery.bundle import Bundle
from vigil.errors import DataError, ScoreNotFinite
from vigil.images.patches import Positions, extract, grid_positions, stitch
from vigil.images.preprocessing import preprocess, scaled_pixels
from vigil.images.source import MODE_ADVICE, decode_image, reduces
from vigil.scoring.reduction import image_scores
from vigil.scoring.scorer import device_of, score_patches, with_stitched_peaks

_GROUP_BATCHES = 8
"""Images wait for one another until they fill this many forward passes: the last one is filled up with repeats."""
Pixels = npt.NDArray[np.uint8]
Verdict = Literal["NORMAL", "ANOMALOUS", "REJECTED"]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What a bundle says of one image."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("verdict", "score", "scaled_score", "threshold", "reason")

    verdict: Verdict
    threshold: float
    score: float | None = None
    """Higher is more anomalous; None exactly where the verdict is REJECTED."""
    scaled_score: float | None = None
    """Eq. (7) with the calibration's extremes; outside of [0, 1] for images unlike any of calibration."""
    reason: str | None = None
    """Why the image is REJECTED, in plain words."""
    map_peak: float | None = None
    """The highest `map_peak` of its patches, whatever the score is made of; None where the verdict is REJECTED."""
    anomaly_map: npt.NDArray[np.float32] | None = None
    """[H, W] of scaled pixels; None where the verdict is REJECTED."""


def pixels_of(bundle: Bundle, content: bytes, name: str) -> tuple[Pixels | Judgement, Image.Image | None]:
    """The preprocessed pixels of an encoded image and the image itself, or REJECTED with the reason.

    REJECTED is what does not decode completely, breaks the bundle's contract on size and mode, or is too small for a
    single patch; `name` stands in the reason.
    """
    accept, patch = bundle.accept, bundle.patch
    try:
        image = decode_image(content, name, max_pixels=accept.max_pixels)
        if image.mode not in accept.modes:
            what = MODE_ADVICE.get(image.mode, f"has mode {image.mode}; convert it to {' or '.join(accept.modes)}")
            raise DataError(f"{name}: the image {what}")
        if min(image.size) < accept.min_side_px:
            raise DataError(
                f"{name}: the image has {image.width}x{image.height} pixels (width x height); sides of at least "
                f"{accept.min_side_px} are needed"
            )
        # A large JPEG is decoded anew, smaller, as its patches for training were; the picture stays as it is.
        raw_size = (image.height, image.width)
        smaller = image.format == "JPEG" and reduces(min(image.size), patch.shorter_side_px)
        pixels = scaled_pixels(content, name, patch, raw_size) if smaller else preprocess(image, patch)
        if not len(_positions(pixels, patch)):
            raise DataError(
                f"{name}: scaled to {pixels.shape[1]}x{pixels.shape[0]} pixels, the image is smaller than one patch of "
                f"{patch.patch_size_px}, and this bundle does not pad (patch.edge is 'drop')"
            )
    except DataError as error:
        return rejected(bundle, str(error)), None
    return pixels, image


def judge(
    bundle: Bundle, images: Iterable[Pixels | Judgement], *, device: str = "cpu", batch_size: int = 64
) -> Iterator[Judgement]:
    """One judgement per image, in order; an image's judgement does not depend on the others.

    Small images share a forward pass, which always has `batch_size` patches. With the `score.batch_size` that the
    pipeline used, on the same machine, scores equal the pipeline's to the last bit; see `score_patches`.

    Args:
        bundle: From `load_bundle`.
        images: Scaled pixels, each uint8 [H, W, C], as `preprocess` gives them; what is judged already (REJECTED while
            it was opened) is passed through in its place.
        device: Where the networks run: `cpu`, `cuda` or `auto`.
        batch_size: Patches per forward pass.
    """
    group: list[Pixels | Judgement] = []
    patches = 0
    for image in images:
        group.append(image)
        patches += 0 if isinstance(image, Judgement) else len(_positions(image, bundle.patch))
        if max(patches, len(group)) >= _GROUP_BATCHES * batch_size:
            yield from _judge_group(bundle, group, device, batch_size)
            group, patches = [], 0
    yield from _judge_group(bundle, group, device, batch_size)


def _judge_group(bundle: Bundle, group: list[Pixels | Judgement], device: str, batch_size: int) -> Iterator[Judgement]:
    images = [item for item in group if not isinstance(item, Judgement)]
    try:
        judged = iter(_scored(bundle, images, device, batch_size))
    except ScoreNotFinite:
        # One image without a score must not take its neighbours along.
        judged = iter([_scored_alone(bundle, image, device, batch_size) for image in images])
    for item in group:
        yield item if isinstance(item, Judgement) else next(judged)


def _positions(image: Pixels, patch: PatchSection) -> Positions:
    return grid_positions(image.shape[0], image.shape[1], patch)


def _scored_alone(bundle: Bundle, image: Pixels, device: str, batch_size: int) -> Judgement:
    try:
        return _scored(bundle, [image], device, batch_size)[0]
    except ScoreNotFinite as error:
        return rejected(bundle, f"the image has no score: {error}")


def _scored(bundle: Bundle, images: Sequence[Pixels], device: str, batch_size: int) -> list[Judgement]:
    if not images:
        return []
    calibration, patch = bundle.calibration, bundle.patch
    positions = [_positions(image, patch) for image in images]
    counts = [len(p) for p in positions]
    patches = np.concatenate([extract(i, p, patch) for i, p in zip(images, positions, strict=True)])
    found = score_patches(bundle.pair, patches, device=device_of(device), batch_size=batch_size)
    found = with_stitched_peaks(found, positions)
    columns = found.columns()
    patch_scores = calibration.patch_scores(columns)
    scores = image_scores(patch_scores, np.repeat(np.arange(len(images)), counts), calibration.reduction)
    first = np.cumsum([0, *counts[:-1]])
    peaks = np.maximum.reduceat(columns["map_peak"], first)
    flagged, scaled = is_anomalous(scores, calibration.threshold), calibration.scale(scores)
    maps = np.split(found.maps, np.cumsum(counts)[:-1])
    return [
        Judgement(
            "ANOMALOUS" if flagged[i] else "NORMAL",
            calibration.threshold,
            float(scores[i]),
            float(scaled[i]),
            map_peak=float(peaks[i]),
            anomaly_map=stitch(maps[i], positions[i], image.shape[0], image.shape[1], patch),
        )
        for i, image in enumerate(images)
    ]


def rejected(bundle: Bundle, reason: str) -> Judgement:
    """The verdict on an image that has no score."""
    return Judgement("REJECTED", bundle.calibration.threshold, reason=reason)


def judge_encoded(
    bundle: Bundle, contents: Iterable[bytes], *, device: str = "cpu", batch_size: int = 64
) -> Iterator[Judgement]:
    """One judgement per encoded image (PNG, JPEG, ...), in order; what does not decode is REJECTED."""
    opened = (pixels_of(bundle, content, "image")[0] for content in contents)
    return judge(bundle, opened, device=device, batch_size=batch_size)
