"""From a cell to a complete params file: its data set's preset, one shared budget, and the system's own switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vigil.benchmark.cells import BudgetName, Cell
from vigil.benchmark.systems import is_beyond, system_named
from vigil.config import Params, load_params, parse_params
from vigil.errors import ConfigError

PRESETS = {
    "cifar10": "cifar10.yaml",
    "mvtec": "mvtec.yaml",
    "magnetic_tile": "magnetic-tile.yaml",
    "sixray": "sixray.yaml",
    "baggage": "baggage-paper.yaml",
}
"""Whose `data` and `validate` sections a cell takes over."""
BEYOND_PRESETS = {
    "cifar10": "cifar10-one-class.yaml",
    "mvtec": "mvtec.yaml",
    "magnetic_tile": "magnetic-tile.yaml",
    "sixray": "sixray.yaml",
    "baggage": "../params.yaml",
}
"""Of which a switch beyond the paper changes one thing; every other setting is taken over."""
_BEYOND_EPOCHS_CPU: Mapping[str, float] = {
    **dict.fromkeys(("baggage", "sixray"), 1 / 3),
    **dict.fromkeys(("mvtec", "magnetic_tile"), 1 / 9),
    "cifar10": 1,
}
"""Of the preset's own epochs, by data set: with these a row trains for minutes on one core."""
_BEYOND_EPOCHS_GPU = 8
"""The same with the other budgets; the presets' own epochs are CPU budgets."""
RAW = Path("data/raw")
"""Below the cell's folder, as in a project."""
SIXRAY_SETS = {"A": 10_000, "B": 100_000, "C": 500_000}
"""Normal images of the paper's training sets."""
TARGET_FPR = 0.05


@dataclass(frozen=True, slots=True)
class Budget:
    """What every system of a table may spend on a task, and what it sees."""

    images_seen: int | None
    """Training patches shown; None: `epochs` decides."""
    width: int
    """Width class: channels of a network's first level."""
    patch_size_px: int
    epochs: float | None = None
    shorter_side_px: int | None = None
    stride_px: int | None = None
    """None: the patch size, so that patches do not overlap."""
    batch_size: int = 32
    max_train_images: int | None = None
    max_calibration_images: int | None = None
    max_test_images: int | None = None
    """Of each label, a seeded subset."""
    bootstrap_samples: int = 1000
    latent_search_steps: int = 500
    """Of AnoGAN, whenever it scores a patch; the published number is 500."""
    audited_images: int = 24
    """Test images that the leakage audit scores again, in other orders, batches and company."""
    looks: int = 10
    """How often the loss is recorded, and how many epochs the protocol `released` may choose from."""


_CPU: dict[str, Any] = {"bootstrap_samples": 200, "latent_search_steps": 50, "audited_images": 4, "looks": 6}
_CPU_PATCHES = Budget(6_144, 8, 64, shorter_side_px=128, batch_size=16, **_CPU)
Budgets = Mapping[BudgetName, Mapping[str, Budget]]
"""By name and data set."""
BUDGETS: Budgets = {
    # What the paper states: 20 epochs until its pair converges, patches of 256 px that do not overlap.
    "paper": {
        "cifar10": Budget(None, 64, 32, epochs=20, batch_size=64, looks=20),
        **dict.fromkeys(
            ("mvtec", "magnetic_tile", "sixray", "baggage"), Budget(None, 64, 256, epochs=20, batch_size=16, looks=20)
        ),
    },
    # Minutes per cell on one GPU.
    "gpu": {
        "cifar10": Budget(300_000, 32, 32, batch_size=64),
        **dict.fromkeys(
            ("mvtec", "magnetic_tile", "sixray", "baggage"),
            Budget(100_000, 16, 128, shorter_side_px=256, stride_px=64, batch_size=32),
        ),
    },
    # About a minute per cell on one CPU core.
    "cpu": {
        "cifar10": Budget(
            16_384, 8, 32, max_train_images=3000, max_calibration_images=200, max_test_images=400, **_CPU
        ),
        "mvtec": _CPU_PATCHES,
        "magnetic_tile": Budget(6_144, 8, 64, shorter_side_px=64, batch_size=16, max_test_images=100, **_CPU),
        "sixray": _CPU_PATCHES,
        "baggage": replace(_CPU_PATCHES, max_train_images=300, max_calibration_images=60, max_test_images=90),
    },
}


def budget_of(cell: Cell, budgets: Budgets, presets: Path) -> Budget:
    """What the cell may spend: its table's budget or, for a switch beyond the paper, that of its preset.

    Raises:
        ConfigError: The preset is missing or broken.
    """
    if not is_beyond(cell.system):
        return budgets[cell.budget][cell.task.data]
    preset = _beyond_preset(cell, presets)
    share = _BEYOND_EPOCHS_CPU[cell.task.data] if cell.budget == "cpu" else _BEYOND_EPOCHS_GPU
    return Budget(
        None,
        preset["model"]["base_width"],
        preset["patch"]["patch_size_px"],
        epochs=preset["train"]["epochs"] * share,
    )


def settings_of(cell: Cell, budget: Budget, presets: Path) -> dict[str, Any]:
    """All sections of the cell's params file as JSON values, but for `train.epochs` and where MLflow is.

    Args:
        cell: The cell.
        budget: What it may spend.
        presets: Folder of the project's presets.

    Raises:
        ConfigError: The preset is missing or broken, or the settings do not fit each other.
    """
    if is_beyond(cell.system):
        return _laid_over(_of_preset(cell, presets), system_named(cell.system).settings)
    preset = _preset(presets / PRESETS[cell.task.data])
    shared = {
        "data": {**preset["data"], **_data(cell)},
        "validate": preset["validate"],
        "split": _split(cell, budget, preset["split"]),
        "patch": _patch(cell, budget, preset["patch"]["channels"]),
        **_networks(cell.seed, budget),
        # What a version hands on to later ones; no cell has a later one.
        "start": {"keep_train_mib": 0.01, "keep_test_mib": 0.01},
        "score": {"batch_size": 64},
        "calibrate": {"score": "eq6", "eta": 0.9, "target_fpr": TARGET_FPR},
        "evaluate": {"protocol": "paper", "bootstrap_samples": budget.bootstrap_samples},
        "audit": {
            "bootstrap_samples": min(budget.bootstrap_samples, 500),
            "sample_images": budget.audited_images,
        },
    }
    if cell.system == "anogan":
        shared["model"]["latent_search"] = {"steps": budget.latent_search_steps}
        shared["score"]["batch_size"] = 16  # of its search; a larger one would only make the audit's batches longer
    return _laid_over(shared, system_named(cell.system).settings)


def _of_preset(cell: Cell, presets: Path) -> dict[str, Any]:
    """The preset as a user would run it, with the cell's seed for the split and for training."""
    preset = _beyond_preset(cell, presets)
    return _laid_over(
        {name: section for name, section in preset.items() if name not in ("register", "promote")},
        {
            "data": _data(cell),
            "split": {"seed": cell.seed},
            "train": {"candidates": [{"name": f"seed-{cell.seed}", "seed": cell.seed}]},
            "start": {"keep_train_mib": 0.01, "keep_test_mib": 0.01},
            "evaluate": {"protocol": "paper"},
        },
    )


def _beyond_preset(cell: Cell, presets: Path) -> dict[str, Any]:
    path = presets / BEYOND_PRESETS[cell.task.data]
    preset = _preset(path)
    if preset["data"]["name"] != cell.task.data:
        raise ConfigError(
            f"{path}: expected the default for {cell.task.data}, found one for {preset['data']['name']}; get it back "
            f"with `git restore params.yaml`, or name another folder with --presets"
        )
    return preset


@cache
def _preset(path: Path) -> dict[str, Any]:
    return load_params(path).model_dump(mode="json", by_alias=True)


def params_of(settings: dict[str, Any], budget: Budget, train_patches: int, register: dict[str, Any]) -> Params:
    """The complete, checked params of a cell.

    Args:
        settings: From `settings_of`.
        budget: The cell's.
        train_patches: Patches in the training split, by which images seen become epochs.
        register: The section that says where MLflow is.
    """
    epochs = budget.epochs if budget.images_seen is None else budget.images_seen / train_patches
    assert epochs is not None
    total = max(round(epochs * train_patches), 1)
    every = max(-(-total // budget.looks), 1)
    train = settings["train"] | {"epochs": epochs, "log_every_images": every, "checkpoint_every_images": every}
    return parse_params({**settings, "train": train, "register": register}, "the cell's settings")


def _data(cell: Cell) -> dict[str, Any]:
    task = cell.task
    here: dict[str, Any] = {"root": str(RAW / task.data)}
    if task.reading != "as_published":
        here |= {"protocol": task.reading, "held_class": task.part}
    if task.data == "mvtec":
        here["category"] = task.part
    if task.data == "sixray":
        images = SIXRAY_SETS.get(task.part)
        here["subset"] = None if images is None else {"images": images, "seed": cell.seed}
    return here


def _split(cell: Cell, budget: Budget, preset: dict[str, Any]) -> dict[str, Any]:
    """Calibration holds normal images only, so that the threshold answers for a false-positive rate in every table."""
    return {
        **preset,
        "seed": cell.seed,
        # A quarter for calibration where there are few images: below 19 no threshold keeps 5 % false positives.
        "calibration_fraction": 0.25 if cell.task.data == "sixray" else 0.15,
        "test_fraction": 0.25,
        "calibration_anomaly_fraction": 0.0,
        "max_train_images": budget.max_train_images,
        "max_calibration_images": budget.max_calibration_images,
        "max_test_images": budget.max_test_images,
    }


def _patch(cell: Cell, budget: Budget, channels: int) -> dict[str, Any]:
    whole = cell.task.reading != "as_published"
    return {
        "channels": channels,
        "patch_size_px": budget.patch_size_px,
        "stride_px": budget.stride_px or budget.patch_size_px,
        "shorter_side_px": budget.patch_size_px if whole else budget.shorter_side_px,
        "edge": "reflect",
        "regions_of_interest": not whole,
        "buckets": 4,
        "workers": 1,
    }


def _networks(seed: int, budget: Budget) -> dict[str, Any]:
    """The paper's pair, objective and weights; differs from the paper: a rate of 2e-4, since its 8e-3 lets the
    discriminator die under Adam with spectral normalisation."""
    width = budget.width
    return {
        "model": {
            "base_width": width,
            "depth": 4,
            "max_width": 16 * width,
            "discriminator_width": 2 * width,
            "feature_channels": 8 * width,
            "attention": {"enabled": True, "heads": 4, "key_channels": 2 * width, "value_channels": 2 * width},
        },
        "train": {
            "objective": "reconstruct",
            "batch_size": budget.batch_size,
            "optimizer": "adam",
            "learning_rate": 2e-4,
            "betas": [0.5, 0.999],
            "weights": {"adversarial": 1.0, "contextual": 40.0, "latent": 1.0},
            "candidates": [{"name": f"seed-{seed}", "seed": seed}],
        },
    }


def _laid_over(values: dict[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those of `upper` in their place, section by section."""
    merged = dict(values)
    for key, value in upper.items():
        under = merged.get(key)
        merged[key] = _laid_over(under, value) if isinstance(under, dict) and isinstance(value, Mapping) else value
    return merged
