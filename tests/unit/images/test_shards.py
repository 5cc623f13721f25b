"""Patch shards: what is written, what a second run keeps, and what a killed run leaves to the next."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.raw_set import PATCH, RawSet
from vigil.config import PatchSection
from vigil.errors import DataError
from vigil.files import digest_bytes, digest_folder
from vigil.images import extraction
from vigil.images.buckets import bucket_of, patch_labels, settings_of
from vigil.images.extraction import ExtractionCounts, extract_split
from vigil.images.patches import extract, grid_positions
from vigil.images.shards import PatchShards
from vigil.records import MANIFEST, PATCH_INDEX, SPLIT_TABLE


@pytest.fixture
def raw(tmp_path: Path) -> RawSet:
    root = tmp_path / "raw"
    root.mkdir()
    return RawSet(root)


def twelve(raw: RawSet) -> RawSet:
    for number in range(12):
        raw.add(f"image-{number}.png")
    return raw


# ------------------------------------------------------------------------------------------------------------ content


def test_every_row_holds_the_pixels_that_the_index_says(raw: RawSet, tmp_path: Path) -> None:
    pixels = {name: raw.add(name, size) for name, size in [("a.png", (40, 56)), ("b.png", (33, 32)), ("c.png", (8, 9))]}
    counts = raw.extract(tmp_path / "test")
    shards = PatchShards.open(tmp_path / "test")

    assert counts == ExtractionCounts(3, 0, len(shards.buckets), 0, len(shards))
    assert len(shards) == 2 * 3 + 2 * 1 + 1  # 40x56, 33x32, 8x9 at stride 16, padded
    assert (shards.patch_size, shards.channels) == (32, 3)
    index = shards.index
    assert index.schema.equals(PATCH_INDEX.schema)
    patches = shards.read(np.arange(len(shards)))
    for name, image in pixels.items():
        positions = grid_positions(*image.shape[:2], PATCH)
        rows = [i for i, image_id in enumerate(index["image_id"].to_pylist()) if image_id == name]
        np.testing.assert_array_equal(patches[rows], extract(image, positions, PATCH))
        part = index.take(rows)
        assert part["patch_id"].to_pylist() == [f"{name}@{y},{x}" for y, x in positions.tolist()]
        assert np.stack([part["y"], part["x"]], axis=1).tolist() == positions.tolist()
        assert set(part["bucket"].to_pylist()) == {bucket_of(name, PATCH.buckets)}
        assert set(zip(part["image_height"].to_pylist(), part["image_width"].to_pylist(), strict=True)) == {
            image.shape[:2]
        }
        assert set(part["group"].to_pylist()) == {f"group of {name}"}
    assert set(index["source"].to_pylist()) == {"grid"}
    assert set(index["label"].to_pylist()) == set(index["image_label"].to_pylist()) == {0}
    assert not shards.read_masks(np.arange(len(shards))).any()


def test_masks_and_labels_follow_the_mask(raw: RawSet, tmp_path: Path) -> None:
    mask = np.zeros((48, 64), dtype=bool)
    mask[2:12, 3:13] = True  # 100 px; 2 % of a patch are 20.48 px
    raw.add("a.png", (48, 64), label=1, mask=mask)
    raw.extract(tmp_path / "test")
    shards = PatchShards.open(tmp_path / "test")

    positions = grid_positions(48, 64, PATCH)
    np.testing.assert_array_equal(shards.read_masks(np.arange(6)), extract(mask, positions, PATCH))
    assert positions.tolist() == [[0, 0], [0, 16], [0, 32], [16, 0], [16, 16], [16, 32]]
    assert shards.index["overlap"].to_pylist() == [np.float32(100 / 1024), 0, 0, 0, 0, 0]
    assert shards.index["label"].to_pylist() == [1, 0, 0, 0, 0, 0]
    assert set(shards.index["image_label"].to_pylist()) == {1}
    assert set(shards.index["kind"].to_pylist()) == {"scratch"}


def test_boxes_serve_where_there_is_no_mask(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", (32, 64), label=1, boxes=((40, 0, 64, 32),))
    raw.extract(tmp_path / "test")
    shards = PatchShards.open(tmp_path / "test")
    expected = np.zeros((32, 64), dtype=np.uint8)
    expected[:, 40:] = 1
    np.testing.assert_array_equal(shards.read_masks([2]), expected[None, :, 32:])
    assert shards.index["overlap"].to_pylist() == [0, np.float32(8 / 32), np.float32(24 / 32)]
    assert shards.index["label"].to_pylist() == [0, 1, 1]


def test_an_anomalous_image_without_a_region_lends_its_label_to_its_patches(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", (32, 48), label=1)
    raw.add("b.png", (32, 48), label=1, mask=np.zeros((32, 48), dtype=bool))
    raw.extract(tmp_path / "test")
    shards = PatchShards.open(tmp_path / "test")
    assert shards.index["label"].to_pylist() == [1] * 4
    assert shards.index["overlap"].to_pylist() == [0] * 4
    assert not shards.read_masks(np.arange(4)).any()


@pytest.mark.parametrize(
    ("inside", "smallest", "expected"),
    [
        ([0, 20, 21, 500], 600, [0, 0, 1, 1]),  # 2 % of 32 * 32 are 20.48
        ([0, 2, 3, 6], 6, [0, 0, 1, 1]),  # a speck: half of it
        ([1, 4, 8, 0], 400, [0, 1, 1, 0]),  # a long thin scratch: half of what the fullest patch holds
        ([0, 0, 0, 0], 50, [0, 0, 0, 0]),  # edge `drop` left the defect out
        ([0, 0, 0, 0], 0, [1, 1, 1, 1]),  # no region: the image's label
    ],
)
def test_patch_labels(inside: list[int], smallest: int, expected: list[int]) -> None:
    labels = patch_labels(np.array(inside), len(inside), smallest, 1, PATCH)
    assert labels.tolist() == expected


def test_regions_of_interest_are_centred_and_belong_to_the_test_split_alone(raw: RawSet, tmp_path: Path) -> None:
    mask = np.zeros((64, 96), dtype=bool)
    mask[30:34, 40:50] = True
    mask[60:64, 90:96] = True
    pixels = raw.add("a.png", (64, 96), label=1, mask=mask)
    patch = PATCH.model_copy(update={"regions_of_interest": True})
    raw.extract(tmp_path / "test", patch=patch)
    shards = PatchShards.open(tmp_path / "test")

    grid, interest = shards.rows_of("grid"), shards.rows_of("roi")
    assert len(grid) == 15
    assert interest.tolist() == [15, 16]
    part = shards.index.take(interest)
    assert part["patch_id"].to_pylist() == ["a.png@roi-0", "a.png@roi-1"]
    assert part["y"].to_pylist() == [16, 32]
    assert part["x"].to_pylist() == [29, 64]
    assert part["label"].to_pylist() == [1, 1]
    np.testing.assert_array_equal(shards.read([15])[0], pixels[16:48, 29:61])
    np.testing.assert_array_equal(shards.read_masks([16])[0], mask[32:64, 64:96])

    raw.extract(tmp_path / "calibration", "calibration", patch)
    assert len(PatchShards.open(tmp_path / "calibration").rows_of("roi")) == 0


def test_training_shards_have_no_masks(raw: RawSet, tmp_path: Path) -> None:
    twelve(raw).extract(tmp_path / "train", "train")
    assert not list((tmp_path / "train").glob("*.mask.npy"))
    with pytest.raises(DataError, match="this split has no masks"):
        PatchShards.open(tmp_path / "train").read_masks([0])


# -------------------------------------------------------------------------------------------------------- incremental


def test_a_second_run_keeps_everything(raw: RawSet, tmp_path: Path) -> None:
    first = twelve(raw).extract(tmp_path / "test")
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "test").glob("bucket-*")}
    before = digest_folder(tmp_path / "test")
    second = raw.extract(tmp_path / "test")
    assert second == dataclasses.replace(
        first, images_processed=0, images_reused=12, buckets_written=0, buckets_kept=first.buckets_written
    )
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "test").glob("bucket-*")} == times
    assert digest_folder(tmp_path / "test") == before


def test_worker_processes_write_the_same_bytes(raw: RawSet, tmp_path: Path) -> None:
    one = twelve(raw).extract(tmp_path / "one")
    two = raw.extract(tmp_path / "two", patch=PATCH.model_copy(update={"workers": 2}))
    assert one == two
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "processed"),
    [
        (lambda raw: raw.add("one-more.png"), 1),
        (lambda raw: raw.rows.pop("image-3.png"), 0),
        (lambda raw: raw.rows["image-3.png"].update(label=1, kind="scratch"), 0),
        (lambda raw: raw.rows["image-3.png"].update(group="another"), 0),
        (lambda raw: raw.add("image-3.png", (64, 64)), 1),
        (lambda raw: raw.add("image-3.png", label=1, mask=np.ones((40, 56), dtype=bool)), 1),
        (lambda raw: raw.add("image-3.png", label=1, boxes=((0, 0, 9, 9),)), 1),
    ],
    ids=["added", "removed", "relabelled", "regrouped", "replaced", "masked", "boxed"],
)
def test_a_change_costs_its_bucket_and_its_image(
    raw: RawSet, tmp_path: Path, change: Callable[[RawSet], object], processed: int
) -> None:
    buckets = twelve(raw).extract(tmp_path / "test").buckets_written
    change(raw)
    counts = raw.extract(tmp_path / "test")
    assert (counts.images_processed, counts.buckets_written) == (processed, 1)
    assert counts.buckets_kept == buckets - 1
    assert counts.images_reused == len(raw.rows) - processed

    raw.extract(tmp_path / "from nothing")
    assert digest_folder(tmp_path / "test") == digest_folder(tmp_path / "from nothing")


def test_a_redrawn_mask_is_noticed(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", label=1, mask=np.ones((40, 56), dtype=bool))
    raw.extract(tmp_path / "test")
    raw.add("a.png", label=1, mask=np.eye(40, 56, dtype=bool))
    assert raw.extract(tmp_path / "test").images_processed == 1
    assert 0 < PatchShards.open(tmp_path / "test").read_masks([0]).mean() < 0.1


@pytest.mark.parametrize(
    "setting",
    [{"channels": 1}, {"stride_px": 32}, {"shorter_side_px": 64}, {"edge": "drop"}, {"buckets": 3}],
    ids=lambda setting: next(iter(setting)),
)
def test_other_settings_leave_nothing_of_the_old_shards(
    raw: RawSet, tmp_path: Path, setting: dict[str, object]
) -> None:
    twelve(raw).extract(tmp_path / "test")
    patch = PATCH.model_copy(update=setting)
    raw.extract(tmp_path / "test", patch=patch)
    raw.extract(tmp_path / "from nothing", patch=patch)
    assert digest_folder(tmp_path / "test") == digest_folder(tmp_path / "from nothing")


def test_another_overlap_relabels_without_decoding(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", (32, 48), label=1, mask=np.pad(np.ones((16, 16), dtype=bool), ((0, 16), (4, 28))))
    raw.extract(tmp_path / "test")
    assert PatchShards.open(tmp_path / "test").index["label"].to_pylist() == [1, 1]
    digest = PatchShards.open(tmp_path / "test").digest
    counts = raw.extract(tmp_path / "test", patch=PATCH.model_copy(update={"anomalous_overlap": 0.2}))
    assert counts.images_processed == 0
    assert PatchShards.open(tmp_path / "test").index["label"].to_pylist() == [
        1,
        0,
    ]  # a quarter of the part, 6 % of the patch
    assert PatchShards.open(tmp_path / "test").digest != digest


def test_a_damaged_bucket_is_made_again(raw: RawSet, tmp_path: Path) -> None:
    twelve(raw).extract(tmp_path / "test")
    before = digest_folder(tmp_path / "test")
    shard = next((tmp_path / "test").glob("bucket-????.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    counts = raw.extract(tmp_path / "test")
    assert counts.buckets_written == 1
    assert counts.images_processed > 0
    assert digest_folder(tmp_path / "test") == before


def test_leftovers_and_stale_buckets_are_removed(raw: RawSet, tmp_path: Path) -> None:
    twelve(raw).extract(tmp_path / "test")
    before = digest_folder(tmp_path / "test")
    (tmp_path / "test" / ".bucket-0001.npy.aside-123").write_bytes(b"half")
    (tmp_path / "test" / "bucket-0099.npy").write_bytes(b"stale")
    raw.extract(tmp_path / "test")
    assert digest_folder(tmp_path / "test") == before
    assert not [p for p in (tmp_path / "test").iterdir() if p.name.startswith(".")]


def test_an_automatic_number_of_buckets_costs_no_more(raw: RawSet, tmp_path: Path) -> None:
    patch = PATCH.model_copy(update={"buckets": "auto"})
    assert twelve(raw).extract(tmp_path / "test", patch=patch).buckets_written <= 4
    raw.add("one-more.png")
    counts = raw.extract(tmp_path / "test", patch=patch)
    assert (counts.images_processed, counts.buckets_written) == (1, 1)


def test_tables_that_do_not_fit_into_memory_give_the_same_bytes(
    raw: RawSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dealt out in pieces of two rows and parts of three, from files, against one part from tables."""
    twelve(raw).extract(tmp_path / "tables")
    MANIFEST.write(tmp_path / "manifest.parquet", raw.manifest)
    SPLIT_TABLE.write(tmp_path / "splits.parquet", raw.splits("test"))
    monkeypatch.setattr(extraction, "_ROWS_IN_MEMORY", 3)
    monkeypatch.setattr(extraction, "_BATCH_ROWS", 2)
    files = (tmp_path / "manifest.parquet", tmp_path / "splits.parquet")
    extract_split("test", *files, raw.root, PATCH, tmp_path / "test")
    assert digest_folder(tmp_path / "test") == digest_folder(tmp_path / "tables")
    assert not list(tmp_path.glob(".*")), "the dealt rows are left"


def test_normal_patches_of_an_anomalous_image_lie_on_the_grid_of_normal_images(raw: RawSet, tmp_path: Path) -> None:
    raw.add("normal.png", (64, 96))
    raw.add("torn.png", (64, 96), label=1, boxes=((70, 40, 90, 60),))
    raw.extract(tmp_path / "test")
    index = PatchShards.open(tmp_path / "test").index.to_pylist()
    where = {name: [(r["y"], r["x"]) for r in index if r["image_id"] == name] for name in ("normal.png", "torn.png")}
    assert where["normal.png"] == where["torn.png"]
    torn = [r for r in index if r["image_id"] == "torn.png"]
    assert {r["label"] for r in torn} == {0, 1}
    assert all(r["overlap"] == 0 for r in torn if r["x"] + 32 <= 70)
    assert all(r["label"] == 0 for r in torn if r["overlap"] == 0)


# ------------------------------------------------------------------------------------------------------------- a kill

_KILLED = """
import sys
from pathlib import Path
from vigil.config import PatchSection
from vigil.images.extraction import extract_split
from vigil.records import MANIFEST, SPLIT_TABLE

if __name__ == "__main__":
    base, workers = Path(sys.argv[1]), int(sys.argv[2])
    patch = PatchSection(patch_size_px=64, stride_px=16, buckets=16, workers=workers)
    manifest, splits = MANIFEST.read(base / "manifest.parquet"), SPLIT_TABLE.read(base / "splits.parquet")
    extract_split("test", manifest, splits, base / "raw", patch, base / "killed")
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_continued_to_the_same_bytes(raw: RawSet, tmp_path: Path, workers: int) -> None:
    for number in range(48):
        raw.add(f"image-{number}.png", (300, 300))
    MANIFEST.write(tmp_path / "manifest.parquet", raw.manifest)
    SPLIT_TABLE.write(tmp_path / "splits.parquet", raw.splits("test"))
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    folder = tmp_path / "killed"

    # A session of its own, so that its worker processes can be looked for after the kill.
    process = subprocess.Popen([sys.executable, script, tmp_path, str(workers)], start_new_session=True)
    until(lambda: process.poll() is not None or any(folder.glob("bucket-*.json")), timeout_s=60)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    until(lambda: not session_lives(process.pid), timeout_s=30)
    finished = len(list(folder.glob("bucket-*.json")))
    assert finished > 0
    with pytest.raises(DataError, match=r"index\.parquet: file not found"):
        PatchShards.open(folder)

    patch = PatchSection(patch_size_px=64, stride_px=16, buckets=16, workers=1)
    counts = raw.extract(folder, patch=patch)
    assert counts.buckets_kept == finished
    assert counts.images_processed == 48 - counts.images_reused < 48
    raw.extract(tmp_path / "uninterrupted", patch=patch)
    assert digest_folder(folder) == digest_folder(tmp_path / "uninterrupted")
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "uninterrupted").iterdir())


def until(condition: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s in vain"
        time.sleep(0.002)


def session_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_kill_between_shard_and_record_is_noticed(raw: RawSet, tmp_path: Path) -> None:
    """The new shard lies beside the record of the old one: neither may be taken for whole."""
    twelve(raw).extract(tmp_path / "test")
    changed = f"image-{3}.png"
    bucket = bucket_of(changed, PATCH.buckets)
    record = tmp_path / "test" / f"bucket-{bucket:04d}.json"
    old = record.read_text()
    Image.new("RGB", (56, 40)).save(raw.root / changed)
    content = (raw.root / changed).read_bytes()
    raw.rows[changed].update(bytes=len(content), sha256=digest_bytes(content))
    raw.extract(tmp_path / "test")
    after = digest_folder(tmp_path / "test")
    record.write_text(old)
    raw.extract(tmp_path / "test")
    assert digest_folder(tmp_path / "test") == after


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_record_that_was_changed_is_not_believed(raw: RawSet, tmp_path: Path) -> None:
    """Its digest may still be right, and so may the shard's checksum, while it says something else of the rows."""
    twelve(raw).extract(tmp_path / "test")
    whole = digest_folder(tmp_path / "test")
    record = next(tmp_path.glob("test/bucket-*.json"))
    record.write_text(record.read_text().replace('"height":40', '"height":8', 1))
    with pytest.raises(DataError, match=r"bucket-\d+.json: damaged, or written by another version"):
        PatchShards.open(tmp_path / "test").digest  # noqa: B018 - a property that reads
    raw.extract(tmp_path / "test")
    assert digest_folder(tmp_path / "test") == whole
    whole_record = record.read_text()
    for damage in ("[]", whole_record.replace("40", "NaN", 1), whole_record.replace("image-", "\\ud800-", 1)):
        record.write_text(damage)
        with pytest.raises(DataError, match=r"bucket-\d+.json: damaged, or written by another version"):
            PatchShards.open(tmp_path / "test").digest  # noqa: B018 - a property that reads


@pytest.mark.parametrize("header", [b"{'descr': ((((", b"{'descr': '|u1', 'shape': (1, 'a'), 'fortran_order': False}"])
def test_a_shard_with_a_damaged_header_is_named(raw: RawSet, tmp_path: Path, header: bytes) -> None:
    twelve(raw).extract(tmp_path / "test")
    shard = next(p for p in sorted(tmp_path.glob("test/bucket-*.npy")) if "mask" not in p.name)
    content = shard.read_bytes()
    shard.write_bytes(content[:10] + header.ljust(117) + b"\n" + content[128:])
    with pytest.raises(DataError, match=r"bucket-\d+.npy: not a readable shard"):
        PatchShards.open(tmp_path / "test")


def test_an_image_without_a_size_is_refused(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png")
    raw.rows["a.png"]["width"] = None
    with pytest.raises(DataError, match=r"a\.png: the manifest names no size"):
        raw.extract(tmp_path / "test")


def test_an_image_that_changed_since_the_manifest_is_refused(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png")
    raw.rows["a.png"]["sha256"] = digest_bytes(b"another")
    with pytest.raises(DataError, match=r"a\.png: the file changed since the manifest was made; run `dvc repro`"):
        raw.extract(tmp_path / "test")
    assert not list((tmp_path / "test").iterdir())


def test_an_error_in_a_worker_process_names_the_image(raw: RawSet, tmp_path: Path) -> None:
    twelve(raw)
    (raw.root / "image-7.png").unlink()
    with pytest.raises(DataError, match=r"image-7\.png"):
        raw.extract(tmp_path / "test", patch=PATCH.model_copy(update={"workers": 2}))
    assert not (tmp_path / "test" / "index.parquet").exists()


@pytest.mark.parametrize("package", ["pillow", "torch"])
def test_a_worker_with_another_package_that_makes_pixels_is_refused(
    raw: RawSet, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.add("a.png")
    resized = PATCH.model_copy(update={"shorter_side_px": 32})
    asked = settings_of("test", resized) | {package: "0.1"}
    monkeypatch.setattr(extraction, "settings_of", lambda split, patch: asked)
    with pytest.raises(DataError, match=rf"a worker has {package} \d+\.\d+\.\d+, the patch stage has 0\.1, which may"):
        raw.extract(tmp_path / "test", patch=resized)


def test_an_image_that_yields_no_patch_is_refused(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", (20, 90))
    with pytest.raises(DataError, match=r"a\.png: 90x20 px after preprocessing is smaller than patch_size_px \(32\)"):
        raw.extract(tmp_path / "test", patch=PATCH.model_copy(update={"edge": "drop"}))


def test_a_normal_image_with_an_anomalous_region_is_refused(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", label=0, boxes=((0, 0, 5, 5),))
    with pytest.raises(DataError, match=r"a\.png: labelled normal, but its mask or boxes mark an anomaly"):
        raw.extract(tmp_path / "test")


def test_a_missing_mask_is_refused(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", label=1, mask=np.ones((40, 56), dtype=bool))
    (raw.root / "mask-a.png").unlink()
    with pytest.raises(DataError, match=r"mask-a\.png"):
        raw.extract(tmp_path / "test")


def test_a_mask_of_the_wrong_size_is_refused(raw: RawSet, tmp_path: Path) -> None:
    raw.add("a.png", label=1, mask=np.ones((20, 20), dtype=bool))
    with pytest.raises(DataError, match=r"a\.png: mask: expected the image's size 56x40"):
        raw.extract(tmp_path / "test")


def test_tables_that_do_not_fit_are_refused(raw: RawSet, tmp_path: Path) -> None:
    twelve(raw)
    splits = raw.splits("test")

    def extract_with(manifest: pa.Table, splits: pa.Table) -> None:
        extract_split("test", manifest, splits, raw.root, PATCH, tmp_path / "test")

    with pytest.raises(DataError, match="split 'test' holds no image"):
        extract_with(raw.manifest, raw.splits("train"))
    with pytest.raises(DataError, match="1 image\\(s\\) are not in the manifest"):
        extract_with(raw.manifest.slice(1), splits)
    with pytest.raises(DataError, match="names an image twice"):
        extract_with(raw.manifest, pa.concat_tables([splits, splits.slice(0, 1)]))
    raw.rows["image-3.png"]["fault"] = "truncated"
    with pytest.raises(DataError, match=r"1 image\(s\) carry a fault, e\.g\. image-3\.png: truncated"):
        extract_with(raw.manifest, splits)
    assert not (tmp_path / "test").exists()


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.fixture
def shards(raw: RawSet, tmp_path: Path) -> PatchShards:
    twelve(raw).extract(tmp_path / "test")
    return PatchShards.open(tmp_path / "test")


def test_rows_can_be_read_in_any_order_and_more_than_once(shards: PatchShards) -> None:
    everything = shards.read(np.arange(len(shards)))
    rows = np.random.default_rng(0).integers(0, len(shards), 100)
    read = shards.read(rows)
    np.testing.assert_array_equal(read, everything[rows])
    read[:] = 0  # a copy: the shards are not touched
    np.testing.assert_array_equal(shards.read(np.arange(len(shards))), everything)
    assert shards.read([]).shape == (0, 32, 32, 3)


def test_rows_of_a_bucket_are_those_that_the_index_names(shards: PatchShards) -> None:
    buckets = shards.index["bucket"].to_numpy()
    for bucket in shards.buckets:
        np.testing.assert_array_equal(shards.rows_of(bucket=bucket), np.flatnonzero(buckets == bucket))
    np.testing.assert_array_equal(shards.rows_of("grid"), np.arange(len(shards)))
    with pytest.raises(ValueError, match="bucket 77 is not one of"):
        shards.rows_of(bucket=77)


def test_a_copy_for_a_worker_process_holds_paths_only(shards: PatchShards) -> None:
    everything = shards.read(np.arange(len(shards)))
    assert shards.index.num_rows
    content = pickle.dumps(shards)
    assert len(content) < 2000
    copy = pickle.loads(content)
    np.testing.assert_array_equal(copy.read(np.arange(len(shards))), everything)
    assert copy.digest == shards.digest


def test_few_files_are_open_however_many_buckets(raw: RawSet, tmp_path: Path) -> None:
    for number in range(150):
        raw.add(f"{number}.png", (8, 8))
    raw.extract(tmp_path / "test", patch=PATCH.model_copy(update={"buckets": 4096}))
    shards = PatchShards.open(tmp_path / "test")
    assert len(shards.buckets) > 140
    before = len(list(Path("/proc/self/fd").iterdir()))
    shards.read(np.arange(len(shards)))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64


def test_rows_that_do_not_exist_are_refused(shards: PatchShards) -> None:
    for row in (-1, len(shards)):
        with pytest.raises(IndexError, match=f"expected rows 0 to {len(shards) - 1}"):
            shards.read([0, row])


def test_a_truncated_shard_is_refused(shards: PatchShards) -> None:
    shard = shards.folder / f"bucket-{shards.buckets[0]:04d}.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"bucket-.*\.npy: expected \d+ bytes of uint8"):
        PatchShards.open(shards.folder)
    with pytest.raises(DataError, match=r"bucket-.*\.npy: not a whole shard"):
        shards.read([0])
    shard.write_bytes(content[:20])
    with pytest.raises(DataError, match="not a readable shard"):
        PatchShards.open(shards.folder)
    shard.unlink()
    with pytest.raises(DataError, match="not a readable shard"):
        PatchShards.open(shards.folder)


def test_an_index_of_other_shards_is_refused(shards: PatchShards) -> None:
    index = shards.index
    PATCH_INDEX.write(shards.folder / "index.parquet", index.slice(0, len(index) - 1))
    with pytest.raises(DataError, match=r"expected patches of shape .* by index\.parquet, found"):
        PatchShards.open(shards.folder)
    PATCH_INDEX.write(shards.folder / "index.parquet", index.take(np.arange(len(index))[::-1]))
    with pytest.raises(DataError, match="not in the order of buckets and rows"):
        PatchShards.open(shards.folder)
    PATCH_INDEX.write(shards.folder / "index.parquet", index.slice(0, 0))
    with pytest.raises(DataError, match="the index holds no patch"):
        PatchShards.open(shards.folder)


def test_a_part_of_the_index_is_that_of_its_bucket(shards: PatchShards) -> None:
    parts = [shards.index_of(bucket) for bucket in shards.buckets]
    assert pa.concat_tables(parts).equals(shards.index)
    PATCH_INDEX.write(shards.folder / "index.parquet", shards.index)  # in one row group
    again = PatchShards.open(shards.folder)
    assert all(again.index_of(bucket).equals(part) for bucket, part in zip(shards.buckets, parts, strict=True))


def test_reading_leaves_nothing_in_memory(tmp_path: Path) -> None:
    """8,000 patches (375 MiB, a file with holes) are read in random order; a memory map would keep all of them."""
    rows, size = 8000, 128
    with (tmp_path / "bucket-0000.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * size * size * 3)
    empty = {True: [""] * rows, False: [0] * rows}
    columns = {f.name: pa.array(empty[pa.types.is_string(f.type)], f.type) for f in PATCH_INDEX.schema}
    columns["row"] = pa.array(np.arange(rows), pa.int32())
    PATCH_INDEX.write(tmp_path / "index.parquet", pa.table(columns))
    shards = PatchShards.open(tmp_path)
    order = np.random.default_rng(0).permutation(rows)
    shards.read(order[:32])
    before = resident_mib()
    for start in range(0, rows, 32):
        shards.read(order[start : start + 32])
    assert resident_mib() - before < 40


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
