"""Each thing that can be wrong with raw images or patches is found, named with its file, and stops the pipeline."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from vigil.config import FolderData, MagneticTileData, PatchSection, SixrayData, SplitSection, ValidateSection
from vigil.errors import DataError, ValidationFailed
from vigil.files import digest_folder, read_json
from vigil.images import validation
from vigil.images.extraction import extract_split
from vigil.images.manifest import build_manifest
from vigil.images.splitting import split_images
from vigil.images.validation import validate_manifest, validate_patch_index
from vigil.records import PATCH_INDEX, SPLIT_TABLE, SPLITS

FEW = ValidateSection(min_normal_images=3)


def picture(seed: int, mode: str = "RGB", side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).convert(mode)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of this size are read in several parts, so that every test holds across their borders."""
    monkeypatch.setattr(validation, "_ROWS_PER_PART", 4)
    monkeypatch.setattr(validation, "_PATCHES_PER_PART", 70)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five normal images and two anomalous ones with masks; all is well."""
    root = tmp_path / "mine"
    for number in range(5):
        save(root / f"normal/{number}.png", picture(number))
    mask = Image.new("L", (32, 32))
    mask.paste(255, (4, 4, 9, 9))
    for number in range(2):
        save(root / f"anomalous/dent/{number}.png", picture(100 + number))
        save(root / f"masks/dent/{number}.png", mask)
    return root


def check(root: Path, validate: ValidateSection = FEW) -> pa.Table:
    manifest = build_manifest(FolderData(name="folder", root=str(root)))
    return validate_manifest(manifest, validate, root, root.parent / "report")


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_good_images_are_accepted_as_they_are(root: Path) -> None:
    accepted = check(root)
    assert accepted.equals(build_manifest(FolderData(name="folder", root=str(root))))
    report = root.parent / "report"
    assert sorted(p.name for p in report.iterdir()) == ["index.html", "validation.json"]
    result = read_json(report / "validation.json")
    assert (result["passed"], result["failed"]) == (15, 0)
    assert result["overview"]["Kind 'dent'"] == 2


PLANTED: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("truncated", lambda p: p.write_bytes(p.read_bytes()[:900]), "normal/3.png", "the image is truncated"),
    ("no image", lambda p: p.write_text("hello"), "normal/3.png", "not an image in one of the formats"),
    ("1x1", lambda p: save(p, picture(0, side=1)), "normal/3.png", "1x1 pixels; the shorter side must have at least 8"),
    ("16-bit", lambda p: save(p, Image.new("I;16", (32, 32))), "normal/3.png", "holds 16 bits per pixel; scale it to"),
    ("palette", lambda p: save(p, picture(3, "P")), "normal/3.png", "is a palette image; convert it to RGB"),
    ("RGBA", lambda p: save(p, picture(3, "RGBA")), "normal/3.png", "has an alpha channel; convert it to RGB"),
    ("LA", lambda p: save(p, picture(3, "LA")), "normal/3.png", "has an alpha channel; convert it to 8-bit grey"),
    (
        "CMYK",
        lambda p: picture(3, "CMYK").save(p, format="TIFF"),
        "normal/3.png",
        "holds printing colours (CMYK); convert it to RGB",
    ),
    ("mask size", lambda p: save(p, Image.new("L", (31, 32))), "masks/dent/1.png", "is 31x32, the image 32x32"),
    ("empty mask", lambda p: save(p, Image.new("L", (32, 32))), "masks/dent/1.png", "is empty (all zero) although the"),
    ("no mask", lambda p: p.unlink(), "masks/dent/1.png", "its mask masks/dent/1.png is missing"),
]


@pytest.mark.parametrize(("plant", "path", "reason"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED])
def test_each_planted_fault_is_named_with_its_file_and_can_be_put_aside(
    root: Path, plant: Callable[[Path], None], path: str, reason: str
) -> None:
    plant(root / path)
    image_id = path.replace("masks", "anomalous")
    with pytest.raises(ValidationFailed) as caught:
        check(root)
    message = str(caught.value)
    assert message.startswith("the raw images break 1 of 15 expectations:\n  FAILED ")
    assert f"(1 of 7, first {image_id})\n  {image_id}: " in message
    assert reason in message
    assert "set validate.quarantine to true to go on without them" in message

    report = root.parent / "report"
    (failure,) = table_of(root.parent / "report-failed/failures.csv")
    assert (failure["item"], failure["file"]) == (image_id, f"{root}/{image_id}")
    assert reason in failure["reason"]
    assert failure["expectation"] in message

    accepted = check(root, FEW.model_copy(update={"quarantine": True}))
    assert accepted.num_rows == 6
    assert image_id not in accepted["image_id"].to_pylist()
    assert table_of(report / "quarantined.csv") == [failure]
    assert not (root.parent / "report-failed").exists()
    assert read_json(report / "validation.json")["overview"]["Quarantined"] == 1


@pytest.mark.parametrize(
    ("box", "size", "reason"),
    [
        ((4, 4, 40, 9), (32, 32), "the box gun (4, 4)-(40, 9) reaches outside the image (32x32)"),
        ((4, 4, 4, 9), (32, 32), "the box gun (4, 4)-(4, 9) is empty"),
        ((4, 4, 9, 9), (64, 64), "the annotation is for 64x64 pixels, the image has 32x32"),
        ((4, 4, 9, 9), ("wide", 32), "not a readable VOC annotation"),
    ],
)
def test_a_box_or_annotation_that_does_not_fit_is_named_with_its_image(
    tmp_path: Path, box: tuple[int, ...], size: tuple[Any, int], reason: str
) -> None:
    root = tmp_path / "bags"
    for number in range(7):
        save(root / f"JPEGImages/{'NP'[number > 3]}{number:05d}.png", picture(number))
    (root / "Annotation").mkdir()
    for number, values, (width, height) in ((4, (4, 4, 9, 9), (32, 32)), (5, box, size)):
        corners = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True))
        (root / f"Annotation/P0000{number}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size>"
            f"<object><name>gun</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    manifest = build_manifest(SixrayData(name="sixray", root=str(root)))
    with pytest.raises(ValidationFailed) as caught:
        validate_manifest(manifest, FEW, root, tmp_path / "report")
    assert "(1 of 7, first JPEGImages/P00005.png)" in str(caught.value)
    assert reason in str(caught.value)
    (failure,) = table_of(tmp_path / "report-failed/failures.csv")
    assert failure["file"] == f"{root}/JPEGImages/P00005.png"


def test_empty_masks_pass_by_name_alone_and_a_name_too_many_is_told(root: Path) -> None:
    save(root / "masks/dent/1.png", Image.new("L", (32, 32)))
    listed = FEW.model_copy(update={"empty_masks_allowed": ("anomalous/dent/1.png",)})
    assert check(root, listed).num_rows == 7
    save(root / "masks/dent/1.png", Image.new("L", (32, 32), 255))
    with pytest.raises(ValidationFailed, match=r"its mask masks/dent/1.png marks 1024 pixels; take it off the list"):
        check(root, listed)


def test_an_image_with_more_pixels_than_the_contract_takes_is_named(root: Path) -> None:
    save(root / "normal/3.png", picture(3, side=48))
    with pytest.raises(ValidationFailed, match=r"normal/3\.png: 48x48 pixels, more than 2000 \(validate\.max_pixels\)"):
        check(root, FEW.model_copy(update={"max_pixels": 2000}))


def test_a_mask_that_marks_something_on_a_normal_image_is_named(tmp_path: Path) -> None:
    root = tmp_path / "tiles"
    for number in range(5):
        name = f"MT_{'Crack' if number == 4 else 'Free'}/Imgs/exp1_num_{number}000"
        save(root / f"{name}.jpg", picture(number, "L"))
        save(root / f"{name}.png", Image.new("L", (32, 32), 255 if number in (2, 4) else 0))
    manifest = build_manifest(MagneticTileData(name="magnetic_tile", root=str(root)))
    with pytest.raises(ValidationFailed, match=r"_2000\.png marks something although the image is normal") as caught:
        validate_manifest(manifest, FEW, root, tmp_path / "report")
    rule = "every mask is readable, has its image's size, and marks nothing on a normal image"
    assert f"FAILED {rule} (1 of 5, first MT_Free/Imgs/exp1_num_2000.jpg)" in str(caught.value)


def test_a_kind_that_is_not_known_is_named(root: Path) -> None:
    with pytest.raises(ValidationFailed, match=r"dent/0.png: the kind 'dent' is not known; expected one of scratch"):
        check(root, FEW.model_copy(update={"kinds": ("scratch",)}))
    assert check(root, FEW.model_copy(update={"kinds": ("scratch", "dent")})).num_rows == 7


def test_a_broken_contract_leaves_the_good_report_and_the_next_good_run_removes_the_bad_one(root: Path) -> None:
    check(root)
    good = digest_folder(root.parent / "report")
    (root / "normal/9.png").write_bytes(b"")
    with pytest.raises(ValidationFailed, match=r"All of them: .*/report-failed/failures.csv"):
        check(root)
    assert digest_folder(root.parent / "report") == good
    (root / "normal/9.png").unlink()
    check(root)
    assert digest_folder(root.parent / "report") == good
    assert sorted(p.name for p in root.parent.iterdir()) == ["mine", "report"]


def test_an_id_that_occurs_twice_is_found(root: Path) -> None:
    manifest = build_manifest(FolderData(name="folder", root=str(root)))
    twice = pa.concat_tables([manifest.slice(0, 4), manifest.slice(3)])
    with pytest.raises(ValidationFailed, match=r"normal/1.png: another image has the same id"):
        validate_manifest(twice, FEW, root, root.parent / "report")


def test_a_picture_under_both_labels_is_refused_on_both_sides(root: Path) -> None:
    (root / "anomalous/dent/1.png").write_bytes((root / "normal/2.png").read_bytes())
    with pytest.raises(ValidationFailed, match="FAILED no picture is both normal and anomalous") as caught:
        check(root)
    assert "\n  anomalous/dent/1.png: the same file (sha256 " in str(caught.value)
    assert "\n  normal/2.png: the same file (sha256 " in str(caught.value)
    (root / "anomalous/dent/1.png").write_bytes(b"")
    (root / "normal/2.png").write_bytes(b"")
    with pytest.raises(ValidationFailed) as caught:
        check(root)
    assert "both normal and anomalous" not in str(caught.value), "two unreadable files are not one picture"


def test_every_reason_of_a_file_is_given_and_only_the_first_twenty_files(root: Path) -> None:
    for number in range(30):
        save(root / f"normal/tiny {number:02d}.png", picture(50 + number, "P", side=4))
    with pytest.raises(ValidationFailed) as caught:
        check(root)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the raw images break 2 of 15 expectations:"
    assert lines[3] == (
        "  normal/tiny 00.png: 4x4 pixels; the shorter side must have at least 8 (validate.min_side_px); is a palette "
        "image; convert it to RGB (mode P; accepted are L, RGB)"
    )
    assert lines[23] == "  ... and 10 more"
    assert len(table_of(root.parent / "report-failed/failures.csv")) == 60


def test_the_set_as_a_whole_must_hold_enough_and_both_classes(root: Path) -> None:
    with pytest.raises(ValidationFailed, match="found 5 usable normal images, expected at least 6") as caught:
        check(root, FEW.model_copy(update={"min_normal_images": 6, "quarantine": True}))
    assert "validate.quarantine to true" not in str(caught.value)
    for path in (root / "anomalous/dent").iterdir():
        path.unlink()
    with pytest.raises(ValidationFailed, match=r"FAILED both classes are there.*a class is missing"):
        check(root)


def test_quarantine_may_not_lose_a_kind(root: Path) -> None:
    save(root / "anomalous/hole/0.png", picture(20, "RGBA"))
    with pytest.raises(ValidationFailed, match="kind 'hole': none of its 1 images is usable"):
        check(root, FEW.model_copy(update={"quarantine": True}))


def test_nothing_usable_at_all_ends_in_the_same_list(root: Path) -> None:
    with pytest.raises(ValidationFailed, match="found 0 usable normal images"):
        check(root, FEW.model_copy(update={"min_side_px": 64, "quarantine": True}))


def test_labels_and_kinds_that_contradict_each_other_are_found(root: Path) -> None:
    manifest = build_manifest(FolderData(name="folder", root=str(root)))
    rows = manifest.to_pylist()
    rows[0]["label"], rows[3]["kind"], rows[4]["label"] = 2, "scratch", 1
    wrong = pa.Table.from_pylist(rows, schema=manifest.schema)
    with pytest.raises(ValidationFailed) as caught:
        validate_manifest(wrong, FEW, root, root.parent / "report")
    message = str(caught.value)
    assert "anomalous/dent/0.png: the label is 2" in message
    assert "normal/1.png: the label is 0, but the kind is 'scratch'" in message
    assert "normal/2.png: the label is 1, but the kind is 'normal'" in message


def test_the_report_is_the_same_every_time_escapes_names_and_needs_no_network(root: Path) -> None:
    save(root / "normal/<b>&.png", picture(9, "P"))
    digests = []
    for _ in range(2):
        with pytest.raises(ValidationFailed):
            check(root)
        digests.append(digest_folder(root.parent / "report-failed"))
    assert digests[0] == digests[1]
    page = (root.parent / "report-failed/index.html").read_text()
    assert "normal/&lt;b&gt;&amp;.png" in page
    assert "<b>&.png" not in page
    assert "contract broken" in page
    assert "<style>" in page
    assert "://" not in page
    assert "src=" not in page


def test_great_expectations_is_imported_late_and_told_to_send_nothing() -> None:
    code = (
        "import sys, os, pandas as pd, vigil.images.validation as v\n"
        "assert 'great_expectations' not in sys.modules\n"
        "rule = v.Rule('r', 'ExpectColumnValuesToBeNull', {'column': 'a'}, str)\n"
        "v.Contract([rule], 'a', str).check(pd.DataFrame({'a': [1]}))\n"
        "print(os.environ['GX_ANALYTICS_ENABLED'])\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "false\n"), done.stderr


# ---------------------------------------------------------------------------------------------------------- patch index

PATCH = PatchSection(patch_size_px=32, stride_px=16, shorter_side_px=64, buckets=4, workers=1, regions_of_interest=True)


@pytest.fixture
def shards(root: Path) -> dict[str, Path]:
    for number in range(5, 12):
        save(root / f"normal/{number}.png", picture(number))
    accepted = check(root)
    splits = split_images(accepted, SplitSection(calibration_anomaly_fraction=0.5))
    folders = {split: root.parent / "patches" / split for split in SPLITS}
    for split, folder in folders.items():
        extract_split(split, accepted, splits, root, PATCH, folder)
    return folders


def tamper(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    PATCH_INDEX.write(folder / "index.parquet", change(PATCH_INDEX.read(folder / "index.parquet")))


def with_column(name: str, value: Callable[[pa.Table], Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda t: t.set_column(
        t.schema.get_field_index(name),
        PATCH_INDEX.schema.field(name),
        value(t).cast(PATCH_INDEX.schema.field(name).type),
    )


def test_good_shards_pass(shards: dict[str, Path], tmp_path: Path) -> None:
    validate_patch_index(shards, PATCH, tmp_path / "patch-report")
    result = read_json(tmp_path / "patch-report/validation.json")
    assert (result["passed"], result["failed"]) == (7, 0)
    assert result["overview"]["Patches: train, anomalous"] == 0
    assert result["overview"]["Patches: test, anomalous"] > 0
    assert result["overview"]["Images"] == 14


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", lambda t: t.slice(1), "FAILED every image has as many patches as its grid has places"),
        ("train", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "FAILED every patch occurs once"),
        ("test", with_column("overlap", lambda t: pc.add(t["overlap"], 1.5)), "overlap with mask and boxes is a share"),
        (
            "test",
            with_column("label", lambda t: pc.subtract(1, t["label"])),
            "FAILED the label agrees with the overlap",
        ),
        ("train", with_column("label", lambda t: pc.add(t["label"], 1)), "label 1 with overlap 0.0000, image label 0"),
        ("train", with_column("group", lambda t: pc.if_else(True, "anomalous/dent/0.png", t["group"])), "in 2 splits"),
        ("train", with_column("bucket", lambda t: pc.add(t["bucket"], 4)), "FAILED no shard is empty"),
        ("train", with_column("row", lambda t: pc.add(t["row"], 1)), "the index names them with gaps or repeats"),
    ],
)
def test_an_index_that_does_not_fit_is_found(
    shards: dict[str, Path], tmp_path: Path, split: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    tamper(shards[split], change)
    with pytest.raises(ValidationFailed, match=message) as caught:
        validate_patch_index(shards, PATCH, tmp_path / "patch-report")
    assert str(caught.value).startswith("the patches break ")
    assert table_of(tmp_path / "patch-report-failed/failures.csv")


def test_an_image_that_the_index_lacks_or_has_too_many_is_named(shards: dict[str, Path], tmp_path: Path) -> None:
    index = PATCH_INDEX.read(shards["train"] / "index.parquet").select(["image_id", "label", "kind", "group"])
    table = index.group_by(index.column_names).aggregate([])
    table = table.append_column("split", pa.array(["train"] * len(table)))
    splits, train = tmp_path / "splits.parquet", {"train": shards["train"]}
    SPLIT_TABLE.write(splits, table)
    validate_patch_index(train, PATCH, tmp_path / "patch-report", splits)
    lost = table["image_id"][0].as_py()
    SPLIT_TABLE.write(splits, table.slice(1))
    with pytest.raises(ValidationFailed, match=f"{lost}: train: the image is missing in {splits}"):
        validate_patch_index(train, PATCH, tmp_path / "patch-report", splits)
    SPLIT_TABLE.write(splits, table)
    tamper(shards["train"], lambda t: t.filter(pc.not_equal(t["image_id"], lost)))
    with pytest.raises(ValidationFailed, match=f"{lost}: train: the image is missing in the index"):
        validate_patch_index(train, PATCH, tmp_path / "patch-report", splits)


def test_a_missing_shard_or_index_is_found(shards: dict[str, Path], tmp_path: Path) -> None:
    next(shards["test"].glob("bucket-????.npy")).unlink()
    with pytest.raises(ValidationFailed, match="the shard of test holds no patch, or is missing"):
        validate_patch_index(shards, PATCH, tmp_path / "patch-report")
    (shards["test"] / "index.parquet").unlink()
    with pytest.raises(DataError, match=r"index.parquet: file not found"):
        validate_patch_index(shards, PATCH, tmp_path / "patch-report")
