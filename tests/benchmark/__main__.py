"""`make bench`: speed of training and scoring, as ratios measured side by side in one run.

Writes `docs/benchmarks/vigil_<processor>_<date>.md`. What data cost is measured by `make bench-data`.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric

from tests.benchmark.page import machine, written
from tests.benchmark.rounds import ROUNDS, in_rounds, ratios
from vigil.config import ModelSection, TrainSection
from vigil.networks.dense_skip_gan import DenseSkipGan
from vigil.networks.pair import PairSpec, build_pair
from vigil.scoring.scorer import score_patches
from vigil.training.steps import discriminator_step, generator_step, make_players


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: what, units per second of both variants (medians), and the median of the pairwise ratios."""

    name: str
    unit: str
    base: str
    base_rate: float
    other: str
    other_rate: float
    ratio: float
    low: float
    high: float


def in_turns(
    name: str, unit: str, units: int, base: str, a: Callable[[], object], other: str, b: Callable[[], object]
) -> Row:
    """Times both variants in turns; the ratio is the other's speed over the base's."""
    taken = in_rounds({base: a, other: b})
    seconds = {variant: [s.wall for s in runs] for variant, runs in taken.items()}
    found = ratios(seconds[base], seconds[other])
    rates = [units / statistics.median(seconds[variant]) for variant in (base, other)]
    return Row(name, unit, base, rates[0], other, rates[1], statistics.median(found), min(found), max(found))


def training_step(model: ModelSection, precision: str, batch: int, size: int) -> Callable[[], None]:
    """One discriminator and one generator step on random patches."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    train = TrainSection()
    pair = build_pair(PairSpec(channels=3, patch_size_px=size, model=model), 0)  # type: ignore[arg-type]
    assert isinstance(pair, DenseSkipGan)
    for network in (pair.generator, pair.discriminator):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    players = make_players(pair, train)
    x = torch.rand(batch, 3, size, size).mul(2).sub(1).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with fabric.autocast():
            reconstruction = pair.generator(x)
        discriminator_step(fabric, players, x, reconstruction, train.weights)
        generator_step(fabric, players, x, reconstruction, train.weights)

    return step


def scoring(batch: int) -> Callable[[], object]:
    """Scores 64 patches in batches of one size."""
    pair = build_pair(PairSpec(channels=3, patch_size_px=64, model=ModelSection()), 0)
    patches = np.random.default_rng(0).integers(0, 255, (64, 64, 64, 3), np.uint8)
    return partial(score_patches, pair, patches, device="cpu", batch_size=batch)


def main() -> None:
    """Runs every comparison and writes the table."""
    wide, lean = ModelSection(), ModelSection(outer_rows_without_skips=2)
    rows = [
        in_turns(
            "training step, 64 px, batch 16", "patches/s", 16,
            "32-bit", training_step(wide, "32-true", 16, 64), "bf16", training_step(wide, "bf16-mixed", 16, 64),
        ),
        in_turns(
            "training step, 64 px, batch 16, bf16", "patches/s", 16,
            "all skip rows", training_step(wide, "bf16-mixed", 16, 64),
            "two outer rows left out", training_step(lean, "bf16-mixed", 16, 64),
        ),
        in_turns("scoring 64 patches, 64 px", "patches/s", 64, "batch 1", scoring(1), "batch 32", scoring(32)),
    ]  # fmt: skip
    lines = [
        f"{machine()}. {ROUNDS} rounds in turns after a warm-up; rates are medians, the ratio is the second variant's "
        f"speed over the first's (median, lowest to highest). Peak memory of the run "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB. Command: `make bench`.",
        "",
        "| what | unit | first variant | rate | second variant | rate | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {r.unit} | {r.base} | {r.base_rate:.1f} | {r.other} | {r.other_rate:.1f} "
        f"| {r.ratio:.2f} ({r.low:.2f} to {r.high:.2f}) |"
        for r in rows
    ]
    written("vigil", "Training and scoring", lines)


if __name__ == "__main__":
    main()
