"""The bundle's folder: equal inputs give equal bytes, and no damage goes unnoticed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.tiny_bundle import PATCH, tiny_calibration, without_appearance, write_tiny_bundle
from vigil.config import PatchSection, ValidateSection
from vigil.delivery.bundle import EvaluationSummary, load_bundle, read_record
from vigil.errors import BundleMismatch, CheckpointError, DataError
from vigil.files import digest_folder, files_below, read_json, write_json

FILES = (
    "appearance.json",
    "calibration.json",
    "pair/discriminator.safetensors",
    "pair/generator.safetensors",
    "pair/pair.json",
    "preprocessing.json",
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_bundle_gives_back_what_went_in(bundle: Path) -> None:
    opened = load_bundle(bundle)
    assert opened.calibration == tiny_calibration()
    assert (opened.patch.patch_size_px, opened.patch.stride_px, opened.patch.channels) == (32, 16, 1)
    assert opened.accept == ValidateSection()
    assert opened.appearance is not None
    assert opened.appearance.images == 40
    assert opened.record.kinds == ("dent", "scratch")
    assert opened.record.evaluation.auroc is not None
    assert opened.record.evaluation.auroc.value == 0.8
    assert not opened.pair.generator.training
    assert tuple(opened.record.files) == FILES


def test_equal_inputs_give_equal_bytes_and_other_inputs_another_digest(tmp_path: Path) -> None:
    first, again = write_tiny_bundle(tmp_path / "a"), write_tiny_bundle(tmp_path / "elsewhere" / "b")
    assert digest_folder(tmp_path / "a") == digest_folder(tmp_path / "elsewhere" / "b")
    assert first == again
    assert write_tiny_bundle(tmp_path / "c", seed=1).digest != first.digest
    assert write_tiny_bundle(tmp_path / "d", auroc=0.81).digest != first.digest


def test_the_number_of_workers_is_not_part_of_a_bundle(tmp_path: Path) -> None:
    many = PatchSection.model_validate({**PATCH.model_dump(), "workers": 7, "buckets": 3})
    assert write_tiny_bundle(tmp_path / "a").digest == write_tiny_bundle(tmp_path / "b", patch=many).digest


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_refused_and_the_file_named(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleMismatch, match=rf"{name}: changed after the bundle was written: expected SHA-256"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_and_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleMismatch, match=rf"{name}: missing"):
        load_bundle(bundle)


def test_evaluation_summary_wants_every_figure() -> None:
    with pytest.raises(DataError, match=r"recall\.value"):
        EvaluationSummary.of({"auroc": 0.9, "fpr": 0.1, "threshold": 1.0})


def test_an_additional_file_is_refused_and_named(bundle: Path) -> None:
    (bundle / "pair" / "extra.bin").write_bytes(b"?")
    with pytest.raises(BundleMismatch, match=r"pair/extra\.bin: not part of the bundle"):
        load_bundle(bundle)


def test_a_bundle_that_does_not_say_how_its_images_look_opens(bundle: Path) -> None:
    """As versions of Vigil wrote it that measured no looks."""
    without_appearance(bundle)
    assert load_bundle(bundle).appearance is None


def test_a_changed_record_is_refused(bundle: Path) -> None:
    record = read_json(bundle / "bundle.json")
    record["evaluation"]["auroc"]["value"] = 0.99
    write_json(bundle / "bundle.json", record)
    with pytest.raises(BundleMismatch, match=r"bundle\.json: the record was changed after it was written"):
        read_record(bundle)


@pytest.mark.parametrize("wrong", [r'"\ud800"', "NaN"])
def test_a_record_with_half_a_character_or_no_number_is_refused(bundle: Path, wrong: str) -> None:
    path = bundle / "bundle.json"
    record = read_json(path)
    path.write_text(path.read_text().replace(f'"{record["digest"]}"', f'{wrong}, "more": {wrong}'))
    with pytest.raises(BundleMismatch, match=r"bundle\.json: the record was changed after it was written"):
        read_record(bundle)


@pytest.mark.parametrize("version", [2, 4])
def test_another_version_is_refused(bundle: Path, version: int) -> None:
    write_json(bundle / "bundle.json", read_json(bundle / "bundle.json") | {"format_version": version})
    with pytest.raises(BundleMismatch, match=f"expected bundle format version 3, found {version}"):
        load_bundle(bundle)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b'{"format_version": 1}'])
def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleMismatch, match=r"bundle\.json"):
        load_bundle(tmp_path)


def test_a_record_that_lists_files_outside_of_the_bundle_is_refused(bundle: Path) -> None:
    (bundle.parent / "outside").write_text("x")
    record = read_json(bundle / "bundle.json")
    record["files"]["../outside"] = record["files"]["calibration.json"]
    write_json(bundle / "bundle.json", record)
    with pytest.raises(BundleMismatch):
        load_bundle(bundle)


def test_a_pair_for_other_patches_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    wrong = PatchSection.model_validate({**PATCH.model_dump(), "patch_size_px": 64})
    with pytest.raises(BundleMismatch, match=r"takes patches of 32 px with 1 channel\(s\), preprocessing cuts 64 px"):
        write_tiny_bundle(tmp_path / "bundle", patch=wrong)
    assert not (tmp_path / "bundle").exists()


def test_a_damaged_pair_is_refused_and_the_former_bundle_stays(bundle: Path) -> None:
    before = digest_folder(bundle)
    damaged = bundle.with_name("damaged")
    damaged.mkdir()
    (damaged / "pair.json").write_text("{}")
    with pytest.raises(CheckpointError):
        write_tiny_bundle(bundle, pair=damaged)
    assert digest_folder(bundle) == before
    assert not [p for p in bundle.parent.iterdir() if "aside" in p.name]


def test_a_bundle_is_json_and_safetensors_alone(bundle: Path) -> None:
    assert {path.suffix for path in files_below(bundle)} == {".json", ".safetensors"}


def test_evaluation_summary_takes_numbers_intervals_and_null() -> None:
    summary = EvaluationSummary.of(
        {
            "auroc": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 7},
            "recall": None,
            "fpr": 0.1,
            "threshold": 2.0,
            "x": 1,
        }
    )
    assert summary.auroc is not None
    assert (summary.auroc.value, summary.auroc.low, summary.auroc.high) == (0.9, 0.8, 0.95)
    assert summary.recall is None
    assert summary.threshold.low is None


@pytest.mark.parametrize("broken", [{"auroc": "0.9"}, {"auroc": {"low": 1}}, {"threshold": None}, {"fpr": math.nan}])
def test_evaluation_summary_refuses_what_is_no_number(broken: dict[str, object]) -> None:
    report: dict[str, object] = {"auroc": 0.9, "recall": 0.9, "fpr": 0.1, "threshold": 1.0} | broken
    with pytest.raises(DataError, match="evaluation report: 1 rule"):
        EvaluationSummary.of(report)
