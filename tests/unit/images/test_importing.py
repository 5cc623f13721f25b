"""A data set comes in whole and checked, or not at all, and what is planted in an archive stays outside."""

from __future__ import annotations

import csv
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vigil.cli import main
from vigil.config import Cifar10Data, FolderData, MvtecData, SixrayData
from vigil.errors import ConfigError, DataError
from vigil.files import read_json
from vigil.images import archives
from vigil.images.importing import import_data
from vigil.images.manifest import build_manifest
from vigil.images.raw import prepare_raw
from vigil.images.readers import cifar10, read_rows
from vigil.images.readers.rows import members_of
from vigil.images.source import open_image


def png(seed: int = 0, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def grey_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (32, 32), 255).save(buffer, format="PNG")
    return buffer.getvalue()


def write(root: Path, *paths: str, content: bytes | None = None) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(number) if content is None else content)
    return root


def archive_of(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


# ------------------------------------------------------------------------------------------ CIFAR-10's official batches

NAMES = [name.encode() for name in cifar10.CLASSES]


def batches(count: int = 3) -> dict[str, bytes]:
    """Archive members in the official format, as Python 2 wrote it (protocol 2, bytes keys)."""
    random = np.random.default_rng(0)
    files = {"batches.meta": {b"label_names": NAMES, b"num_vis": 3072}}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        files[name] = {
            b"batch_label": name.encode(),
            b"data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
            b"labels": [(number + i) % 10 for i in range(count)],
            b"filenames": [b"x.png"] * count,
        }
    return {f"cifar-10-batches-py/{name}": pickle.dumps(value, protocol=2) for name, value in files.items()}


@pytest.mark.parametrize("as_archive", [True, False])
def test_official_batches_become_lossless_images(tmp_path: Path, as_archive: bool) -> None:
    members = batches()
    source = archive_of(tmp_path / "cifar-10-python.tar.gz", {**members, "cifar-10-batches-py/readme.html": b"<p>"})
    if not as_archive:
        source = tmp_path / "unpacked"
        for name, content in members.items():
            write(source, name, content=content)
    summary = import_data("cifar10", source, tmp_path / "raw", "cat", link=False)
    assert {split: sum(kinds.values()) for split, kinds in summary.counts.items()} == {"train": 15, "test": 3}
    assert [w.split(",")[0] for w in summary.warnings] == [
        "'train' holds 15 images in 7 classes",
        "'test' holds 3 images in 3 classes",
    ]
    assert "train: 15 (" in summary.describe()

    data = Cifar10Data(name="cifar10", root=str(tmp_path / "raw"), held_class="cat")
    prepare_raw(data)
    rows = {row.image_id: row for row in read_rows(data)}
    assert len(rows) == 18
    fourth = pickle.loads(members["cifar-10-batches-py/data_batch_2"])
    row = rows[f"train.tar::{cifar10.CLASSES[fourth[b'labels'][0]]}/00003.png"]
    image = open_image(tmp_path / "raw", row.path, row.offset, row.length, max_pixels=1024)
    assert np.array_equal(np.asarray(image), fourth[b"data"][0].reshape(3, 32, 32).transpose(1, 2, 0))


class _Planted:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._call, self._arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call, self._arguments


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (lambda p: _Planted(os.system, f"touch {p}"), r"names \w+.system, which could run code; refused"),
        (lambda p: _Planted(eval, f"open({str(p)!r}, 'w')"), r"names \w+.eval, which could run code; refused"),
        (lambda p: _Planted(getattr, "x", "upper"), r"names \w+.getattr, which could run code; refused"),
        (lambda p: _Planted(np.ndarray, (1 << 40,)), "not a readable CIFAR-10 batch"),
        (lambda p: _Planted(np.fromfile, str(p)), r"which could run code; refused"),
    ],
)
def test_a_planted_pickle_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, planted: Callable[[Path], object], message: str
) -> None:
    trace = tmp_path / "trace"
    members = batches()
    members["cifar-10-batches-py/data_batch_3"] = pickle.dumps({b"data": planted(trace), b"labels": []}, protocol=2)
    source = archive_of(tmp_path / "cifar-10-python.tar.gz", members)
    with pytest.raises(DataError, match=message) as caught:
        import_data("cifar10", source, tmp_path / "raw")
    assert str(caught.value).startswith("data_batch_3: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data_batch_1", b"\x80\x02}q\x00(", "data_batch_1: not a readable CIFAR-10 batch"),
        ("data_batch_1", pickle.dumps([1], protocol=2), "expected a pickled dictionary, found list"),
        (
            "data_batch_1",
            pickle.dumps({b"labels": [1]}, protocol=2),
            r"expected 'data' as uint8 \[N, 3072\], found None",
        ),
        (
            "test_batch",
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, protocol=2),
            "test_batch: expected a list of 2 'labels'",
        ),
        (
            "test_batch",
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, protocol=2),
            "test_batch: expected labels from 0 to 9",
        ),
        ("batches.meta", pickle.dumps({b"label_names": "x"}, protocol=2), "expected a list 'label_names'"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path: Path, name: str, value: bytes, message: str) -> None:
    members = {**batches(), f"cifar-10-batches-py/{name}": value}
    with pytest.raises(DataError, match=message):
        import_data("cifar10", archive_of(tmp_path / "c.tar.gz", members), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("store", [b"r\xff\xff\xff\x03", b"p67108863\n", b"p-1\n"])
def test_a_pickle_that_claims_memory_by_a_huge_number_is_refused(store: bytes) -> None:
    """The unpickler would make a list of twice that length, however short the file is."""
    with pytest.raises(DataError, match=r"x: the pickle stores an object under the number (67108863|-1); refused"):
        archives.read_batch(b"\x80\x02}" + store + b".", "x")


def test_a_strange_escape_in_a_pickle_is_no_warning() -> None:
    assert archives.read_batch(b"(dS'a'\nS'\\d'\ns.", "x") == {"a": b"\\d"}


def test_a_member_whose_name_is_no_utf8_is_refused(tmp_path: Path) -> None:
    content = archive_of(tmp_path / "c.tar", {"cat/0123456789.png": png()}, "w").read_bytes()
    head = bytearray(content[:512])
    head[4] = 0xFF
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "c.tar").write_bytes(head + content[512:])
    with pytest.raises(DataError, match="the member's name is not valid UTF-8"):
        import_data("cifar10", tmp_path / "c.tar", tmp_path / "raw")
    with pytest.raises(DataError, match=r"c.tar: not a readable uncompressed tar \(.*surrogates not allowed"):
        members_of(tmp_path / "c.tar")


def test_batches_written_by_python_3_are_read_too() -> None:
    values = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "note": b"\xff\x00"}
    for protocol in (2, 3, 4):
        found = archives.read_batch(pickle.dumps(values, protocol=protocol), "x")
        assert np.array_equal(found["data"], values["data"])
        assert (found["labels"], found["note"]) == ([1, 2], b"\xff\x00")


# -------------------------------------------------------------------------------------------- CIFAR-10 as image folders


def test_a_tree_and_a_tar_of_it_give_the_same_archive(tmp_path: Path) -> None:
    paths = ["train/cat/0.png", "train/dog/0.png", "test/cat/0.png"]
    tree = write(tmp_path / "tree", *paths)
    (tree / "train/README").write_text("not an image, not in a class")
    tar = archive_of(tmp_path / "all.tar.xz", {p: (tree / p).read_bytes() for p in sorted(paths)}, "w:xz")
    first = import_data("cifar10", tree, tmp_path / "a")
    second = import_data("cifar10", tar, tmp_path / "b")
    assert first.counts == second.counts == {"train": {"cat": 1, "dog": 1}, "test": {"cat": 1}}
    for name in ("train.tar", "test.tar"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_split_may_stand_in_the_name_of_archive_or_folder_or_be_unknown(tmp_path: Path) -> None:
    one = {"cat/0.png": png()}
    sources = tmp_path / "archives"
    sources.mkdir()
    archive_of(sources / "test.tar.gz", one)
    archive_of(sources / "train.tgz", one)
    assert set(import_data("cifar10", sources, tmp_path / "a").counts) == {"train", "test"}
    assert set(import_data("cifar10", write(tmp_path / "train", "cat/0.png"), tmp_path / "b").counts) == {"train"}
    summary = import_data("cifar10", archive_of(tmp_path / "c.tar", one, "w"), tmp_path / "c")
    assert summary.counts == {"no official split": {"cat": 1}}
    assert "no 'test' images; normal test images will be taken from the training images (split.test_fraction)" in (
        summary.warnings
    )


def test_a_class_without_images_and_a_strange_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--class truck: no image of it in .*; it holds cat"):
        import_data("cifar10", write(tmp_path / "a", "train/cat/0.png"), tmp_path / "raw", "truck")
    with pytest.raises(DataError, match=r"cow/0.png: 'cow' is no class of CIFAR-10"):
        import_data("cifar10", write(tmp_path / "b", "train/cow/0.png"), tmp_path / "raw")
    with pytest.raises(DataError, match="no images found; expected <split>/<class>/<file>"):
        import_data("cifar10", archive_of(tmp_path / "c.tar", {"README": b"x"}, "w"), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


# ----------------------------------------------------------------------------------------------------- hostile archives


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (special("/train/cat/0.png", tarfile.REGTYPE), "leads out of the archive"),
        (special("train/../../cat/0.png", tarfile.REGTYPE), "leads out of the archive"),
        (special("train/cat\\..\\0.png", tarfile.REGTYPE), "leads out of the archive"),
        (special("train/cat/0.png", tarfile.SYMTYPE, "/etc/passwd"), "a link, a device or another special member"),
        (special("train/cat/0.png", tarfile.LNKTYPE, "../../x"), "a link, a device or another special member"),
        (special("train/cat/0.png", tarfile.CHRTYPE), "a link, a device or another special member"),
        (special("train/cat/0.png", tarfile.FIFOTYPE), "a link, a device or another special member"),
    ],
)
def test_a_member_that_is_no_plain_file_inside_is_refused(
    tmp_path: Path, member: tarfile.TarInfo, message: str
) -> None:
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.addfile(member)
    with pytest.raises(DataError, match=message):
        import_data("cifar10", tmp_path / "c.tar", tmp_path / "raw")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.tar"]


def test_bombs_of_every_kind_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = archive_of(tmp_path / "bomb.tar.gz", {"train/cat/0.png": b"\0" * (65 << 20)})
    with pytest.raises(DataError, match="refused as a decompression bomb"):
        import_data("cifar10", bomb, tmp_path / "raw")
    many = archive_of(tmp_path / "many.tar", {f"train/cat/{i}.png": png(i) for i in range(4)}, "w")
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match="more than 100 for one member; refused"):
        import_data("cifar10", many, tmp_path / "raw")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"3.png: more than 3 members; refused"):
        import_data("cifar10", many, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])  # of the plain tar, 0.5 ends exactly between two members
def test_a_cut_off_archive_is_named_and_leaves_nothing(tmp_path: Path, mode: str, share: float) -> None:
    source = archive_of(tmp_path / "c.tar.x", {f"train/cat/{i}.png": png(i) for i in range(9)}, mode)
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"c.tar.x: not a readable tar archive, or cut off"):
        import_data("cifar10", source, tmp_path / "raw")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.tar.x"]


# ----------------------------------------------------------------------------------------- MVTec AD, SIXray, own images


def mvtec_tree(root: Path) -> Path:
    return write(
        root,
        *("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/dent/000.png"),
        *("ground_truth/dent/000_mask.png", "license.txt"),
    )


def test_mvtec_comes_from_the_category_or_its_parent_and_beside_others(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "sets/tile")
    mvtec_tree(tmp_path / "sets/wood")
    root = tmp_path / "raw"
    summary = import_data("mvtec", tmp_path / "sets/tile", root)
    assert (summary.counts, summary.masks) == ({"test": {"dent": 1, "normal": 1}, "train": {"normal": 2}}, 1)
    import_data("mvtec", tmp_path / "sets", root, "wood")
    for category in ("tile", "wood"):
        data = MvtecData(name="mvtec", root=str(root), category=category)
        prepare_raw(data)
        assert len(list(read_rows(data))) == 4
        assert not (root / category / "license.txt").exists()
    with pytest.raises(DataError, match=r"cable: no folder train/good, .* \(there are: tile, wood\)"):
        import_data("mvtec", tmp_path / "sets", root, "cable")
    with pytest.raises(DataError, match="holds no train/good and no folder with one"):
        import_data("mvtec", tmp_path / "sets/tile/train", root)
    with pytest.raises(ConfigError, match=r"--class wood: .*tile is one category itself; import from its parent"):
        import_data("mvtec", tmp_path / "sets/tile", root, ["tile", "wood"])
    with pytest.raises(ConfigError, match="expected the name of a category"):
        import_data("mvtec", tmp_path / "sets", root, "../sets/tile")


def test_mvtec_brings_all_categories_or_some_at_once_or_none(tmp_path: Path) -> None:
    for name in ("cable", "tile", "wood"):
        mvtec_tree(tmp_path / f"sets/{name}")
    summary = import_data("mvtec", tmp_path / "sets", tmp_path / "all")
    assert summary.counts == {
        "test": {"cable/dent": 1, "normal": 3, "tile/dent": 1, "wood/dent": 1},
        "train": {"normal": 6},
    }
    assert summary.masks == 3
    prepare_raw(MvtecData(name="mvtec", root=str(tmp_path / "all"), category="all"))
    assert import_data("mvtec", tmp_path / "sets", tmp_path / "two", ["wood", "cable"]).images == 8
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["cable", "wood"]
    with pytest.raises(
        DataError, match=r"tile/vigil-import.json: no import receipt.* --class cable --class tile --root"
    ):
        prepare_raw(MvtecData(name="mvtec", root=str(tmp_path / "two"), category=("cable", "tile")))

    # The last one is damaged: the first ones are not replaced either.
    write(tmp_path / "sets", "wood/test/dent/000.png", content=png()[:100])
    write(tmp_path / "sets", "cable/train/good/002.png")
    with pytest.raises(DataError, match=r"test/dent/000.png: the image is truncated"):
        import_data("mvtec", tmp_path / "sets", tmp_path / "all")
    assert not (tmp_path / "all/cable/train/good/002.png").exists()
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["cable", "tile", "wood"]


def test_a_defect_without_a_mask_stops_the_import(tmp_path: Path) -> None:
    source = mvtec_tree(tmp_path / "tile")
    (source / "ground_truth/dent/000_mask.png").unlink()
    with pytest.raises(DataError, match="1 images of defects but 0 masks; expected one mask for each"):
        import_data("mvtec", source, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_sixray_takes_its_own_folders_only_and_says_what_is_odd(tmp_path: Path) -> None:
    source = write(tmp_path / "sixray", "JPEGImages/N1.jpg", "JPEGImages/P1.jpg", "JPEGImages/P2.jpg", "thesis/P9.jpg")
    voc = (
        "<annotation><object><name>Gun</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    )
    write(source, "Annotation/P1.xml", "Annotation/P8.xml", content=f"{voc}</object></annotation>".encode())
    write(source, "labels/labels.csv", content=b"name,Gun,Knife\nP2,-1,1\n")
    summary = import_data("sixray", source, tmp_path / "raw")
    assert summary.counts == {"no official split": {"gun": 1, "knife": 1, "normal": 1}}
    assert summary.images_with_boxes == 1
    assert summary.warnings == ("1 files in Annotation/ belong to no image", "1 of 2 positives have no boxes")
    assert not (tmp_path / "raw/thesis").exists()
    prepare_raw(SixrayData(name="sixray", root=str(tmp_path / "raw")))
    with pytest.raises(ConfigError, match="--class gun: 'sixray' has no categories"):
        import_data("sixray", source, tmp_path / "raw", "gun")


@pytest.mark.parametrize("link", [True, False])
def test_own_images_are_copied_or_linked(tmp_path: Path, link: bool) -> None:
    source = write(tmp_path / "mine", "normal/a.png", "anomalous/dent/b.png", "masks/dent/b.png", "masks/dent/c.png")
    summary = import_data("folder", source, tmp_path / "raw", link=link)
    assert summary.counts == {"no official split": {"dent": 1, "normal": 1}}
    assert summary.warnings == ("1 files in masks/ belong to no image in anomalous/",)
    assert (source / "normal/a.png").samefile(tmp_path / "raw/normal/a.png") is link
    assert (tmp_path / "raw/normal/a.png").read_bytes() == (source / "normal/a.png").read_bytes()
    assert read_json(tmp_path / "raw/vigil-import.json")["images"] == 2
    prepare_raw(FolderData(name="folder", root=str(tmp_path / "raw")))


def test_images_that_do_not_open_are_listed_and_the_earlier_import_stays(tmp_path: Path) -> None:
    source = write(tmp_path / "mine", "normal/a.png")
    import_data("folder", source, tmp_path / "raw")
    write(source, *(f"normal/z{i:02d}.png" for i in range(25)), content=png()[:500])
    with pytest.raises(DataError, match="25 of 26 images do not open; repair or remove them") as caught:
        import_data("folder", source, tmp_path / "raw")
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  normal/z00.png: the image is truncated")
    assert (len(lines), lines[-1]) == (22, "  ... and 5 more")
    assert [p.name for p in (tmp_path / "raw/normal").iterdir()] == ["a.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "raw"]


def quarantined(root: Path) -> dict[str, str]:
    with (root / "vigil-quarantined.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def test_quarantine_brings_the_good_images_and_lists_the_bad_ones(tmp_path: Path) -> None:
    source = write(tmp_path / "mine", "normal/a.png", "normal/b.png", "anomalous/dent/c.png", "anomalous/dent/d.png")
    write(source, "masks/dent/c.png", content=grey_png())
    write(source, "normal/cut.png", "anomalous/dent/e.png", content=png()[:500])
    write(source, "masks/dent/e.png")
    (source / "normal/out.png").symlink_to(write(tmp_path / "else", "b.png") / "b.png")
    with pytest.raises(DataError, match=r"4 of 7 images do not open; .* with --quarantine:") as caught:
        import_data("folder", source, tmp_path / "raw")
    assert "normal/out.png: a symbolic link that leads out of" in str(caught.value)
    assert not (tmp_path / "raw").exists()

    summary = import_data("folder", source, tmp_path / "raw", quarantine=True)
    assert (summary.counts, summary.quarantined) == ({"no official split": {"dent": 1, "normal": 2}}, 4)
    assert "left out: 4 files, listed with reasons in vigil-quarantined.csv there" in summary.describe()
    reasons = quarantined(tmp_path / "raw")
    assert sorted(reasons) == ["anomalous/dent/d.png", "anomalous/dent/e.png", "normal/cut.png", "normal/out.png"]
    assert reasons["anomalous/dent/d.png"] == "its mask masks/dent/d.png is missing"
    assert reasons["normal/cut.png"].startswith("normal/cut.png: the image is truncated")
    table = build_manifest(FolderData(name="folder", root=str(tmp_path / "raw")))
    assert table["image_id"].to_pylist() == ["anomalous/dent/c.png", "normal/a.png", "normal/b.png"]
    assert table["fault"].null_count == 3
    assert not (tmp_path / "raw/masks/dent/e.png").exists()
    assert read_json(tmp_path / "raw/vigil-import.json")["quarantined"] == 4


def test_quarantine_writes_archives_without_the_bad_members(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", "train/cat/0.png", "train/cat/2.png", "test/cat/0.png")
    write(tree, "train/cat/1.png", content=b"no image")
    summary = import_data("cifar10", tree, tmp_path / "raw", quarantine=True)
    assert (summary.counts, summary.quarantined) == ({"test": {"cat": 1}, "train": {"cat": 2}}, 1)
    assert list(quarantined(tmp_path / "raw")) == ["train.tar::cat/1.png"]
    good = import_data("cifar10", write(tmp_path / "good", "train/cat/0.png", "train/cat/2.png"), tmp_path / "raw2")
    assert good.images == 2
    data = Cifar10Data(name="cifar10", root=str(tmp_path / "raw"), held_class="cat")
    assert [row.image_id for row in read_rows(data)] == [
        *("test.tar::cat/0.png", "train.tar::cat/0.png", "train.tar::cat/2.png")
    ]
    assert build_manifest(data)["fault"].null_count == 3
    with pytest.raises(DataError, match="no images found; expected at least one image that opens"):
        import_data(
            "cifar10", write(tmp_path / "bad", "train/cat/0.png", content=b"x"), tmp_path / "x", None, False, True
        )


def test_the_command_says_what_it_left_out_and_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "sixray", "JPEGImage/n1.jpg", "JPEGImage/P1.jpg", "ImageSet/10/train.csv")
    write(source, "JPEGImage/N2.jpg", content=b"")
    command = ["data", "import", "sixray", "--from", str(source)]
    assert main(command) == DataError.exit_code
    assert "JPEGImages/N2.jpg: the file is empty" in capsys.readouterr().err
    assert main([*command, "--quarantine"]) == 0
    assert "left out: 1 files, listed with reasons in vigil-quarantined.csv there" in capsys.readouterr().out
    assert (tmp_path / "data/raw/sixray/ImageSet/10/train.csv").is_file()
    assert sorted(p.name for p in (tmp_path / "data/raw/sixray/JPEGImages").iterdir()) == ["P1.jpg", "n1.jpg"]


LISTED = """path,label,kind,mask,group,split
shots/a.png,normal,,,belt 1,train
shots/b.png,0,,,belt 1,test
shots/c.png,anomalous,dent,marks/c.png,,test
"shots/d, left.png",1,,,,
"""


def test_a_listing_says_which_files_are_images(tmp_path: Path) -> None:
    source = write(tmp_path / "mine", "shots/a.png", "shots/b.png", "shots/c.png", "shots/d, left.png", "shots/no.png")
    write(source, "marks/c.png")
    (source / "list.csv").write_text(LISTED)
    summary = import_data("folder", source, tmp_path / "raw", listing=source / "list.csv")
    assert (summary.images, summary.masks) == (4, 1)
    assert summary.warnings == (
        "the listing is listing.csv there now; set data.listing to 'listing.csv' in params.yaml",
    )
    assert not (tmp_path / "raw/shots/no.png").exists()
    data = FolderData(name="folder", root=str(tmp_path / "raw"), listing="listing.csv")
    prepare_raw(data)
    assert [(r.image_id, r.label, r.kind, r.mask_path, r.group, r.official_split) for r in read_rows(data)] == [
        ("shots/a.png", 0, "normal", None, "belt 1", "train"),
        ("shots/b.png", 0, "normal", None, "belt 1", "test"),
        ("shots/c.png", 1, "dent", "marks/c.png", "shots/c.png", "test"),
        ("shots/d, left.png", 1, "anomaly", None, "shots/d, left.png", None),
    ]
    with pytest.raises(ConfigError, match="only the data set 'folder' has one"):
        import_data("mvtec", source, tmp_path / "raw", listing=source / "list.csv")


def test_quarantine_leaves_out_bad_rows_of_a_listing_too(tmp_path: Path) -> None:
    source = write(tmp_path / "mine", "shots/a.png", "shots/b.png", "shots/c.png", "shots/d, left.png")
    (source / "list.csv").write_text(LISTED + "shots/z.png,normal,,,,\n")
    with pytest.raises(DataError, match=r"list.csv, line 4: mask is 'marks/c.png', and there is no such file"):
        import_data("folder", source, tmp_path / "raw", listing=source / "list.csv")
    summary = import_data("folder", source, tmp_path / "raw", listing=source / "list.csv", quarantine=True)
    assert (summary.images, summary.quarantined) == (3, 2)
    assert sorted(quarantined(tmp_path / "raw")) == ["list.csv, line 4", "list.csv, line 6"]
    data = FolderData(name="folder", root=str(tmp_path / "raw"), listing="listing.csv")
    assert len(list(read_rows(data))) == 3


def test_nothing_of_somebody_else_is_replaced_and_nothing_is_copied_into_itself(tmp_path: Path) -> None:
    source = write(tmp_path / "mine", "normal/a.png")
    write(tmp_path / "raw", "precious.png")
    with pytest.raises(DataError, match="raw: holds files that `vigil data import` did not bring in; move them away"):
        import_data("folder", source, tmp_path / "raw")
    with pytest.raises(DataError, match="the data would be copied into itself"):
        import_data("folder", source, source / "raw")
    with pytest.raises(DataError, match="nowhere: not found; expected the folder or archive"):
        import_data("folder", tmp_path / "nowhere", tmp_path / "raw")
    with pytest.raises(
        ConfigError, match="'digits' cannot be imported; expected cifar10, mvtec, magnetic_tile, sixray or folder"
    ):
        import_data("digits", source, tmp_path / "raw2")


def test_a_link_that_leads_out_of_the_source_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "mine", "normal/a.png")
    (source / "normal/b.png").symlink_to(write(tmp_path / "else", "b.png") / "b.png")
    with pytest.raises(DataError, match=r"normal/b.png: a symbolic link that leads out of"):
        import_data("folder", source, tmp_path / "raw")
    classes = write(tmp_path / "classes", "train/cat/a.png")
    (classes / "train/cat/b.png").symlink_to(tmp_path / "else/b.png")
    with pytest.raises(DataError, match=r"cat/b.png: a symbolic link that leads out of"):
        import_data("cifar10", classes, tmp_path / "raw")
