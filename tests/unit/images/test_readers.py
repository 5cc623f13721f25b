"""Each layout gives the rows that its folder says, and a broken layout is named."""

from __future__ import annotations

import io
import logging
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vigil.config import (
    BaggageData,
    Cifar10Data,
    DataSection,
    DigitsData,
    FolderData,
    MvtecData,
    SixrayData,
    SubsetSection,
)
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
    (tmp_path / "notes").mkdir()
    for category in ("all", ("tile", "bottle")):
        several = rows(MvtecData(name="mvtec", root=str(tmp_path), category=category))
        assert list(several) == ["bottle/train/good/000.png", *found]
        assert [row.kind for row in several.values()] == ["normal", "tile/crack", "normal", "normal"]
    with pytest.raises(DataError, match="cable/train/good not found"):
        rows(MvtecData(name="mvtec", root=str(tmp_path), category=("tile", "cable")))
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


def test_a_bad_row_of_a_listing_is_named_with_its_line(tmp_path: Path) -> None:
    for path in ("a.png", "b.png", "m.png"):
        save(tmp_path / path)
    (tmp_path / "out.png").symlink_to("/etc/hostname")
    lines = [
        "path,label,kind,mask,group,split",
        "a.png,normal,,,,",
        "b.png,odd,,,,",
        "c.png,normal,,,,",
        "../b.png,normal,,,,",
        "/b.png,normal,,,,",
        "out.png,normal,,,,",
        "a.png,normal,,,,",
        "b.png,normal,dent,,,",
        "b.png,anomalous,normal,,,",
        "b.png,normal,,m.png,,",
        "b.png,anomalous,,n.png,,",
        "b.png,normal,,,,validation",
        "b.png,normal,,,,,",
        "",
        "b.png",
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    data = FolderData(name="folder", root=str(tmp_path), listing="list.csv")
    with pytest.raises(DataError, match=r"list.csv: 13 bad rows; correct or remove them:") as caught:
        rows(data)
    expected = {
        3: "label is 'odd', expected normal",
        4: "path is 'c.png', and there is no such file in",
        5: "../b.png: leads out of the data folder",
        6: "path is '/b.png', expected a plain path below the data folder",
        7: "out.png: leads out of the data folder",
        8: "a.png is listed twice",
        9: "kind is 'dent' but label is 'normal'",
        10: "kind is 'normal' but label is 'anomalous'",
        11: "a normal image has the mask 'm.png'",
        12: "mask is 'n.png', and there is no such file in",
        13: "split is 'validation', expected train, test or nothing",
        14: "more fields than columns",
        16: "label is '', expected normal",
    }
    found = str(caught.value).splitlines()[1:]
    assert len(found) == len(expected)
    for line, (number, reason) in zip(found, expected.items(), strict=True):
        assert line.startswith(f"  list.csv, line {number}: {reason}"), line


def test_a_parquet_listing_reads_as_a_csv_does(tmp_path: Path) -> None:
    save(tmp_path / "b.png")
    save(tmp_path / "a.png")
    table = pa.table({"Path": ["b.png", "a.png"], "label": [0, 1], "group": ["g", None], "split": [None, "test"]})
    pq.write_table(table, tmp_path / "list.parquet")
    found = rows(FolderData(name="folder", root=str(tmp_path), listing="list.parquet"))
    assert [(r.image_id, r.label, r.kind, r.group, r.official_split) for r in found.values()] == [
        ("a.png", 1, "anomaly", "a.png", "test"),
        ("b.png", 0, "normal", "g", None),
    ]
    pq.write_table(table.set_column(1, "label", pa.array([True, True])), tmp_path / "list.parquet")
    with pytest.raises(DataError, match="no images found; expected at least one row with the label normal"):
        rows(FolderData(name="folder", root=str(tmp_path), listing="list.parquet"))
    pq.write_table(table.set_column(0, "Path", pa.array(["b.png", "x.png"])), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"list.parquet, row 2: path is 'x.png', and there is no such file"):
        rows(FolderData(name="folder", root=str(tmp_path), listing="list.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"file,label\n", "expected the columns path, label and if wanted kind, .*; found file, label"),
        ("x.csv", b"path,label,colour\n", "found path, label, colour"),
        ("x.csv", b"path,label,Path\n", "found path, label, Path"),
        ("x.csv", b"", r"found \(none\)"),
        ("x.csv", b"path,label\n\xff,normal\n", "not a readable CSV file"),
        ("x.csv", b'path,label\n"a,normal\n', "not a readable CSV file .*, after line 1"),
        ("x.parquet", b"no table", "not a readable Parquet file"),
        ("../x.csv", b"path,label\n", "data.listing: '../x.csv' leads out of"),
        ("", b"", "not a readable CSV file|listing not found"),
        ("no.csv", None, "listing not found"),
        ("no.parquet", None, "listing not found"),
    ],
)
def test_a_listing_that_is_none_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if content is not None and name:
        (root / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        rows(FolderData(name="folder", root=str(root), listing=name))


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


def write_image_set(root: Path, number: int = 10, **names: str) -> None:
    for split, listed in names.items():
        path = root / f"ImageSet/{number}/{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "name,Gun,Knife\n" + "".join(f"{name},{-1},{1 if name[0] in 'Pp' else -1}\n" for name in listed.split())
        )


def test_the_official_split_names_the_images_and_letter_case_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("n1.JPG", "N2.jpg", "p1.jpg", "P2.jpg", "N3.jpg"):
        save(tmp_path / "JPEGImages" / name.replace("JPG", "jpg"))
    write_image_set(tmp_path, train="N1 P00002 P1", test="N2 p2 N9")
    (tmp_path / "Annotation").mkdir()
    (tmp_path / "Annotation/P1.xml").write_text(voc(("Gun", "1", "1", "9", "9")))
    data = SixrayData(name="sixray", root=str(tmp_path), image_set=10)
    with caplog.at_level(logging.WARNING):
        found = rows(data)
    assert {Path(k).stem: (r.label, r.kind, r.official_split) for k, r in found.items()} == {
        "N2": (0, "normal", "test"),
        "P2": (1, "knife", "test"),
        "n1": (0, "normal", "train"),
        "p1": (1, "gun", "train"),
    }
    assert "2 of the 6 images that ImageSet/10 names are not in JPEGImages/" in caplog.text
    with pytest.raises(DataError, match=r"ImageSet/100/test.csv: not found, but data.image_set is 100"):
        rows(data.model_copy(update={"image_set": 100}))
    write_image_set(tmp_path, train="N1", test="n1")
    with pytest.raises(DataError, match=r"train.csv: N1 is in test.csv as well"):
        rows(data)
    write_image_set(tmp_path, train="N1 N1", test="N2")
    with pytest.raises(DataError, match=r"train.csv: line 3: N1: named twice"):
        rows(data)


def test_a_subset_is_drawn_by_name_and_seed_alone_and_opens_no_image(tmp_path: Path) -> None:
    folder = tmp_path / "JPEGImages"
    folder.mkdir()
    for number in range(60):
        (folder / f"N{number:07d}.jpg").write_bytes(b"not even an image")
    (folder / "P00001.jpg").write_bytes(b"")

    def drawn(images: int, seed: int = 0) -> set[str]:
        subset = SubsetSection(images=images, seed=seed)
        found = set(rows(SixrayData(name="sixray", root=str(tmp_path), subset=subset)))
        assert "JPEGImages/P00001.jpg" in found
        return found - {"JPEGImages/P00001.jpg"}

    a, b = drawn(20), drawn(20, seed=1)
    assert (len(a), len(b)) == (20, 20)
    assert a != b
    assert drawn(10) < a
    (folder / "N0000060.jpg").write_bytes(b"")
    assert len(drawn(20) - a) <= 1
    with pytest.raises(DataError, match=r"data.subset.images: 62 negatives asked for, 61 are there"):
        drawn(62)


def test_a_name_that_says_neither_and_a_broken_csv_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/X1.jpg")
    data = SixrayData(name="sixray", root=str(tmp_path))
    with pytest.raises(DataError, match=r"X1.jpg: expected a name that starts with N \(negative\) or P"):
        rows(data)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.csv").write_text("image;gun\n")
    with pytest.raises(DataError, match=r"labels.csv: expected the columns name,Gun"):
        rows(data)
