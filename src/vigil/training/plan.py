"""What a run is, settled before any network exists: budget, device, precision, and the digest that names it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import vigil
from vigil.config import TrainSection
from vigil.errors import ConfigError
from vigil.files import digest_bytes, digest_file, digest_json
from vigil.images.shards import PatchShards
from vigil.networks.pair import PairSpec, load_pair
from vigil.networks.teacher import read_teacher
from vigil.training.checkpoint import differences
from vigil.training.rehearsal import WarmStart, rehearsed_per_batch

Accelerator = Literal["cpu", "cuda"]
Precision = Literal["32-true", "bf16-mixed"]
_READ_WHEN_TRAINED = {"memory", "pointing_views"}
"""Keys of `model` that no weight depends on: the memory is fitted, and views are averaged, when training is over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a run that is settled before it starts."""

    spec: PairSpec
    train: TrainSection
    seed: int
    total_images: int
    """The budget: `epochs` times the patches, rounded up to whole batches."""
    accelerator: Accelerator
    precision: Precision
    workers: int
    """Processes per device that make batches; 0: the training process does."""
    run: dict[str, Any]
    """What fixes the weights; two runs with equal values are the same run."""
    folder: Path
    warm: WarmStart | None = None
    """None: from scratch."""


def make_plan(
    spec: PairSpec, train: TrainSection, seed: int, patches: PatchShards, work: Path, warm: WarmStart | None = None
) -> Plan:
    """Settles device, precision and budget, and refuses what cannot work, before any network is trained.

    Raises:
        ConfigError: As `train_candidate`.
        CheckpointError: The teacher's weights are damaged or of another network.
    """
    if spec.model.pointing and train.objective != "restore":
        raise ConfigError(
            f"model.pointing is on, but train.objective is '{train.objective}', so that there is nothing to point at; "
            f"set train.objective to 'restore'"
        )
    if train.batch_size % train.devices:
        raise ConfigError(
            f"train.batch_size ({train.batch_size}) is not a multiple of train.devices ({train.devices}), so the "
            f"devices' shares would differ; change one of them"
        )
    if (patches.patch_size, patches.channels) != (spec.patch_size_px, spec.channels):
        raise ConfigError(
            f"the pair is for patches of {spec.patch_size_px} px and {spec.channels} channels, the shards hold "
            f"{patches.patch_size} px and {patches.channels}; run `dvc repro` to cut them anew"
        )
    if warm is not None:
        _check_warm_start(spec, train, warm)
    accelerator = resolve_device(train)
    precision = resolve_precision(train, accelerator)
    images = max(round(train.epochs * len(patches)), 1)
    settings = train.model_dump(mode="json", exclude={"candidates", "device", "precision", "teacher", "workers"})
    if train.teacher is not None:
        settings["teacher"] = {"weight": train.teacher.weight}
    run = {
        "spec": spec.model_dump(mode="json", exclude={"model": _READ_WHEN_TRAINED}),
        "train": settings | {"device": accelerator, "precision": precision},
        "seed": seed,
        "data": patches.digest,
        "code": code_digest(Path(vigil.__file__).parent),
        "torch": torch.__version__,
    }
    if train.teacher is not None:  # what its weights are decides, not where they lie
        run["teacher"] = read_teacher(Path(train.teacher.weights))[1]
    if warm is not None:
        old = None if warm.old is None else digest_bytes(warm.old.tobytes())
        run["start"] = {**warm.record, "old": old}
    total_images = math.ceil(images / train.batch_size) * train.batch_size
    folder = Path(work) / digest_json(run)[:16]
    workers = resolve_workers(train, accelerator)
    return Plan(spec, train, seed, total_images, accelerator, precision, workers, run, folder, warm)


def _check_warm_start(spec: PairSpec, train: TrainSection, warm: WarmStart) -> None:
    found = load_pair(warm.pair)[0].spec
    wrong = differences(found.model_dump(mode="json"), spec.model_dump(mode="json"))
    if wrong:
        raise ConfigError(
            f"version {warm.parent['version']} has another architecture than this run, so its weights do not fit: "
            f"{'; '.join(wrong)}. Set these keys back, or train from scratch (`vigil train --from scratch`)."
        )
    if warm.old is not None and rehearsed_per_batch(warm.share, train.batch_size) >= train.batch_size:
        raise ConfigError(
            f"start.rehearsal_share {warm.share:g} of train.batch_size {train.batch_size} leaves no place for a new "
            f"patch; lower the share or raise the batch size"
        )


def code_digest(package: Path) -> str:
    """Of the source files that a trained weight depends on, so that changed code never takes over old checkpoints."""
    folders = sorted([*(package / "networks").rglob("*.py"), *(package / "training").rglob("*.py")])
    files = [*folders, package / "images" / "dataset.py", package / "seeding.py"]
    return digest_json([[path.relative_to(package).as_posix(), digest_file(path)] for path in files])


def resolve_device(train: TrainSection) -> Accelerator:
    """ "cuda" or "cpu"; `auto` takes the GPU where there is one.

    Raises:
        ConfigError: More GPUs were asked for than there are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if train.device == "cpu" or (train.device == "auto" and not gpus):
        return "cpu"
    if gpus < train.devices:
        raise ConfigError(
            f"train.device is '{train.device}' with train.devices = {train.devices}, but this machine has {gpus} "
            f"usable GPU(s); lower train.devices or set train.device to 'cpu'"
        )
    return "cuda"


def resolve_workers(train: TrainSection, accelerator: Accelerator) -> int:
    """Processes per device that make batches; `auto` takes what cores a GPU leaves idle where stamps are to be made.

    On a CPU the networks need every core, and patches that are only read cost next to nothing.
    """
    if train.workers != "auto":
        return train.workers
    if accelerator == "cpu" or train.objective != "restore":
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (usable - 1) // train.devices)


def resolve_precision(train: TrainSection, accelerator: Accelerator) -> Precision:
    """The precision to compute in; `auto` is bf16 exactly where the device has instructions for it.

    On a CPU these are avx512_bf16 or amx_bf16, as torch.cpu.get_capabilities reports them (a torch without that
    function counts as having none); elsewhere bf16 is emulated and slow.
    """
    if train.precision != "auto":
        return train.precision
    if accelerator == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bf16-mixed" if native else "32-true"
