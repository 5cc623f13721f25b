"""The simulated data set on disk: SIXray's layout, and bytes that depend on the section alone."""

import csv
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from vigil.config import BaggageData
from vigil.files import digest_folder
from vigil.images.baggage import KINDS, Box, write_baggage
from vigil.images.baggage.dataset import voc_annotation


def _section(**values: int) -> BaggageData:
    return BaggageData.model_validate({"name": "baggage", "root": "unused", "width_px": 96, "height_px": 72, **values})


def test_layout_is_that_of_sixray(tmp_path: Path) -> None:
    root = tmp_path / "raw" / "baggage"
    write_baggage(_section(normal_bags=3, threat_bags=7), root)
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    assert files == sorted(
        [f"JPEGImages/N0000{i}.jpg" for i in range(1, 4)]
        + [f"JPEGImages/P0000{i}.jpg" for i in range(1, 8)]
        + [f"Annotation/P0000{i}.xml" for i in range(1, 8)]
        + ["labels/labels.csv"]
    )
    for path in (root / "JPEGImages").iterdir():
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 72))
    for i in range(7):
        tree = ET.fromstring((root / "Annotation" / f"P0000{i + 1}.xml").read_text())
        assert tree.findtext("filename") == f"P0000{i + 1}.jpg"
        assert (tree.findtext("size/width"), tree.findtext("size/height")) == ("96", "72")
        assert [name.text for name in tree.findall("object/name")] == [KINDS[i % 6].capitalize()]
        x0, y0, x1, y1 = (float(tree.findtext(f"object/bndbox/{t}") or "-1") for t in ("xmin", "ymin", "xmax", "ymax"))
        assert 0 <= x0 < x1 <= 96
        assert 0 <= y0 < y1 <= 72


def test_labels_name_every_image_and_its_class(tmp_path: Path) -> None:
    write_baggage(_section(normal_bags=2, threat_bags=2), tmp_path / "set")
    content = (tmp_path / "set" / "labels" / "labels.csv").read_bytes()
    assert content.endswith(b"\r\n")
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows == [
        ["name", "Gun", "Knife", "Wrench", "Pliers", "Scissors", "Hammer"],
        ["N00001", "-1", "-1", "-1", "-1", "-1", "-1"],
        ["N00002", "-1", "-1", "-1", "-1", "-1", "-1"],
        ["P00001", "1", "-1", "-1", "-1", "-1", "-1"],
        ["P00002", "-1", "1", "-1", "-1", "-1", "-1"],
    ]


def test_bytes_depend_on_the_section_alone(tmp_path: Path) -> None:
    section = _section(normal_bags=4, threat_bags=2)
    write_baggage(section, tmp_path / "a")
    write_baggage(section.model_copy(update={"root": "elsewhere"}), tmp_path / "b")
    assert digest_folder(tmp_path / "a") == digest_folder(tmp_path / "b")
    write_baggage(_section(normal_bags=4, threat_bags=2, seed=1), tmp_path / "c")
    assert digest_folder(tmp_path / "a") != digest_folder(tmp_path / "c")


def test_two_processes_write_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = _section(normal_bags=5, threat_bags=3)
    write_baggage(section, tmp_path / "one")
    monkeypatch.setattr("vigil.images.baggage.dataset._CHUNK", 2)
    write_baggage(section, tmp_path / "two")
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")


def test_a_larger_set_begins_with_the_smaller(tmp_path: Path) -> None:
    write_baggage(_section(normal_bags=2, threat_bags=1), tmp_path / "small")
    write_baggage(_section(normal_bags=3, threat_bags=2), tmp_path / "large")
    for name in ("N00001", "N00002", "P00001"):
        small, large = (tmp_path / s / "JPEGImages" / f"{name}.jpg" for s in ("small", "large"))
        assert small.read_bytes() == large.read_bytes()


def test_a_failure_leaves_the_former_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    write_baggage(_section(normal_bags=1, threat_bags=0), root)
    before = digest_folder(root)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_baggage(_section(normal_bags=2, threat_bags=0), root)
    assert digest_folder(root) == before
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_annotation_text() -> None:
    text = voc_annotation("P00009.jpg", 256, 192, (Box("pliers", 3, 4, 50, 60),))
    assert "\t\t<name>Pliers</name>\n" in text
    assert "\t\t\t<xmin>3</xmin>\n\t\t\t<ymin>4</ymin>\n\t\t\t<xmax>50</xmax>\n\t\t\t<ymax>60</ymax>\n" in text
