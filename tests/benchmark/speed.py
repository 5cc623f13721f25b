"""`make bench-data`, its first half: extraction against pure decoding, and training input against the training step.

Ratios of what ran in turns, on a machine that should have nothing else to do. Writes
`docs/benchmarks/data-speed_<processor>_<date>.md`.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tests.benchmark.bags import LARGE, SMALL, Bags, write_bags
from tests.benchmark.page import machine, written
from tests.benchmark.rounds import ROUNDS, in_rounds, spread
from vigil.config import PatchSection, SixrayData, load_params
from vigil.images.dataset import to_tensor
from vigil.images.executors import executed
from vigil.images.extraction import extract_split
from vigil.images.manifest import build_manifest
from vigil.images.shards import PatchShards
from vigil.images.source import decode_image, decode_pixels
from vigil.networks.pair import PairSpec
from vigil.records import NORMAL
from vigil.training.loop import train_candidate
from vigil.training.recorder import MemoryRecorder
from vigil.training.rehearsal import Sources

REPOSITORY = Path(__file__).parents[2]
_MAX_PIXELS = 1 << 24
_FILES_PER_JOB = 256
_BATCH = 8
_DELIVERED, _TRAINED = 8_192, 768
"""Patches per round of the training input, and of the training step."""


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """Files to read and decode."""

    files: tuple[Path, ...]
    with_pillow: bool


def decode_files(job: DecodeJob) -> int:
    """Reads and decodes files and throws the pixels away; how many there were."""
    for file in job.files:
        with file.open("rb") as open_file:
            content = open_file.read()
        if job.with_pillow:
            decode_image(content, file.name, max_pixels=_MAX_PIXELS)
        elif decode_pixels(content, max_pixels=_MAX_PIXELS) is None:
            raise RuntimeError("simplejpeg is needed for this comparison: pip install 'vigil[fast]'")
    return len(job.files)


# ---------------------------------------------------------------------------------------------------------- extraction


@dataclass(frozen=True, slots=True)
class Case:
    """Files and how patches are cut from them."""

    name: str
    bags: Bags
    images: int
    patch: PatchSection


def _cases() -> list[Case]:
    patch = load_params(REPOSITORY / "presets" / "sixray.yaml").patch
    apart = patch.model_copy(update={"stride_px": patch.patch_size_px})
    return [
        Case("256 x 256, stride 64: 9 patches", SMALL, 3_000, patch),
        Case("256 x 256, stride 128: 4 patches", SMALL, 3_000, apart),
        Case("800 x 640 to 320 x 256, stride 64: 12 patches", LARGE, 800, patch),
    ]


def _extraction(folder: Path, cases: Sequence[Case]) -> list[str]:
    """Pure decoding and extraction of the same files, with one and with two processes, in turns."""
    lines = [
        "| files and grid | processes | decode, Pillow: images/s | decode, simplejpeg | extract | extract over decode, "
        "simplejpeg | the same, CPU | extract over decode, Pillow | the same, CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    scaling = [
        "| files and grid | decode, Pillow: 1 to 2 processes | decode, simplejpeg | extract |",
        "|---|---|---|---|",
    ]
    for case in cases:
        root = folder / f"{case.bags.height}"
        if not root.exists():
            write_bags(root, case.images, case.bags)
        manifest = build_manifest(SixrayData(name="sixray", root=str(root)))
        normal = manifest.filter(pc.equal(manifest["label"], NORMAL))
        splits = normal.select(["image_id", "label", "kind", "group"])
        splits = splits.append_column("split", pa.array(["train"] * splits.num_rows))
        files = [root / path for path in normal["path"].to_pylist()]
        variants: dict[str, Callable[[], object]] = {}
        for workers in (1, 2):
            patch = case.patch.model_copy(update={"workers": workers})
            for pillow in (True, False):
                variants[f"decode {pillow} {workers}"] = partial(_decode, files, pillow, patch)
            variants[f"extract {workers}"] = partial(
                extract_split, "train", manifest, splits, root, patch, folder / "patches"
            )
        taken = in_rounds(variants, before=lambda: shutil.rmtree(folder / "patches", ignore_errors=True))
        wall = {name: [s.wall for s in runs] for name, runs in taken.items()}
        cpu = {name: [s.cpu for s in runs] for name, runs in taken.items()}
        for workers in (1, 2):
            pillow_, turbo, cut = (f"{name} {workers}" for name in ("decode True", "decode False", "extract"))
            rates = [f"{len(files) / statistics.median(wall[name]):.0f}" for name in (pillow_, turbo, cut)]
            shares = [spread(of[base], of[cut]) for base in (turbo, pillow_) for of in (wall, cpu)]
            lines.append(f"| {case.name} | {workers} | " + " | ".join([*rates, *shares]) + " |")
        gains = [spread(wall[f"{name} 1"], wall[f"{name} 2"]) for name in ("decode True", "decode False", "extract")]
        scaling.append(f"| {case.name} | " + " | ".join(gains) + " |")
    return [*lines, "", *scaling]


def _decode(files: Sequence[Path], with_pillow: bool, patch: PatchSection) -> None:
    """By the executor of extraction, so that starting processes costs both the same."""
    starts = range(0, len(files), _FILES_PER_JOB)
    jobs = (DecodeJob(tuple(files[start : start + _FILES_PER_JOB]), with_pillow) for start in starts)
    assert sum(executed(decode_files, jobs, patch)) == len(files)


# ------------------------------------------------------------------------------------------------------ training input


def _training_input(folder: Path) -> list[str]:
    """Shuffled patches to one process, against the default's training step."""
    params = load_params(REPOSITORY / "params.yaml")
    shards = PatchShards.open(folder / "patches")
    spec = PairSpec(channels=params.patch.channels, patch_size_px=params.patch.patch_size_px, model=params.model)
    training = params.train.model_copy(
        update={"epochs": _TRAINED / len(shards), "log_every_images": 128, "device": "cpu", "batch_size": _BATCH}
    )
    sources = Sources(shards, None, _BATCH, seed=0)
    trained: list[float] = []

    def read() -> None:
        for seen in range(0, _DELIVERED, _BATCH):
            sources.read(sources.batch(seen))

    def deliver() -> None:
        for seen in range(0, _DELIVERED, _BATCH):
            to_tensor(sources.read(sources.batch(seen)))

    def train() -> None:
        recorder = MemoryRecorder()
        train_candidate(spec, training, len(trained), shards, folder / f"work-{len(trained)}", recorder)
        trained.append(statistics.median(step.images_per_s for step in recorder.steps[1:]))

    taken = in_rounds({"read": read, "deliver": deliver, "train": train})
    delivered = {name: [_DELIVERED / s.wall for s in taken[name]] for name in ("read", "deliver")}
    consumed = trained[-len(taken["train"]) :]
    lines = [
        "| what one process does with shuffled batches of 8 patches of 128 px | patches/s | over the training step |",
        "|---|---|---|",
    ]
    rows = [("read, as bytes (what goes to a GPU)", delivered["read"])]
    rows += [("read, as tensors on the CPU", delivered["deliver"])]
    rows += [("training step of the default (`params.yaml`), its input included", consumed)]
    for name, rates in rows:
        lines.append(f"| {name} | {statistics.median(rates):.0f} | {spread(rates, consumed)} |")
    return [
        f"{len(shards):,} patches in {len(shards.buckets)} shards, those of the first table's last case.",
        "",
        *lines,
    ]


def main() -> None:
    """Measures, and writes the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extraction = _extraction(folder, _cases())
        training = _training_input(folder)
    lines = [
        f"{machine()}. {ROUNDS} rounds in turns after a warm-up; rates are medians, ratios medians of the rounds' own "
        "ratios (lowest to highest). Command: `make bench-data` (its first half).",
        "",
        "## Extraction against pure decoding",
        "",
        "Decoding: reading the files and decoding them, nothing kept. Extraction: `extract_split` of a training split, "
        "from the tables to the index: it reads, hashes, decodes (with simplejpeg), resizes where asked for, cuts, "
        "sums, writes and records. Both through the same executor, so that two processes have to be started either "
        "way; that takes some seconds, more than the work on sets as small as these, so the rows with two processes "
        "and the second table do not say how the work itself scales. "
        "256 x 256: JPEG 4:4:4, quality 92, as the simulator writes; 800 x 640: 4:2:0, quality 85, the size of "
        "SIXray's. `CPU`: by the processor seconds of all processes instead of by time.",
        "",
        *extraction,
        "",
        "## Training input",
        "",
        *training,
    ]
    written("data-speed", "Extraction and training input", lines)


if __name__ == "__main__":
    main()
