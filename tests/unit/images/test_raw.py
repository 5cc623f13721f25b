"""Embedded sets are generated once and whole; imported ones must have been imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vigil.config import BaggageData, Cifar10Data, DigitsData, FolderData, MvtecData
from vigil.errors import DataError
from vigil.files import digest_folder, read_json, write_json
from vigil.images.raw import prepare_raw
from vigil.images.readers import read_rows
from vigil.images.source import open_image


def digits(root: Path, held: str = "3") -> DigitsData:
    return DigitsData(name="digits", root=str(root), held_class=held)


def test_the_digits_are_scikit_learns_own(tmp_path: Path) -> None:
    prepare_raw(digits(tmp_path / "digits"))
    rows = list(read_rows(digits(tmp_path / "digits")))
    assert len(rows) == 1797
    assert sum(row.label for row in rows) == 183
    source = load_digits()
    for row in rows[::97]:
        image = open_image(tmp_path / "digits", row.path, row.offset, row.length, max_pixels=64)
        class_name, index = row.image_id.removeprefix("digits.tar::").removesuffix(".png").split("/")
        assert image.mode == "L"
        assert str(source.target[int(index)]) == class_name
        assert np.array_equal(np.asarray(image), np.rint(source.images[int(index)] * 255 / 16))


def test_generating_twice_gives_the_same_bytes_and_generating_again_does_nothing(tmp_path: Path) -> None:
    prepare_raw(digits(tmp_path / "a"))
    prepare_raw(digits(tmp_path / "b", held="5"))
    assert digest_folder(tmp_path / "a") == digest_folder(tmp_path / "b")
    before = (tmp_path / "a/digits.tar").stat()
    prepare_raw(digits(tmp_path / "a"))
    after = (tmp_path / "a/digits.tar").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_other_settings_or_another_generator_generate_again(tmp_path: Path) -> None:
    data = BaggageData(
        name="baggage", root=str(tmp_path / "bags"), normal_bags=2, threat_bags=1, width_px=64, height_px=64
    )
    prepare_raw(data)
    first = digest_folder(tmp_path / "bags")
    assert [row.label for row in read_rows(data)] == [0, 0, 1]
    prepare_raw(data.model_copy(update={"seed": 1}))
    assert digest_folder(tmp_path / "bags") != first

    prepare_raw(data)
    receipt = read_json(tmp_path / "bags/vigil-raw.json")
    write_json(tmp_path / "bags/vigil-raw.json", {**receipt, "generator": "an earlier simulator"})
    before = next((tmp_path / "bags/JPEGImages").iterdir()).stat().st_ino
    prepare_raw(data)
    assert next((tmp_path / "bags/JPEGImages").iterdir()).stat().st_ino != before
    assert digest_folder(tmp_path / "bags") == first


def test_files_of_somebody_else_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/thesis.tex").write_text("do not lose me")
    with pytest.raises(DataError, match="holds files that Vigil did not generate; move them away"):
        prepare_raw(digits(tmp_path / "digits"))
    assert (tmp_path / "digits/thesis.tex").read_text() == "do not lose me"


def test_a_set_that_was_not_imported_gets_the_command_that_imports_it(tmp_path: Path) -> None:
    mvtec = MvtecData(name="mvtec", root=str(tmp_path / "mvtec"), category="bottle")
    with pytest.raises(DataError, match=r"run `vigil data import mvtec --from PATH --class bottle --root .*mvtec`"):
        prepare_raw(mvtec)
    (tmp_path / "own").mkdir()
    write_json(tmp_path / "own/vigil-import.json", {"name": "folder"})
    prepare_raw(FolderData(name="folder", root=str(tmp_path / "own")))
    with pytest.raises(
        DataError, match="expected an import of 'cifar10', found 'folder'; run `vigil data import cifar10"
    ):
        prepare_raw(Cifar10Data(name="cifar10", root=str(tmp_path / "own"), held_class="cat"))
