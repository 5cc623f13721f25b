"""The systems of the tables: what each is called, and how its settings differ from those that all of a table share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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


def system_named(name: str) -> System:
    """The system or ablation of this name."""
    return SYSTEMS.get(name) or ABLATIONS[name]
