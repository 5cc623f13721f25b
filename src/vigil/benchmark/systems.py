"""The systems of the tables: what each is called, and how its settings differ from those that all of a table share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vigil.config import PseudoAnomalySection

PAIR = "dense_skip_gan"
"""The paper's own pair; its cells also measure the baseline rows of a table."""


@dataclass(frozen=True, slots=True)
class System:
    """One row of a table."""

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Sections of params.yaml, laid over the shared ones."""
    released: bool = False
    """Whether it is of the family whose public code leaves batch normalisation in training mode when it scores."""


_PAIR = {"model": {"name": PAIR}}


def _baseline(name: str, label: str, weights: Mapping[str, float] | None = None, released: bool = False) -> System:
    """A system with the loss weights of its own description and the score that it defines."""
    settings: dict[str, Any] = {"model": {"name": name}, "calibrate": {"score": "published"}}
    if weights is not None:
        settings["train"] = {"weights": weights}
    return System(name, label, settings, released)


SYSTEMS = {
    system.name: system
    for system in (
        _baseline("anogan", "AnoGAN"),
        _baseline("egbad", "EGBAD"),
        _baseline("ganomaly", "GANomaly", {"adversarial": 1, "contextual": 50, "latent": 1}, released=True),
        _baseline("skip_ganomaly", "Skip-GANomaly", released=True),
        _baseline("dagan", "DAGAN", released=True),
        _baseline("unet_autoencoder", "U-Net autoencoder"),
        _baseline("patch_svdd", "Patch-SVDD", {"latent": 1, "self_supervision": 1}),
        System(PAIR, "the paper's pair", _PAIR),
    )
}
"""The systems of tables 1 to 3, in their order."""

ABLATIONS = {
    system.name: system
    for system in (
        System(PAIR, "the paper's pair", _PAIR),
        System("without_attention", "attention off", {"model": {"name": PAIR, "attention": {"enabled": False}}}),
        System(
            "without_spectral_norm", "spectral normalisation off", {"model": {"name": PAIR, "spectral_norm": False}}
        ),
        System(
            "wasserstein", "Wasserstein loss, gradient penalty", {**_PAIR, "train": {"adversarial": "wasserstein_gp"}}
        ),
    )
}
"""The paper's pair, one switch at a time."""

_COPIES = {
    "model": {"pointing": False, "self_supervision": {"enabled": False}, "memory": {"enabled": False}},
    "train": {
        "objective": "reconstruct",
        "generator_share": 1.0,
        "weights": {"adversarial": 1.0, "contextual": 40.0, "latent": 1.0},
    },
    "calibrate": {"score": "eq6", "eta": 0.9},
}
_RESTORES = {
    "model": {"pointing": False},
    "train": {"generator_share": 1.0},
    "calibrate": {"score": "map_peak"},
}
_MEMORY = {"memory": {"enabled": True, "features": "discriminator"}}


def _beyond(*systems: System) -> dict[str, System]:
    return {system.name: system for system in systems}


_WHOLE = System("beyond", "all together: the preset")
_OF_THE_PAPER = System("beyond_copies", "the paper's objective and score on the same patches", _COPIES)
_POINTING = (
    _WHOLE,
    _OF_THE_PAPER,
    System("beyond_restores", "restores, does not point: residual", _RESTORES),
    System(
        "beyond_points_at_restorations",
        "points, seeing the restoration as well",
        {"model": {"pointing_sees": "patch_and_restoration"}, "train": {"generator_share": 1.0}},
    ),
    System("beyond_one_view", "map of one view", {"model": {"pointing_views": 1}}),
    System(
        "beyond_adversarial",
        "adversarial and latent terms on",
        {"train": {"generator_share": 1.0, "weights": {"adversarial": 1.0, "latent": 1.0}}},
    ),
    System("beyond_memory", "score: memory of features", {"model": _MEMORY, "calibrate": {"score": "memory"}}),
    System(
        "beyond_fitted",
        "score: fitted, of map, memory, A_G and A_D",
        {"model": _MEMORY, "score": {"stamped_patches": 800}, "calibrate": {"score": "fitted"}},
    ),
)
BEYOND_SCANS = _beyond(
    *_POINTING,
    System(
        "beyond_plain_stamps",
        "default stamps in place of the preset's",
        {"train": {"pseudo_anomalies": PseudoAnomalySection().model_dump(mode="json", exclude={"decoy_fraction"})}},
    ),
    System("beyond_patches_alone", "score: each patch by itself", {"calibrate": {"score": "map_peak"}}),
    System("beyond_sharp_colour", "the decoder sees colour sharp", {"model": {"pointing_colour": "sharp"}}),
    System("beyond_without_decoys", "no decoys", {"train": {"pseudo_anomalies": {"decoy_fraction": 0.0}}}),
    System(
        "beyond_narrow_photometric",
        "photometric changes in a narrow range",
        {"train": {"photometric_range": "narrow"}},
    ),
    System("beyond_without_photometric", "no photometric changes", {"train": {"photometric_share": 0.0}}),
)
"""The preset of X-ray scans, one switch at a time."""
BEYOND_PARTS = _beyond(*_POINTING)
"""The presets of objects and surfaces, one switch at a time."""
BEYOND_SMALL = _beyond(
    _WHOLE,
    _OF_THE_PAPER,
    System("beyond_turns", "score: unsure of the turn", {"calibrate": {"score": "self_supervision"}}),
)
"""The preset of small natural images, one switch at a time."""


def system_named(name: str) -> System:
    """The system, ablation or switch of this name."""
    return {**ABLATIONS, **BEYOND_SCANS, **BEYOND_PARTS, **BEYOND_SMALL, **SYSTEMS}[name]


def is_beyond(name: str) -> bool:
    """Whether it is a switch of a preset beyond the paper, with that preset's own settings and budget."""
    return name in BEYOND_SCANS or name in BEYOND_PARTS or name in BEYOND_SMALL
