"""Each layout gives the rows that its folder says, and a broken layout is named."""

from __future__ import annotations

import io
import logging
import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vigil.config import BaggageData, Cifar10Data, DataSection, DigitsData, FolderData, MvtecData, SixrayData
from vigil.errors import DataError
from vigil.images.readers import ImageRow, read_rows
from vigil.records import Box


def save(path: Path, size: tuple[int, int] = (32, 32), colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, colour).save(path)


def tar(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))


def rows(data: DataSection) -> dict[str, ImageRow]:
    return {row.image_id: row for row in read_rows(data)}


def voc(*objects: tuple[str, str, str, str, str], size: tuple[int, int] | None = (32, 32)) -> str:
    width_height = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    body = "".join(
        f"<object><name>{k}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        f"</object>"
        for k, a, b, c, d in objects
    )
    return f"<annotation>{width_height}{body}</annotation>"


# -------------------------------------------------------------------------------------------------- digits and CIFAR-10


def test_digits_hold_one_class_out_under_either_protocol(tmp_path: Path) -> None:
    tar(tmp_path / "digits.tar", ["3/0001.png", "3/0000.png", "5/0002.png"])
    anomalous = rows(DigitsData(name="digits", root=str(tmp_path), held_class="3"))
    assert [(r.image_id, r.label, r.kind) for r in anomalous.values()] == [
        ("digits.tar::3/0000.png", 1, "3"),
        ("digits.tar::3/0001.png", 1, "3"),
        ("digits.tar::5/0002.png", 0, "normal"),
    ]
    normal = rows(DigitsData(name="digits", root=str(tmp_path), held_class="3", protocol="one_class_normal"))
    assert [(r.label, r.kind) for r in normal.values()] == [(0, "normal"), (0, "normal"), (1, "5")]
    for row in normal.values():
        content = (tmp_path / row.path).read_bytes()
        assert content[row.offset : (row.offset or 0) + row.length].decode() == row.image_id.split("::")[1]
        assert row.group == row.image_id
        assert row.official_split is None


def test_a_held_class_without_images_is_named_with_those_that_have_some(tmp_path: Path) -> None:
    tar(tmp_path / "train.tar", ["cat/0.png", "dog/0.png"])
    with pytest.raises(DataError, match=r"'automobil' has no image in .*; the classes there are cat, dog"):
        rows(Cifar10Data(name="cifar10", root=str(tmp_path), held_class="automobil"))


def test_cifar10_takes_the_split_from_the_archive(tmp_path: Path) -> None:
    tar(tmp_path / "train.tar", ["cat/0.png", "dog/0.png"])
    tar(tmp_path / "test.tar", ["dog/0.png"])
    tar(tmp_path / "images.tar", ["cat/7.png"])
    found = rows(Cifar10Data(name="cifar10", root=str(tmp_path), held_class="dog"))
    assert {k: (r.official_split, r.label) for k, r in found.items()} == {
        "images.tar::cat/7.png": (None, 0),
        "test.tar::dog/0.png": ("test", 1),
        "train.tar::cat/0.png": ("train", 0),
        "train.tar::dog/0.png": ("train", 1),
    }
    assert list(found) == sorted(found)


def test_an_archive_with_links_strange_classes_or_damage_is_refused(tmp_path: Path) -> None:
    data = Cifar10Data(name="cifar10", root=str(tmp_path), held_class="dog")
    tar(tmp_path / "train.tar", ["cow/0.png"])
    with pytest.raises(DataError, match=r"train.tar::cow/0.png: expected <class>/<file>"):
        rows(data)
    with tarfile.open(tmp_path / "train.tar", "w:") as archive:
        link = tarfile.TarInfo("dog/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="not a plain file"):
        rows(data)
    (tmp_path / "train.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="not a readable uncompressed tar"):
        rows(data)


# ------------------------------------------------------------------------------------------------------------- MVTec AD


def test_mvtec_reads_one_category_with_masks_and_official_splits(tmp_path: Path) -> None:
    for path in ("train/good/000.png", "test/good/000.png", "test/crack/000.png", "ground_truth/crack/000_mask.png"):
        save(tmp_path / "tile" / path)
    save(tmp_path / "bottle/train/good/000.png")
    (tmp_path / "tile/vigil-import.json").write_text("{}")
    found = rows(MvtecData(name="mvtec", root=str(tmp_path), category="tile"))
    assert {k: (r.label, r.kind, r.official_split, r.mask_path) for k, r in found.items()} == {
        "tile/test/crack/000.png": (1, "crack", "test", "tile/ground_truth/crack/000_mask.png"),
        "tile/test/good/000.png": (0, "normal", "test", None),
        "tile/train/good/000.png": (0, "normal", "train", None),
    }
    with pytest.raises(DataError, match="the categories there are bottle, tile"):
        rows(MvtecData(name="mvtec", root=str(tmp_path), category="cable"))
    save(tmp_path / "tile/train/crack/000.png")
    with pytest.raises(DataError, match=r"holds \['crack'\], but MVTec AD trains on 'good' alone"):
        rows(MvtecData(name="mvtec", root=str(tmp_path), category="tile"))


# ---------------------------------------------------------------------------------------------------- the user's folder


def test_folder_reads_normal_and_kinds_recursively_and_leaves_clutter_out(tmp_path: Path) -> None:
    for path in ("normal/b.png", "normal/day 1/a.png", "anomalous/dent/x/1.jpg", "anomalous/hole/2.png"):
        save(tmp_path / path)
    save(tmp_path / "masks/dent/x/1.png")
    (tmp_path / "normal/.hidden.png").write_bytes(b"")
    (tmp_path / "normal/Thumbs.db").write_bytes(b"")
    (tmp_path / "normal/notes.txt").write_text("a file that is no image still gets its row, and later its fault")
    found = rows(FolderData(name="folder", root=str(tmp_path)))
    assert {k: (r.label, r.kind, r.mask_path) for k, r in found.items()} == {
        "normal/b.png": (0, "normal", None),
        "normal/day 1/a.png": (0, "normal", None),
        "normal/notes.txt": (0, "normal", None),
        "anomalous/dent/x/1.jpg": (1, "dent", "masks/dent/x/1.png"),
        "anomalous/hole/2.png": (1, "hole", None),
    }


def test_an_empty_or_a_missing_folder_is_named(tmp_path: Path) -> None:
    data = FolderData(name="folder", root=str(tmp_path / "mine"))
    with pytest.raises(DataError, match="mine: data folder not found; run `vigil stage raw`, or `vigil data import"):
        rows(data)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="mine/normal: no images found; expected at least one image"):
        rows(data)
    with pytest.raises(DataError, match=r"no images found; expected JPEGImages/N\*"):
        rows(SixrayData(name="sixray", root=str(tmp_path / "mine")))


@pytest.mark.parametrize("path", ["anomalous/1.png", "anomalous/normal/1.png"])
def test_an_anomalous_image_without_a_kind_is_named(tmp_path: Path, path: str) -> None:
    save(tmp_path / "normal/1.png")
    save(tmp_path / path)
    with pytest.raises(DataError, match=f"{path}: expected anomalous/<kind>/<file>"):
        rows(FolderData(name="folder", root=str(tmp_path)))


def test_links_to_folders_are_not_followed_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    save(root / "normal/1.png")
    save(tmp_path / "elsewhere/2.png")
    (root / "normal/more").symlink_to(tmp_path / "elsewhere")
    (root / "normal/loop").symlink_to(root / "normal")
    with caplog.at_level(logging.WARNING):
        assert list(rows(FolderData(name="folder", root=str(root)))) == ["normal/1.png"]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["normal/loop", "normal/more"]


# --------------------------------------------------------------------------------------------------------------- SIXray


def bags(root: Path, **annotations: str) -> dict[str, ImageRow]:
    for name in ("N1", "P1", "P2"):
        save(root / f"JPEGImages/{name}.jpg")
    for name, text in annotations.items():
        (root / "Annotation").mkdir(exist_ok=True)
        (root / f"Annotation/{name}.xml").write_text(text)
    return {k.split("/")[1][:2]: r for k, r in rows(SixrayData(name="sixray", root=str(root))).items()}


def test_sixray_takes_classes_from_boxes_then_from_the_labels_then_says_threat(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.csv").write_text("name,Gun,Knife,Wrench\nN1,-1,-1,-1\nP1,-1,1,1\nP2,-1,1,-1\n")
    boxes = voc(("Knife", "1.2", "2.9", "10.1", "12"), (" GUN", "0", "0", "5", "5"))
    found = bags(tmp_path, P1=boxes)
    assert (found["N1"].label, found["N1"].kind) == (0, "normal")
    assert (found["P1"].label, found["P1"].kind) == (1, "gun+knife")
    assert found["P1"].boxes == (Box("knife", 1, 2, 11, 12), Box("gun", 0, 0, 5, 5))
    assert found["P1"].annotated_size == (32, 32)
    assert (found["P2"].kind, found["P2"].boxes) == ("knife", ())
    (tmp_path / "labels/labels.csv").unlink()
    assert bags(tmp_path)["P2"].kind == "threat"
    assert rows(BaggageData(name="baggage", root=str(tmp_path))).keys() == {
        f"JPEGImages/{name}.jpg" for name in ("N1", "P1", "P2")
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<annotation><object>", "not a readable VOC annotation"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "not a readable VOC annotation .*Entit"),
        (voc(("Umbrella", "1", "1", "2", "2")), "unknown class 'umbrella', expected one of gun, knife"),
        (voc(("Gun", "1", "1", "x", "2")), "not a readable VOC annotation"),
        (voc(("Gun", "1", "1", "nan", "2")), "<xmax> is 'nan', expected a pixel coordinate"),
        ("<annotation><object><name>gun</name></object></annotation>", "<xmin> is missing"),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", "larger than"),
    ],
)
def test_a_damaged_annotation_is_a_fault_of_its_image(tmp_path: Path, text: str, fault: str) -> None:
    row = bags(tmp_path, P1=text)["P1"]
    assert row.fault is not None
    assert row.fault.startswith("Annotation/P1.xml: ")
    assert re.search(fault, row.fault), row.fault


def test_a_negative_with_a_threat_is_a_fault(tmp_path: Path) -> None:
    row = bags(tmp_path, N1=voc(("gun", "1", "1", "2", "2")))["N1"]
    assert row.fault == "named negative (N*), but its annotation or labels/labels.csv says gun"


def test_a_name_that_says_neither_and_a_broken_csv_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/X1.jpg")
    data = SixrayData(name="sixray", root=str(tmp_path))
    with pytest.raises(DataError, match=r"X1.jpg: expected a name that starts with N \(negative\) or P"):
        rows(data)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.csv").write_text("image;gun\n")
    with pytest.raises(DataError, match=r"labels.csv: expected the columns name,Gun"):
        rows(data)
