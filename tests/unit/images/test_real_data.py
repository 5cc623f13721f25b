"""The real data sets, import to patches, with the counts of their README."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.real_data import REAL, needs
from vigil.config import (
    Cifar10Data,
    DataSection,
    MagneticTileData,
    MvtecData,
    PatchSection,
    SixrayData,
    SplitSection,
    ValidateSection,
    load_params,
)
from vigil.images import archives
from vigil.images.extraction import extract_split
from vigil.images.importing import ImportSummary, import_data
from vigil.images.manifest import build_manifest
from vigil.images.raw import prepare_raw
from vigil.images.readers import cifar10, read_rows
from vigil.images.splitting import split_images
from vigil.images.validation import validate_manifest, validate_patch_index
from vigil.records import SPLITS

pytestmark = pytest.mark.real_data
PRESETS = Path(__file__).parents[3] / "presets"
PER_CLASS = 20
"""Images of each class of CIFAR-10 that go through all stages; all 50,000 are counted."""


def through_all_stages(
    data: DataSection, folder: Path, images: int, split: SplitSection, validate: ValidateSection | None = None
) -> dict[str, Counter[str]]:
    """Images by split and kind, before `split`'s bounds; every stage's own contract is held.

    The patches are coarse and of few images, to be quick: what a preset cuts is the same, with more of them.
    """
    prepare_raw(data)
    manifest = build_manifest(data)
    assert (manifest.num_rows, manifest["fault"].null_count) == (images, images)
    accepted = validate_manifest(manifest, validate or ValidateSection(), Path(data.root), folder / "report")
    assert accepted.num_rows == images
    everything = split_images(accepted, split).to_pylist()
    splits_of_group = defaultdict(set)
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for row in everything:
        splits_of_group[row["group"]].add(row["split"])
        counts[row["split"]][row["kind"]] += 1
    assert all(len(found) == 1 for found in splits_of_group.values())

    few = {f"max_{name}_images": 8 for name in SPLITS}
    table = split_images(accepted, split.model_copy(update=few))
    coarse = PatchSection(channels=1, shorter_side_px=32, patch_size_px=32, stride_px=32, buckets=2, workers=1)
    folders = {name: folder / "patches" / name for name in SPLITS}
    cut = {
        name: extract_split(name, accepted, table, Path(data.root), coarse, to).images_processed
        for name, to in folders.items()
    }
    assert cut == Counter(table["split"].to_pylist())
    validate_patch_index(folders, coarse, folder / "patch-report")
    return counts


def brought_in(name: str, folder: Path, source: Path | None = None, **options: str) -> tuple[ImportSummary, str]:
    root = folder / "raw"
    return import_data(name, source or REAL / name, root, **options), str(root)  # type: ignore[arg-type]


@needs("magnetic_tile")
def test_magnetic_tiles(tmp_path: Path) -> None:
    summary, root = brought_in("magnetic_tile", tmp_path)
    defects = {"blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}
    assert summary.counts == {"no official split": {**defects, "normal": 952}}
    assert (summary.masks, len(summary.warnings)) == (388, 4)  # four masks are empty, and named
    params = load_params(PRESETS / "magnetic-tile.yaml")
    assert isinstance(params.data, MagneticTileData)
    data = params.data.model_copy(update={"root": root})
    counts = through_all_stages(data, tmp_path, 1344, params.split, params.validation)
    assert sum((counts[name] for name in SPLITS), Counter()) == {**defects, "normal": 952}
    assert {kind: counts["test"][kind] + counts["calibration"][kind] for kind in defects} == defects
    assert set(counts["train"]) == {"normal"}
    share = sum(counts["calibration"][kind] for kind in defects) / sum(defects.values())
    assert share == pytest.approx(params.split.calibration_anomaly_fraction, abs=0.05)  # whole groups are drawn


@needs("mvtec/bottle")
def test_bottle(tmp_path: Path) -> None:
    summary, root = brought_in("mvtec", tmp_path)  # all categories that are there, which is one
    assert (summary.images, summary.masks) == (209 + 20 + 63, 63)
    one = MvtecData(name="mvtec", root=root, category="bottle")
    counts = through_all_stages(one, tmp_path, 292, SplitSection())
    assert counts["train"]["normal"] + counts["calibration"]["normal"] == 209
    assert counts["test"]["normal"] == 20
    assert (counts["test"].total(), len(counts["test"])) == (83, 4)
    kinds = Counter(row.kind for row in read_rows(one.model_copy(update={"category": "all"})))
    assert kinds == {
        "normal": 229,
        **{f"bottle/{kind}": count for kind, count in counts["test"].items() if kind != "normal"},
    }


@needs("sixray")
def test_the_slice_of_sixray(tmp_path: Path) -> None:
    summary, root = brought_in("sixray", tmp_path)
    assert summary.counts["no official split"]["normal"] == 140
    assert (summary.images, summary.images_with_boxes) == (300, 20)
    counts = through_all_stages(SixrayData(name="sixray", root=root), tmp_path, 300, SplitSection())
    assert sum(counts[name]["normal"] for name in SPLITS) == 140
    assert sum(counts[name].total() for name in SPLITS) == 300


@needs("cifar10")
def test_cifar10(tmp_path: Path) -> None:
    counted: Counter[tuple[str, ...]] = Counter()
    for name, content in archives.read_tar(REAL / "cifar10/train.tar.xz"):
        counted[name.parts[:-1]] += 1
        if counted[name.parts[:-1]] <= PER_CLASS:
            file = tmp_path / "some" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    assert counted == {("train", c): 5000 for c in cifar10.CLASSES}

    summary, root = brought_in("cifar10", tmp_path, tmp_path / "some")
    assert summary.counts == {"train": dict.fromkeys(sorted(cifar10.CLASSES), PER_CLASS)}
    data = Cifar10Data(name="cifar10", root=root, held_class="automobile")
    counts = through_all_stages(data, tmp_path, 10 * PER_CLASS, SplitSection())
    assert counts["test"]["automobile"] == PER_CLASS
    assert sum(counts[name]["normal"] for name in SPLITS) == 9 * PER_CLASS
