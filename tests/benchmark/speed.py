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
_WORKS = ("decode, Pillow", "decode, simplejpeg", "extract")
_SCALING_ROUNDS = 3
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
    """For the ratio of extraction to decoding."""
    many: int
    """For the scaling from one process to two."""
    patch: PatchSection


def _cases() -> list[Case]:
    patch = load_params(REPOSITORY / "presets" / "sixray.yaml").patch
    apart = patch.model_copy(update={"stride_px": patch.patch_size_px})
    return [
        Case("256 x 256, stride 64: 9 patches", SMALL, 3_000, 12_000, patch),
        Case("256 x 256, stride 128: 4 patches", SMALL, 3_000, 12_000, apart),
        Case("800 x 640 to 320 x 256, stride 64: 12 patches", LARGE, 800, 3_200, patch),
    ]


class _Work:
    """What is timed of a case: the same files decoded by either decoder, and extracted."""

    def __init__(self, case: Case, folder: Path) -> None:
        """Writes the images below `folder`, unless they are there."""
        self.case, self._target = case, folder / "patches"
        self._root = folder / f"{case.bags.height}"
        if not self._root.exists():
            write_bags(self._root, case.many * 10 // 9 + 10, case.bags)  # one in ten is no normal image
        manifest = build_manifest(SixrayData(name="sixray", root=str(self._root)))
        self._normal = manifest.filter(pc.equal(manifest["label"], NORMAL))

    def variants(self, images: int, workers: int) -> dict[str, Callable[[], object]]:
        """The work on the first `images` in so many processes."""
        manifest = self._normal.slice(0, images)
        assert manifest.num_rows == images
        splits = manifest.select(["image_id", "label", "kind", "group"])
        splits = splits.append_column("split", pa.array(["train"] * images))
        files = [self._root / path for path in manifest["path"].to_pylist()]
        patch = self.case.patch.model_copy(update={"workers": workers})
        works = (
            partial(_decode, files, True, patch),
            partial(_decode, files, False, patch),
            partial(extract_split, "train", manifest, splits, self._root, patch, self._target),
        )
        return dict(zip(_WORKS, works, strict=True))

    def clear(self) -> None:
        """Removes what was extracted."""
        shutil.rmtree(self._target, ignore_errors=True)


def _extraction(work: _Work) -> str:
    """Pure decoding and extraction of the same files in one process, in turns: a row of the first table."""
    images = work.case.images
    taken = in_rounds(work.variants(images, 1), before=work.clear)
    rates = [f"{images / statistics.median(s.wall for s in taken[name]):.0f}" for name in _WORKS]
    pillow, turbo, extract = (taken[name] for name in _WORKS)
    shares = []
    for decode in (turbo, pillow):
        shares.append(spread([s.wall for s in decode], [s.wall for s in extract]))
        shares.append(spread([s.cpu for s in decode], [s.cpu for s in extract]))
    return f"| {work.case.name} | " + " | ".join([*rates, *shares]) + " |"


def _scaling(work: _Work) -> list[str]:
    """What two processes do beside one, without what starting them costs: seconds are those by which a large set takes
    longer than a small one. Rows of the second table."""
    sizes = (work.case.images, work.case.many)
    variants = {
        f"{name} {images} {workers}": run
        for images in sizes
        for workers in (1, 2)
        for name, run in work.variants(images, workers).items()
    }
    taken = in_rounds(variants, before=work.clear, rounds=_SCALING_ROUNDS)
    more = sizes[1] - sizes[0]
    rows = []
    for name in _WORKS:
        pairs = {w: list(zip(*(taken[f"{name} {images} {w}"] for images in sizes), strict=True)) for w in (1, 2)}
        wall, cpu = ({w: [b[i] - a[i] for a, b in pairs[w]] for w in (1, 2)} for i in (0, 1))
        rates = [f"{more / statistics.median(wall[w]):.0f}" for w in (1, 2)]
        starts = statistics.median(
            few.wall - sizes[0] / more * longer for (few, _), longer in zip(pairs[2], wall[2], strict=True)
        )
        cells = [*rates, spread(wall[1], wall[2]), spread(cpu[2], cpu[1]), f"{starts:.1f}"]
        rows.append(f"| {work.case.name} | {name} | " + " | ".join(cells) + " |")
    return rows


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
        f"{len(shards):,} patches in {len(shards.buckets)} shards, those of the last case.",
        "",
        *lines,
    ]


def main() -> None:
    """Measures, and writes the page."""
    extraction, scaling = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in _cases():
            work = _Work(case, folder)
            extraction.append(_extraction(work))
            scaling += _scaling(work)
        training = _training_input(folder)
    lines = [
        f"{machine()}. {ROUNDS} rounds in turns after a warm-up ({_SCALING_ROUNDS} for two processes); rates are "
        "medians, ratios medians of the rounds' own ratios (lowest to highest). Command: `make bench-data` (its first "
        "half).",
        "",
        "## Extraction against pure decoding, one process",
        "",
        "Decoding: reading the files and decoding them, nothing kept. Extraction: `extract_split` of a training split, "
        "from the tables to the index: it reads, hashes, decodes (with simplejpeg), resizes where asked for, cuts, "
        "sums, writes and records. 256 x 256: JPEG 4:4:4, quality 92, as the simulator writes; 800 x 640: 4:2:0, "
        "quality 85, the size of SIXray's. `CPU`: by the processor seconds of all processes instead of by time.",
        "",
        "| files and grid | decode, Pillow: images/s | decode, simplejpeg | extract | extract over decode, simplejpeg "
        "| the same, CPU | extract over decode, Pillow | the same, CPU |",
        "|---|---|---|---|---|---|---|---|",
        *extraction,
        "",
        "## From one process to two",
        "",
        "Images per second of the images by which a set four times as large exceeds a small one, so that starting two "
        "processes, whose seconds stand in the last column, does not count. Both kinds of work run through the same "
        "executor. CPU per image above 1: the two processors of this machine share units, and either is slower while "
        "the other works; no arrangement of processes makes up for that.",
        "",
        "| files and grid | work | 1 process: images/s | 2 processes: images/s | 1 to 2 processes | CPU per image, 2 "
        "processes over 1 | starting 2 processes, s |",
        "|---|---|---|---|---|---|---|",
        *scaling,
        "",
        "## Training input",
        "",
        *training,
    ]
    written("data-speed", "Extraction and training input", lines)


if __name__ == "__main__":
    main()
