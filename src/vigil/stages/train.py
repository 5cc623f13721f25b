"""train: every candidate, then the best pair on calibration patches; recorded in MLflow as it goes."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigil.config import (
    ModelSection,
    PatchSection,
    RegisterSection,
    StartSection,
    TrainSection,
    candidate_sections,
)
from vigil.files import read_json, write_json, write_text
from vigil.records import KEPT
from vigil.stages import layout
from vigil.stages.stamping import stamped_copies
from vigil.training.recorder import TIMINGS, MemoryRecorder, Recorder, StepRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vigil.networks.pair import Pair
    from vigil.training.rehearsal import WarmStart
    from vigil.training.selection import CandidateScores

_log = logging.getLogger(__name__)
_BATCH = 64
_ETA = 0.9
"""Weight of A_G in Eq. (6) for the choice among candidates that do not point; the calibrate stage fits its own."""


class _Both:
    """Hands every interval to several recorders."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def record(self, step: StepRecord) -> None:
        for recorder in self._recorders:
            recorder.record(step)


def run(
    patch: PatchSection, model: ModelSection, start: StartSection, train: TrainSection, register: RegisterSection
) -> None:
    """Trains the candidates one after the other and keeps the best; a killed run goes on where it was.

    `register` says where MLflow is; it decides where the run is recorded and nothing of what comes out.
    """
    from vigil.delivery.mlflow_tracking import training_run
    from vigil.images.shards import PatchShards
    from vigil.networks.pair import PairSpec, save_pair
    from vigil.networks.teacher import read_teacher
    from vigil.scoring.memory_fit import fit_memory
    from vigil.scoring.scorer import device_of
    from vigil.training.loop import train_candidate
    from vigil.training.selection import rank_candidates

    shards = {split: PatchShards.open(layout.PATCHES[split]) for split in ("train", "calibration")}
    digests = {split: part.digest for split, part in shards.items()}
    settings = {section: values.model_dump(mode="json") for section, values in (("patch", patch), ("model", model))}
    settings["train"] = train.model_dump(mode="json")
    warm = _warm_start(start)
    lineage = {} if warm is None else {"start": warm.record}
    settings |= lineage
    work = layout.WORK / "train"

    results: dict[str, Any] = {}
    scores: list[CandidateScores] = []
    losses: dict[str, list[StepRecord]] = {}
    grid = shards["calibration"].rows_of(source="grid")
    index = shards["calibration"].index.take(grid)
    image_ids, labels = index.column("image_id").to_pylist(), index.column("image_label").to_numpy()
    with training_run(register, work, settings, digests) as tracked:
        for candidate in train.candidates:
            own_model, own_train = candidate_sections(model, train, candidate)
            spec = PairSpec(channels=patch.channels, patch_size_px=patch.patch_size_px, model=own_model)
            own = {"model": own_model.model_dump(mode="json"), "train": own_train.model_dump(mode="json")}
            if own_train.teacher is not None:
                own["teacher"] = {"sha256": read_teacher(Path(own_train.teacher.weights))[1]}
            _log.info("candidate %s", candidate.name)
            rows = MemoryRecorder()
            with tracked.candidate(candidate.name, {**own, "seed": candidate.seed}) as recorder:
                pair = train_candidate(
                    spec, own_train, candidate.seed, shards["train"], work / candidate.name, _Both(rows, recorder), warm
                )
            fit_memory(
                pair,
                shards["train"],
                seed=candidate.seed,
                device=device_of(own_train.device),
                old=None if warm is None else warm.old,
                old_share=0.0 if warm is None else warm.share,
            )
            patches = shards["calibration"].read(grid)
            scores.append(_scores(candidate.name, pair, own_train, candidate.seed, patches, not labels.any()))
            results[candidate.name] = (pair, {"seed": candidate.seed, **own})
            losses[candidate.name] = rows.steps

        selection = rank_candidates(scores, image_ids, labels)
        pair, record = results[selection.chosen]
        save_pair(layout.PAIR, pair, {"candidate": selection.chosen, **record, "data": digests, **lineage})
        write_text(layout.LOSSES, _losses_csv(losses))
        images_seen = {name: steps[-1].images_seen for name, steps in losses.items()}
        report = {
            "selection": selection.to_record(),
            "candidates": {name: entry for name, (_, entry) in results.items()},
            "images_seen": images_seen,
            "train_patches": len(shards["train"]),
            "data": digests,
            **lineage,
            "final_losses": {name: _without_timings(steps[-1]) for name, steps in losses.items()},
        }
        write_json(layout.TRAIN_REPORT, report)
        tracked.log_pair(layout.PAIR)
        tracked.log(
            metrics={f"selection.{n}": v for n, v in selection.values.items()},
            tags={"chosen": selection.chosen, **_lineage_tags(warm)},
        )
        tracked.log_files([layout.LOSSES, layout.TRAIN_REPORT])
    shutil.rmtree(work)  # checkpoints; the pair is written, and DVC keeps it
    _log.info("chosen: %s (%s)", selection.chosen, selection.reason)


def _warm_start(start: StartSection) -> WarmStart | None:
    """What the start stage prepared: the parent's pair and what is rehearsed of its data; None from scratch."""
    import numpy as np

    from vigil.images.rehearsal import decode
    from vigil.training.rehearsal import WarmStart

    parent = read_json(layout.START / "start.json")["parent"]
    if parent is None:
        return None
    kept = decode(KEPT.read(layout.REHEARSAL["train"])).pixels if start.rehearsal_share else []
    pair = layout.START / layout.PARENT_BUNDLE / "pair"
    _log.info("from version %d, rehearsing %d old patches", parent["version"], len(kept))
    return WarmStart(pair, parent, start.rehearsal_share, np.stack(kept) if kept else None)


def _lineage_tags(warm: WarmStart | None) -> dict[str, str]:
    if warm is None:
        return {}
    return {
        "vigil.parent_version": str(warm.parent["version"]),
        "vigil.parent_bundle_digest": str(warm.parent["bundle"]),
    }


def _scores(
    name: str, pair: Pair, train: TrainSection, seed: int, patches: NDArray[np.uint8], normal_only: bool
) -> CandidateScores:
    """What a candidate makes of the calibration patches and, where these are all normal and it points, of the same
    patches with pseudo-anomalies."""
    from vigil.scoring.scorer import device_of, score_patches
    from vigil.training.selection import CandidateScores

    device = device_of(train.device)
    found = score_patches(pair, patches, device=device, batch_size=_BATCH)
    if found.published is not None:
        return CandidateScores(name, found.published, found.contextual, published=found.published)
    assert found.contextual is not None, "a system without a published score is the paper's pair"
    assert found.latent is not None
    if not pair.spec.model.pointing and found.self_supervision is not None:
        return CandidateScores(name, found.self_supervision, found.contextual, self_supervision=found.self_supervision)
    if not pair.spec.model.pointing:
        return CandidateScores(name, _ETA * found.contextual + (1 - _ETA) * found.latent, found.contextual)
    if not normal_only:
        return CandidateScores(name, found.map_peak, found.contextual)
    stamped = stamped_copies(patches, train.pseudo_anomalies, seed, "selection")
    after = score_patches(pair, stamped, device=device, batch_size=_BATCH)
    return CandidateScores(name, found.map_peak, found.contextual, after.map_peak)


def _without_timings(step: StepRecord) -> Mapping[str, float]:
    return {key: value for key, value in asdict(step).items() if key not in TIMINGS}


def _losses_csv(losses: Mapping[str, list[StepRecord]]) -> str:
    """One row per candidate and interval, without clock times, so that equal runs give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [key for key in StepRecord.__dataclass_fields__ if key not in TIMINGS]
    writer.writerow(["candidate", *header])
    for name, steps in losses.items():
        writer.writerows([name, *_without_timings(step).values()] for step in steps)
    return text.getvalue()
