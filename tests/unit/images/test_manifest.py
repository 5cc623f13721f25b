"""The manifest records what is, image by image: size, mode, hash, group, and the fault where there is one."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vigil.config import DigitsData, FolderData, MvtecData, SixrayData
from vigil.images.manifest import build_manifest
from vigil.images.near_repeats import near_pairs, perceptual_hash
from vigil.images.raw import prepare_raw
from vigil.records import MANIFEST


def picture(seed: int, width: int = 48, height: int = 32) -> Image.Image:
    """A smooth random picture, as the perceptual hash expects."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def mask(width: int = 48, height: int = 32, mode: str = "L", filled: bool = True) -> Image.Image:
    image = Image.new(mode, (width, height))
    if filled:
        image.putpixel((3, 4), 255 if mode in ("L", "1") else (255, 0, 0))
    return image


def folder(root: Path) -> dict[str, dict[str, Any]]:
    table = build_manifest(FolderData(name="folder", root=str(root)))
    MANIFEST.write(root.parent / "manifest.parquet", table)
    assert table["image_id"].to_pylist() == sorted(table["image_id"].to_pylist())
    return {row["image_id"]: row for row in table.to_pylist()}


def test_a_row_says_what_the_file_holds(tmp_path: Path) -> None:
    save(tmp_path / "root/normal/a.png", picture(1))
    save(tmp_path / "root/normal/b.png", Image.new("I;16", (1, 1)))
    row = folder(tmp_path / "root")["normal/a.png"]
    content = (tmp_path / "root/normal/a.png").read_bytes()
    assert row == {
        "image_id": "normal/a.png",
        "path": "normal/a.png",
        "offset": None,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "width": 48,
        "height": 32,
        "mode": "RGB",
        "brightness": pytest.approx(np.asarray(picture(1)).reshape(-1, 3).mean(0) @ (0.299, 0.587, 0.114), abs=1e-4),
        "label": 0,
        "kind": "normal",
        "group": "normal/a.png",
        "official_split": None,
        "mask_path": None,
        "mask_pixels": None,
        "boxes": [],
        "fault": None,
        "fault_of": None,
    }
    odd = folder(tmp_path / "root")["normal/b.png"]
    assert (odd["width"], odd["height"], odd["mode"], odd["fault"]) == (1, 1, "I;16", None)


def test_archives_are_read_in_place(tmp_path: Path) -> None:
    data = DigitsData(name="digits", root=str(tmp_path / "digits"), held_class="0")
    prepare_raw(data)
    table = build_manifest(data)
    assert table.num_rows == 1797
    assert table["fault"].null_count == 1797
    assert set(table["mode"].to_pylist()) == {"L"}
    assert set(table["width"].to_pylist()) == {8}


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda p, m: p.write_bytes(p.read_bytes()[:300]), "anomalous/dent/a.png: the image is truncated"),
        (lambda p, m: p.write_bytes(b""), "anomalous/dent/a.png: the file is empty"),
        (lambda p, m: p.write_text("x,y"), "anomalous/dent/a.png: not an image in one of the formats"),
        (lambda p, m: save(p, picture(1, 400, 300)), "400x300 pixels, more than the limit of 100000"),
        (lambda p, m: m.unlink(), "its mask masks/dent/a.png is missing"),
        (lambda p, m: save(m, mask(48, 31)), "its mask masks/dent/a.png is 48x31, the image 48x32"),
        (lambda p, m: save(m, mask(mode="RGB")), "has the mode RGB, expected one of 1, L; save it as 8-bit grey"),
        (
            lambda p, m: m.write_bytes(m.read_bytes()[:60]),
            "its mask masks/dent/a.png: .*(does not decode|not an image)",
        ),
    ],
)
def test_each_fault_is_named_and_never_raised(tmp_path: Path, spoil: Any, fault: str) -> None:
    root = tmp_path / "root"
    save(root / "normal/n.png", picture(0))
    save(root / "anomalous/dent/a.png", picture(1))
    save(root / "masks/dent/a.png", mask())
    assert folder(root)["anomalous/dent/a.png"]["fault"] is None
    spoil(root / "anomalous/dent/a.png", root / "masks/dent/a.png")
    table = build_manifest(FolderData(name="folder", root=str(root)), max_pixels=100_000)
    faults = dict(zip(table["image_id"].to_pylist(), table["fault"].to_pylist(), strict=True))
    assert faults["normal/n.png"] is None
    assert re.search(fault, faults["anomalous/dent/a.png"])


def test_a_link_out_of_the_root_is_a_fault(tmp_path: Path) -> None:
    save(tmp_path / "root/normal/a.png", picture(0))
    save(tmp_path / "elsewhere.png", picture(1))
    (tmp_path / "root/normal/b.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "root/normal/c.png").symlink_to(tmp_path / "nothing.png")
    rows = folder(tmp_path / "root")
    assert "leads out of the data folder" in rows["normal/b.png"]["fault"]
    assert "leads out of the data folder" in rows["normal/c.png"]["fault"]


def test_exact_copies_share_a_group_but_unreadable_files_do_not(tmp_path: Path) -> None:
    for name in ("a", "c"):
        save(tmp_path / f"root/normal/{name}.png", picture(1))
    save(tmp_path / "root/normal/b.png", picture(2))
    for name in ("x", "y"):
        (tmp_path / f"root/normal/{name}.png").write_bytes(b"")
    groups = {name[7]: row["group"][7] for name, row in folder(tmp_path / "root").items()}
    assert groups == {"a": "a", "b": "b", "c": "a", "x": "x", "y": "y"}


# ---------------------------------------------------------------------------------------------------------------- boxes


def bag(root: Path, corners: tuple[float, float, float, float], size: tuple[int, int] = (48, 32)) -> dict[str, Any]:
    save(root / "JPEGImages/P1.jpg", picture(1))
    save(root / "JPEGImages/N1.jpg", picture(2))
    (root / "Annotation").mkdir(exist_ok=True)
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, corners, strict=True))
    (root / "Annotation/P1.xml").write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"<object><name>gun</name><bndbox>{box}</bndbox></object></annotation>"
    )
    rows = build_manifest(SixrayData(name="sixray", root=str(root))).to_pylist()
    return next(row for row in rows if row["label"] == 1)


def test_boxes_are_kept_and_clipped_by_the_pixel_that_conventions_differ_by(tmp_path: Path) -> None:
    row = bag(tmp_path, (1.5, 2, 48.6, 33))
    assert row["boxes"] == [{"kind": "gun", "x0": 1, "y0": 2, "x1": 48, "y1": 32}]
    assert (row["fault"], row["kind"]) == (None, "gun")


@pytest.mark.parametrize(
    ("corners", "size", "fault"),
    [
        ((1, 2, 50, 20), (48, 32), r"the box gun \(1, 2\)-\(50, 20\) reaches outside the image \(48x32\)"),
        ((-2, 2, 40, 20), (48, 32), "reaches outside the image"),
        ((9, 2, 9, 20), (48, 32), r"the box gun \(9, 2\)-\(9, 20\) is empty"),
        ((1, 2, 9, 20), (96, 64), "the annotation is for 96x64 pixels, the image has 48x32"),
    ],
)
def test_a_box_that_cannot_be_is_a_fault(
    tmp_path: Path, corners: tuple[float, float, float, float], size: tuple[int, int], fault: str
) -> None:
    row = bag(tmp_path, corners, size)
    assert row["boxes"] == []
    assert re.search(fault, row["fault"])


# --------------------------------------------------------------------------------------------------------- near-repeats


def test_near_repeats_of_a_bag_share_a_group(tmp_path: Path) -> None:
    bag_picture = picture(3, 240, 160)
    save(tmp_path / "JPEGImages/P1.jpg", bag_picture)
    save(tmp_path / "JPEGImages/P2.jpg", bag_picture.resize((237, 158)))
    save(tmp_path / "JPEGImages/P3.jpg", picture(4, 240, 160))
    save(tmp_path / "JPEGImages/N1.jpg", bag_picture.resize((236, 157)))
    table = build_manifest(SixrayData(name="sixray", root=str(tmp_path)))
    groups = dict(zip(table["image_id"].to_pylist(), table["group"].to_pylist(), strict=True))
    assert {name[11:13]: group[11:13] for name, group in groups.items()} == {
        "N1": "N1",
        "P1": "N1",
        "P2": "N1",
        "P3": "P3",
    }


def test_two_views_of_a_bag_share_a_group_and_unreadable_images_none(tmp_path: Path) -> None:
    for number, (name, width) in enumerate([("N7", 90), ("n8", 90), ("N9", 80), ("N11", 80), ("P9", 90), ("P8", 70)]):
        save(tmp_path / f"JPEGImages/{name}.png", picture(number, width, 60))
    for name in ("N20", "N21"):
        (tmp_path / f"JPEGImages/{name}.png").write_bytes(b"broken")
    table = build_manifest(SixrayData(name="sixray", root=str(tmp_path)))
    groups = {
        Path(i).stem: Path(g).stem for i, g in zip(*(table[c].to_pylist() for c in ("image_id", "group")), strict=True)
    }
    assert groups == {**{name: name for name in groups}, "n8": "N7"}


def scene(seed: int) -> Image.Image:
    """A picture of 80x60 with coarse and fine detail; two of them have neither in common."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 200, (10, 14, 3), dtype=np.uint8))
    noise = random.normal(0, 8, (60, 80, 3))
    pixels = np.asarray(coarse.resize((80, 60), Image.Resampling.BICUBIC)) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def groups_of(data: Any) -> dict[str, str]:
    table = build_manifest(data)
    return dict(zip(table["image_id"].to_pylist(), table["group"].to_pylist(), strict=True))


def test_near_duplicates_share_a_group_in_any_imported_set_unless_that_is_switched_off(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / f"normal/{number}.png", scene(number))
    scene(1).save(tmp_path / "normal/compressed.jpg", quality=97)
    save(tmp_path / "anomalous/dent/darker.png", ImageEnhance.Brightness(scene(2)).enhance(0.8))
    (tmp_path / "normal/broken.png").write_bytes(b"")
    alone = groups_of(FolderData(name="folder", root=str(tmp_path), near_repeats="never"))
    assert all(name == group for name, group in alone.items())
    joined = {"normal/compressed.jpg": "normal/1.png", "normal/2.png": "anomalous/dent/darker.png"}
    assert groups_of(FolderData(name="folder", root=str(tmp_path))) == {**alone, **joined}


def test_a_set_with_one_image_or_with_one_normal_image_has_no_usual_likeness(tmp_path: Path) -> None:
    for name in ("one", "few"):
        save(tmp_path / name / "normal/0.png", scene(0))
    for number in range(2):
        save(tmp_path / f"few/anomalous/dent/{number}.png", scene(1).point(lambda value, by=number: value // (1 + by)))
    for name, images in (("one", 1), ("few", 3)):
        assert len(groups_of(FolderData(name="folder", root=str(tmp_path / name)))) == images


@pytest.mark.parametrize("sixray", [False, True])
def test_images_that_have_no_grey_form_are_not_compared(tmp_path: Path, sixray: bool) -> None:
    for number in range(2):
        file = io.BytesIO()
        Image.new("LAB", (40, 30), (90, 120, 130)).save(file, "TIFF")
        name = f"JPEGImages/N{number}.jpg" if sixray else f"normal/{number}.tif"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(file.getvalue() + bytes(number))  # no exact copies
    save(tmp_path / ("JPEGImages/P1.jpg" if sixray else "normal/2.png"), scene(0))
    data = SixrayData if sixray else FolderData
    found = groups_of(data.model_validate({"name": "sixray" if sixray else "folder", "root": str(tmp_path)}))
    assert len(found) == 3
    assert all(name == group for name, group in found.items())


def test_a_near_duplicate_across_the_official_split_is_joined_only_on_request(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"part/train/good/{number}.png", scene(number))
    save(tmp_path / "part/train/good/twin.png", ImageEnhance.Brightness(scene(0)).enhance(0.9))
    save(tmp_path / "part/test/good/0.png", ImageEnhance.Brightness(scene(0)).enhance(0.8))
    save(tmp_path / "part/test/good/1.png", scene(7))
    data = MvtecData(name="mvtec", root=str(tmp_path), category="part")
    apart = groups_of(data)
    assert apart.pop("part/train/good/twin.png") == "part/train/good/0.png"
    assert all(name == group for name, group in apart.items())
    everywhere = groups_of(data.model_copy(update={"near_repeats": "everywhere"}))
    assert {name for name, group in everywhere.items() if group == "part/test/good/0.png"} == {
        "part/test/good/0.png", "part/train/good/0.png", "part/train/good/twin.png",
    }  # fmt: skip


def test_parts_that_lie_alike_are_not_taken_for_repeats_of_one_another(tmp_path: Path) -> None:
    """Every picture shows the same part in the same place, as in MVTec AD; only the copy is one."""
    part = np.asarray(scene(0), np.float64)
    for number in range(12):
        noise = np.random.default_rng(number).normal(0, 12, part.shape)
        save(tmp_path / f"normal/{number:02d}.png", Image.fromarray((part + noise).clip(0, 255).astype(np.uint8)))
    with Image.open(tmp_path / "normal/03.png") as image:
        save(tmp_path / "normal/copy.png", ImageEnhance.Brightness(image).enhance(0.95))
    hashes = np.array([perceptual_hash(Image.open(path)) for path in sorted((tmp_path / "normal").iterdir())])
    assert sum(len(one) for one, _ in near_pairs(hashes)) == 13 * 12 // 2  # by their hashes all are near
    found = groups_of(FolderData(name="folder", root=str(tmp_path)))
    assert {name for name, group in found.items() if name != group} == {"normal/copy.png"}
    assert found["normal/copy.png"] == "normal/03.png"
