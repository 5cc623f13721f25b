"""What a finished cell measured, beyond what the pipeline's stages report, read off in the cell's folder.

Two things are measured here and nowhere else, each for one column: patches cut where the masks say, with one rule for
the place of normal and defective ones; and the protocol `released`, which is a leak and is called one.

Legend: N patches, P patch side, C channels.
"""

from __future__ import annotations

import csv
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from vigil.benchmark.cells import Cell
from vigil.benchmark.systems import system_named
from vigil.calibration.calibration import Calibration, read_calibration
from vigil.calibration.ranking import auroc
from vigil.config import Params, candidate_sections
from vigil.evaluation.baselines import pixel_features
from vigil.evaluation.localisation import stitched_images
from vigil.files import read_json, written_aside
from vigil.images.patches import extract
from vigil.images.shards import PatchShards
from vigil.networks.pair import Pair, PairSpec, build_pair, load_pair
from vigil.records import ANOMALOUS, NORMAL, PATCH_SCORES
from vigil.scoring.reduction import components_of, image_scores, images_of
from vigil.scoring.released import score_released
from vigil.scoring.scorer import device_of, score_patches
from vigil.seeding import numpy_generator
from vigil.stages import layout
from vigil.training.checkpoint import load_result
from vigil.training.loop import train_candidate
from vigil.training.plan import Plan, code_digest, make_plan, resolve_device, resolve_precision
from vigil.training.recorder import StepRecord

_RELEASED_BATCH = 64
"""Of the public test loaders."""
_SETTLING = ("contextual_loss", "self_supervised_loss")
"""Losses that fall to a level and stay there; adversarial ones do not."""
_CONVERGED_WITHIN = 0.05
FALSE_POSITIVE_RATES = np.arange(101) / 100
"""At which a record keeps the recall."""


def collect(params: Params, looks: Looks | None) -> dict[str, Any]:
    """What a table may show of the cell in the working directory, as JSON values.

    Raises:
        DataError, CheckpointError: An artefact of a stage is missing or damaged.
    """
    evaluation, audit = read_json(layout.EVALUATION), read_json(layout.AUDIT)
    calibration = read_calibration(layout.CALIBRATION)
    taken_over = (
        *("auroc", "recall", "fpr", "images", "per_kind", "pixel_auroc", "aupro", "promise_kept"),
        *("recall_at_5_percent_fpr", "box_hit_rate", "patch_auroc_inside"),
    )
    return {
        **{name: evaluation[name] for name in taken_over},
        "trivial": {name: row["auroc"] for name, row in evaluation["trivial_baselines"].items()},
        "untrained": evaluation["untrained_baseline"]["auroc"],
        "patch_auroc_paper": evaluation["paper_protocol"]["patch_auroc"],
        "mask_cropped": mask_cropped(params, load_pair(layout.PAIR)[0], calibration),
        "released": None if looks is None else looks.released(params),
        "epochs_to_converge": epochs_to_converge(params, layout.LOSSES),
        "roc": recall_by_fpr(layout.ROC),
        "losses": losses_by_images(layout.LOSSES),
        "leaks": audit["leaks"],
        "shortcuts": {name: row["auroc"] for name, row in audit["findings"].items()},
    }


def recall_by_fpr(roc: Path) -> list[float] | None:
    """The highest recall at a false-positive rate of at most 0, .01, ... 1, of a file that the evaluation wrote; None
    where the test split has images of one label only."""
    with roc.open(newline="") as file:
        points = [(float(row["fpr"]), float(row["recall"])) for row in csv.DictReader(file)]
    if not points:
        return None
    fpr, recall = np.array(points).T
    grid = FALSE_POSITIVE_RATES + 1e-9  # a rate of .05 may be written a little above it
    last = np.searchsorted(fpr, grid, side="right") - 1
    return [round(float(value), 4) for value in recall[last]]


def losses_by_images(losses: Path) -> list[dict[str, float]]:
    """The intervals of the cell's one candidate: images seen, and the losses that it has."""
    rows = _intervals(losses)
    kept = [name for name in rows[0] if name.endswith("_loss") and any(row[name] for row in rows)]
    return [{name: round(row[name], 6) for name in ("images_seen", *kept)} for row in rows]


def _intervals(losses: Path) -> list[dict[str, float]]:
    with losses.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(text) for name, text in row.items() if name != "candidate"} for row in rows]


def spent(params: Params, seconds: dict[str, float]) -> dict[str, Any]:
    """What the cell in the working directory cost, and on what."""
    report = read_json(layout.TRAIN_REPORT)
    (images_seen,) = report["images_seen"].values()
    patches = sum(len(PatchShards.open(layout.PATCHES[split])) for split in ("calibration", "test"))
    device = resolve_device(params.train)
    return {
        "images_seen": images_seen,
        "train_patches": report["train_patches"],
        "epochs": images_seen / report["train_patches"],
        "batch_size": params.train.batch_size,
        "width": params.model.base_width,
        "patch_px": params.patch.patch_size_px,
        "image_px": params.patch.shorter_side_px,
        "latent_search_steps": params.model.latent_search.steps if params.model.name == "anogan" else None,
        "precision": resolve_precision(params.train, device),
        "hardware": _hardware(device),
        "torch": torch.__version__,
        "code": code_digest(Path(__file__).parents[1])[:12],
        "seconds": {**seconds, "score_ms_per_patch": round(1000 * seconds["score"] / patches, 2)},
    }


def _hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {torch.get_num_threads()} thread(s) of {os.cpu_count()}"


def epochs_to_converge(params: Params, losses: Path) -> float | None:
    """Epochs after which the loss stays within 5 % of where it ends; None where that is its last interval, so that it
    was still falling when the budget was used up, or where the system plays an adversarial game alone.

    The loss is the contextual one or, of Patch-SVDD, the self-supervised one. The paper says "converges" and not by
    what rule.
    """
    rows = _intervals(losses)
    columns = (np.array([row[name] for row in rows]) for name in _SETTLING)
    loss = next((values for values in columns if values.any()), None)
    if loss is None:
        return None
    near = np.abs(loss - loss[-1]) <= _CONVERGED_WITHIN * abs(loss[-1])
    first = len(loss) - int(np.argmin(near[::-1])) if not near.all() else 0
    if first >= len(loss) - 1:
        return None
    return params.train.epochs * rows[first]["images_seen"] / rows[-1]["images_seen"]


# ------------------------------------------------------------------------------------------------------- mask-cropped


def mask_cropped(params: Params, pair: Pair, calibration: Calibration) -> dict[str, Any] | None:
    """AUROC of patches cut where a mask or box lies against patches of normal test images cut in the same places.

    A defective patch lies where its defect is. If normal ones lay on a grid, the place alone could tell them apart; so
    each normal image gives patches at places drawn, by a seed, from those of the defective ones, relative to the
    image's size. Trivial features of the same patches stand beside.

    Returns:
        JSON values; None where the test split has no patch of a mask or box.
    """
    test = PatchShards.open(layout.PATCHES["test"])
    rows = test.rows_of("roi")
    if not len(rows):
        return None
    index = test.index.take(rows)
    size = params.patch.patch_size_px
    room = np.stack([index.column(name).to_numpy() for name in ("image_height", "image_width")], axis=1) - size
    place = np.stack([index.column(name).to_numpy() for name in ("y", "x")], axis=1) / np.maximum(room, 1)
    normal = _same_places(test, params, np.clip(place, 0, 1))

    scored = PATCH_SCORES.read(layout.SCORES["test"])
    components = components_of(scored.filter(pc.equal(scored.column("source"), "roi")))
    device = device_of(params.score.device)
    of_normal = score_patches(pair, normal, device=device, batch_size=params.score.batch_size).alone()
    scores = np.concatenate([calibration.patch_scores(of_normal.columns()), calibration.patch_scores(components)])
    labels = np.repeat([NORMAL, ANOMALOUS], [len(normal), len(rows)])
    features = [pixel_features(patch) for patch in (*normal, *test.read(rows))]
    trivial = {name: auroc(labels, np.array([row[name] for row in features])) for name in features[0]}
    return {
        "auroc": auroc(labels, scores),
        "normal_patches": len(normal),
        "defective_patches": len(rows),
        "trivial": {name: max(value, 1 - value) for name, value in trivial.items()},
    }


def _same_places(test: PatchShards, params: Params, place: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Patches [N, P, P, C] of the normal test images, about as many as there are places [K, 2], each from 0 to 1."""
    size, cut = params.patch.patch_size_px, []
    ids, first = np.unique(np.asarray(test.index.column("image_id").to_pylist(), np.str_), return_index=True)
    normal = set(ids[test.index.column("image_label").to_numpy()[first] == NORMAL].tolist())
    each = max(1, round(len(place) / len(normal)))
    for number, image in enumerate(stitched_images(test, params.patch, only=normal)):
        drawn = numpy_generator(params.split.seed, "same places", number).integers(len(place), size=each)
        room = np.maximum(np.array(image.pixels.shape[:2]) - size, 0)
        cut.append(extract(image.pixels, np.rint(place[drawn] * room).astype(np.int64), params.patch))
    return np.concatenate(cut)


# ----------------------------------------------------------------------------------------------------------- released


def is_released(cell: Cell) -> bool:
    """Whether the cell also measures the protocol `released`: where the public code scores in training mode."""
    return system_named(cell.system).released


class Looks:
    """The weights after each interval of a training, and what they score when they are chosen on the test images.

    This is what the public code of the family does: batch normalisation stays in training mode, the test loader gives
    normal images first and anomalous ones after them, in batches of 64, and the best epoch on the test set is reported.
    It is a leak, measured to show what it is worth; nothing else reads it.

    differs from the public code: it leaves out the last, smaller batch, which is scored here.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: Where the weights are kept until they are scored.
        """
        self._folder = folder

    def train(self, params: Params) -> None:
        """Trains the one candidate as the train stage will find it, and keeps the weights of every interval."""
        plan, patches = _plan(params)
        keeper = _Keeper(plan.folder, self._folder)
        work = layout.WORK / "train" / params.train.candidates[0].name
        train_candidate(plan.spec, plan.train, plan.seed, patches, work, keeper)
        keeper.keep()

    def released(self, params: Params) -> dict[str, Any]:
        """AUROC of the test images at each look and at the best of them."""
        plan, _ = _plan(params)
        test = PatchShards.open(layout.PATCHES["test"])
        images = images_of(PATCH_SCORES.read(layout.SCORES["test"]))
        rows = test.rows_of("grid")
        order = np.argsort(test.index.column("image_label").to_numpy()[rows], kind="stable")
        found: dict[str, float] = {}
        for look in sorted(self._folder.glob("checkpoint-*")):
            pair = build_pair(plan.spec, plan.seed)
            state = load_result(look, plan.run, pair)
            assert state is not None  # a look is a checkpoint
            device = device_of(params.score.device)
            scored = score_released(pair, test.read(rows[order]), device=device, batch_size=_RELEASED_BATCH)
            assert scored.published is not None  # every system with batch normalisation has a score of its own
            scores = np.empty(len(rows))
            scores[order] = scored.published
            per_image = image_scores(scores, images.patch_image, params.calibrate.reduction)
            found[str(state.images_seen)] = auroc(images.labels, per_image)
        best = max(found, key=found.__getitem__)
        return {"auroc": found[best], "images_seen": int(best), "looks": found}


def _plan(params: Params) -> tuple[Plan, PatchShards]:
    """The run of the one candidate, exactly as the train stage makes it."""
    patches = PatchShards.open(layout.PATCHES["train"])
    candidate = params.train.candidates[0]
    model, train = candidate_sections(params.model, params.train, candidate)
    spec = PairSpec(channels=params.patch.channels, patch_size_px=params.patch.patch_size_px, model=model)
    return make_plan(spec, train, candidate.seed, patches, layout.WORK / "train" / candidate.name), patches


class _Keeper:
    """A recorder that keeps each checkpoint before the loop replaces it."""

    def __init__(self, checkpoints: Path, folder: Path) -> None:
        self._checkpoints, self._folder = checkpoints, folder

    def record(self, _step: StepRecord) -> None:
        """Called before the interval's own checkpoint is written, when that of the one before is still there."""
        self.keep()

    def keep(self) -> None:
        """Links the files of what checkpoints there are; a link costs no space."""
        for checkpoint in self._checkpoints.glob("checkpoint-*"):
            look = self._folder / checkpoint.name
            if not look.exists():
                with written_aside(look) as new:
                    shutil.copytree(checkpoint, new / checkpoint.name, copy_function=os.link)
