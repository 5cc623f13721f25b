"""`make bench-data SIZES="1000 10000 100000"`, its second half: what a set of each size costs, stage by stage.

Memory, processor seconds and bytes, none of which needs a quiet machine; `tests.benchmark.speed` holds what does.
Writes `docs/benchmarks/data-scale_<processor>_<date>.md`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.benchmark.bags import write_bags
from tests.benchmark.page import machine, written
from tests.benchmark.stages import Cost, cost_of
from tests.benchmark.tables import write_manifest, write_patches
from vigil.files import files_below, read_json
from vigil.stages import layout

SIXRAY = 1_059_231
"""Images of SIXray."""
CHAIN = ("manifest", "validate", "split", "patch", "read")
TRACKED = (layout.MANIFEST, layout.ACCEPTED, layout.SPLITS, *layout.PATCHES.values())
TRACKED += (layout.VALIDATION_REPORT, layout.PATCH_VALIDATION_REPORT)
"""What DVC tracks of these stages, beside the raw images."""


Change = tuple[str, str, dict[str, dict[str, int]]]
"""What changed, in which image, and the counts of each split."""


@dataclass(frozen=True, slots=True)
class Size:
    """All that was measured on a set of one size."""

    images: int
    costs: dict[str, Cost]
    raw_bytes: int
    bytes_of: dict[str, int]
    files: int


def measured(images: int, everything: Path, folder: Path) -> Size:
    """Runs the stages one after the other on the first `images` of the set at `everything`."""
    folder.mkdir()
    root = _part(everything, images, folder)
    costs = {stage: cost_of(stage, folder, root) for stage in CHAIN}
    bytes_of = {path.as_posix(): sum(f.stat().st_size for f in _files(folder / path)) for path in TRACKED}
    raw = sum(file.stat().st_size for file in files_below(root))
    return Size(images, costs, raw, bytes_of, sum(len(_files(folder / path)) for path in TRACKED))


def _part(everything: Path, images: int, folder: Path) -> Path:
    """The first `images` of a set, as links to its files."""
    root = folder / "raw"
    numbered = sorted((everything / "JPEGImages").iterdir(), key=lambda path: path.stem[1:])
    for source in numbered[:images]:
        _link(everything, root, source.stem)
    return root


def _link(everything: Path, root: Path, stem: str) -> None:
    for name in (f"JPEGImages/{stem}.jpg", f"Annotation/{stem}.xml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (everything / name).exists():
            os.link(everything / name, root / name)


def _files(path: Path) -> list[Path]:
    return files_below(path) if path.is_dir() else [path]


# ------------------------------------------------------------------------------------------------------- small changes


def small_changes(images: int, everything: Path, folder: Path) -> list[Change]:
    """What each change of one image costs in the patch stage of a set that is cut already."""
    root = folder / "raw"
    stems = sorted((path.stem for path in (everything / "JPEGImages").iterdir()), key=lambda stem: stem[1:])
    found = []

    def again(what: str, stem: str) -> None:
        for stage in ("manifest", "validate", "split", "patch"):
            cost_of(stage, folder, root)
        found.append((what, stem, read_json(folder / layout.PATCH_COUNTS)))

    _link(everything, root, stems[images])
    again("added", stems[images])
    (root / f"JPEGImages/{stems[images]}.jpg").unlink()
    again("removed", stems[images])
    annotation = next(path for path in files_below(root / "Annotation") if "Gun" in path.read_text())
    text = annotation.read_text().replace("Gun", "Knife")
    annotation.unlink()  # a link: the set that it came from stays as it is
    annotation.write_text(text)
    again("relabelled", annotation.stem)
    return found


# ---------------------------------------------------------------------------------------------------------------- page


def _per_image(small: Size, large: Size, stage: str, what: str) -> float:
    """What an image more costs, between two sizes."""
    value = [getattr(size.costs[stage], what) for size in (small, large)]
    return float(value[1] - value[0]) / (large.images - small.images)


def _memory_table(sizes: Sequence[Size]) -> list[str]:
    lines = [
        "| stage | process | "
        + " | ".join(f"{size.images:,}" for size in sizes)
        + " | largest over smallest | bytes per "
        f"image | at {SIXRAY:,} images |",
        "|---" * (len(sizes) + 5) + "|",
    ]
    rows = [(stage, "stage", "peak_mib") for stage in CHAIN] + [("patch", "largest worker", "worker_mib")]
    for stage, process, what in rows:
        peaks = [getattr(size.costs[stage], what) for size in sizes]
        growth = _per_image(sizes[0], sizes[-1], stage, what)
        there = peaks[-1] + growth * (SIXRAY - sizes[-1].images)
        shown = " | ".join(f"{peak:.0f}" for peak in peaks)
        lines.append(
            f"| {stage} | {process} | {shown} | {peaks[-1] / peaks[0]:.2f} | {growth * 2**20:.0f} | {there:.0f} MiB |"
        )
    return lines


def _time_table(sizes: Sequence[Size]) -> list[str]:
    steps = list(pairwise(sizes))
    lines = [
        "| stage | " + " | ".join(f"{size.images:,}: CPU s (s)" for size in sizes) + " | "
        + " | ".join(f"ms per image, {a.images:,} to {b.images:,}" for a, b in steps)
        + f" | at {SIXRAY:,} images |",
        "|---" * (len(sizes) + len(steps) + 2) + "|",
    ]  # fmt: skip
    for stage in CHAIN:
        totals = " | ".join(f"{size.costs[stage].cpu_s:.1f} ({size.costs[stage].wall_s:.1f})" for size in sizes)
        marginal = [_per_image(*step, stage, "cpu_s") for step in steps]
        there = sizes[-1].costs[stage].cpu_s + marginal[-1] * (SIXRAY - sizes[-1].images)
        per_image = " | ".join(f"{value * 1000:.3f}" for value in marginal)
        lines.append(f"| {stage} | {totals} | {per_image} | {there / 60:.1f} CPU min |")
    return lines


def _bytes_table(sizes: Sequence[Size]) -> list[str]:
    lines = [
        "| what | " + " | ".join(f"{size.images:,}: bytes per image" for size in sizes) + f" | at {SIXRAY:,} images |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    names = ["raw images and annotations", *sizes[0].bytes_of]
    for name in names:
        per_image = [(size.bytes_of | {names[0]: size.raw_bytes})[name] / size.images for size in sizes]
        shown = " | ".join(f"{value:,.0f}" for value in per_image)
        lines.append(f"| {name} | {shown} | {per_image[-1] * SIXRAY / 2**30:.2f} GiB |")
    files = " | ".join(f"{size.files} (images / 100: {size.images // 100})" for size in sizes)
    lines.append(f"| files that DVC tracks, without the raw images | {files} | |")
    return lines


def _changes_table(changes: Sequence[Change]) -> list[str]:
    lines = [
        "| change | image | split | images processed | images reused | buckets written | buckets kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, stem, counts in changes:
        for split in layout.PATCHES:
            c = counts[split]
            values = [c[f"images_{n}"] for n in ("processed", "reused")]
            values += [c[f"buckets_{n}"] for n in ("written", "kept")]
            lines.append(f"| {what} | {stem} | {split} | " + " | ".join(map(str, values)) + " |")
    return lines


def main() -> None:
    """Measures the sizes that the command line names, and writes the page."""
    images = sorted({int(text) for text in re.split(r"[,\s]+", " ".join(sys.argv[1:])) if text})
    images = images if len(images) > 1 else [1_000, 10_000, 100_000]
    sizes: list[Size] = []
    changes: list[Change] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bags(folder / "all", images[-1] + 1)
        for count in images:
            project = folder / str(count)
            sizes.append(measured(count, folder / "all", project))
            if count == images[-2]:
                changes = small_changes(count, folder / "all", project)
            shutil.rmtree(project)
        shutil.rmtree(folder / "all")
        write_page(sizes, changes, images_of_sixray(folder))


def images_of_sixray(folder: Path) -> dict[str, Cost]:
    """What the stages that read tables alone cost on tables of as many images as SIXray has."""
    costs = {}
    write_manifest(folder / layout.MANIFEST, SIXRAY)
    for stage in ("validate", "split"):
        costs[stage] = cost_of(stage, folder, folder / "raw")
    write_patches({split: folder / path for split, path in layout.PATCHES.items()}, folder / layout.SPLITS, SIXRAY)
    costs["index"] = cost_of("index", folder, folder / "raw")
    return costs


def write_page(sizes: Sequence[Size], changes: Sequence[Change], whole: Mapping[str, Cost]) -> None:
    """The tables, with what they were measured on."""
    images = [size.images for size in sizes]
    lines = [
        f'{machine()}. Command: `make bench-data SIZES="{" ".join(map(str, images))}"` (its second half).',
        "",
        "Images of 256 x 256 pixels in SIXray's layout, one in ten with a threat and its box: of 300 simulated bags, "
        "two, mirrored and shifted at random, are laid over each other for each image (`tests/benchmark/bags.py`). "
        "Settings of `presets/sixray.yaml` with a stride of 128: 4 patches of 128 px per image, `buckets: auto`, 2 "
        "worker processes. Every stage ran in a process of its own; `patch` ends with the contract on the patch index, "
        "and `read` is what training does with the data: it opens and digests the shards and reads 20,000 patches in "
        "shuffled batches of 8.",
        "",
        "## Peak memory, MiB",
        "",
        *_memory_table(sizes),
        "",
        f"Not extrapolated but measured, on tables of {SIXRAY:,} images (4 patches each, sparse shards): "
        + "; ".join(f"{s} {c.peak_mib:.0f} MiB, {c.cpu_s:.0f} CPU s" for s, c in whole.items())
        + ".",
        "",
        "## Time",
        "",
        "Processor seconds of the stage and its workers, in brackets seconds on a machine that others used as well. "
        "The cost of an image is taken between two sizes, so that imports (Great Expectations: some 3 s) do not count.",
        "",
        *_time_table(sizes),
        "",
        "## Bytes and files",
        "",
        *_bytes_table(sizes),
        "",
        f"## One image changed among {images[-2]:,}",
        "",
        "Manifest, validate, split and patch run again; the counts are those of `.vigil/metrics/patch.json`. An image "
        "more or less can move up to three others from one split to another, whose patches are cut there.",
        "",
        *_changes_table(changes),
    ]
    written("data-scale", "What a data set costs, by size", lines)


if __name__ == "__main__":
    main()
