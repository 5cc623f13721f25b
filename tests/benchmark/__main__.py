"""`make bench`: speed and memory of the parts that cost time, as ratios measured side by side in one run.

Each pair of variants is run in turns (A B A B ...) after a warm-up and the median of the pairwise ratios is shown, so
that a machine whose speed drifts does not decide. Writes `docs/benchmarks/<name>_<processor>_<date>.md`.
"""

from __future__ import annotations

import datetime
import io
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image

import vigil
from vigil.config import ModelSection, PatchSection, TrainSection
from vigil.images.baggage import simulate_bag
from vigil.images.patches import extract, grid_positions
from vigil.images.preprocessing import preprocess
from vigil.networks.pair import PairSpec, build_pair
from vigil.scoring.scorer import score_patches
from vigil.training.steps import discriminator_step, generator_step, make_players

ROUNDS = 5
FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


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
    a()
    b()
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pair = []
        for run in (a, b):
            start = time.perf_counter()
            run()
            pair.append(time.perf_counter() - start)
        times.append((pair[0], pair[1]))
    ratios = [x / y for x, y in times]
    rates = [units / statistics.median(column) for column in zip(*times, strict=True)]
    return Row(name, unit, base, rates[0], other, rates[1], statistics.median(ratios), min(ratios), max(ratios))


def decoding_and_extraction() -> Row:
    """Decoding a JPEG alone, against decoding, preprocessing and cutting its patches."""
    files = []
    for index in range(16):
        buffer = io.BytesIO()
        Image.fromarray(simulate_bag(0, index, None, 256, 192).image).save(buffer, "JPEG", quality=92, subsampling=0)
        files.append(buffer.getvalue())
    patch = PatchSection()

    def decode() -> None:
        for content in files:
            Image.open(io.BytesIO(content)).load()

    def cut() -> None:
        for content in files:
            pixels = preprocess(Image.open(io.BytesIO(content)), patch)
            extract(pixels, grid_positions(*pixels.shape[:2], patch), patch)

    return in_turns("extraction, 256x192 JPEG", "images/s", len(files), "decode alone", decode, "decode and cut", cut)


def training_step(model: ModelSection, precision: str, batch: int, size: int) -> Callable[[], None]:
    """One discriminator and one generator step on random patches."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    train = TrainSection()
    pair = build_pair(PairSpec(channels=3, patch_size_px=size, model=model), 0)  # type: ignore[arg-type]
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
        decoding_and_extraction(),
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
    processor = platform.processor() or platform.machine()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        f"# Benchmark of vigil {vigil.__version__}, {today}",
        "",
        f"{processor}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}, NumPy {np.__version__}. {ROUNDS} rounds in turns after a warm-up; rates are medians, "
        f"the ratio is the second variant's speed over the first's (median, lowest to highest). Peak memory of the run "
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
    text = "\n".join(lines) + "\n"
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"vigil_{processor.replace(' ', '-')}_{today}.md"
    path.write_text(text)
    sys.stdout.write(
        f"{text}\nWritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}\n"
    )


if __name__ == "__main__":
    main()
