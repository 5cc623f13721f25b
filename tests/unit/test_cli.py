"""The command line: every kind of bad input ends with its own message and exit code, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_bundle import grey_image, without_appearance, write_tiny_bundle
from vigil.cli import main
from vigil.errors import BundleMismatch, ConfigError, DataError, ValidationFailed, VigilError
from vigil.files import read_json

FOLDER_PARAMS = """\
data: {name: folder, root: data/raw/folder}
validate: {min_normal_images: 4}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(FOLDER_PARAMS)
    return tmp_path


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def raw_folder(project: Path) -> Path:
    """Ten normal and two anomalous images, imported."""
    source = project / "source"
    for i in range(10):
        picture(source / "normal" / f"{i}.png")
    for i in range(2):
        picture(source / "anomalous" / "scratch" / f"s{i}.png")
    assert main(["data", "import", "folder", "--from", str(source)]) == 0
    return project / "data/raw/folder"


def ends_with(error: type[VigilError], capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs the command, which must fail with this error's exit code and name; returns the message."""
    assert main(arguments) == error.exit_code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_unknown_and_mistyped_keys_are_all_listed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_text(FOLDER_PARAMS + "split: {sead: 3, test_fraction: lots}\ntrian: {epochs: 2}\n")
    said = ends_with(ConfigError, capsys, "stage", "split")
    for place in ("split.sead", "split.test_fraction", "trian"):
        assert place in said


def test_missing_params_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml" in ends_with(ConfigError, capsys, "stage", "split", "--params", "nowhere.yaml")


def test_wrong_option_is_a_config_error_because_2_means_refused(project: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["stage", "nonsense"])
    assert ended.value.code == ConfigError.exit_code


def test_yaml_numbers_are_read_as_dvc_reads_them(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_text(FOLDER_PARAMS + "train: {learning_rate: 2e-4}\n")
    assert main(["stage", "train", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["learning_rate"] == 2e-4


def test_empty_folder_is_refused_before_anything_is_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "empty" / "normal").mkdir(parents=True)
    assert "empty" in ends_with(DataError, capsys, "data", "import", "folder", "--from", "empty")
    assert not (project / "data").exists() or not any((project / "data").rglob("*.*"))


def test_stage_without_its_input_says_what_to_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "dvc repro" in ends_with(DataError, capsys, "stage", "split")


def truncated(root: Path) -> str:
    path = root / "normal" / "3.png"
    path.write_bytes(path.read_bytes()[:-200])
    return "normal/3.png"


def one_pixel(root: Path) -> str:
    picture(root / "normal" / "tiny.png", size=(1, 1))
    return "normal/tiny.png"


def sixteen_bit(root: Path) -> str:
    Image.fromarray(np.full((32, 40), 40_000, np.uint16)).save(root / "normal" / "deep.png")
    return "normal/deep.png"


def cmyk(root: Path) -> str:
    picture(root / "normal" / "print.tif", "CMYK")
    return "normal/print.tif"


def palette(root: Path) -> str:
    picture(root / "normal" / "few.png", "P")
    return "normal/few.png"


def wrong_mask(root: Path) -> str:
    picture(root / "masks" / "scratch" / "s0.png", "L", (7, 9))
    return "anomalous/scratch/s0.png"


@pytest.mark.parametrize("plant", [truncated, one_pixel, sixteen_bit, cmyk, palette, wrong_mask])
def test_bad_image_stops_the_pipeline_by_name(
    project: Path, capsys: pytest.CaptureFixture[str], plant: Callable[[Path], str]
) -> None:
    name = plant(raw_folder(project))
    assert main(["stage", "manifest"]) == 0
    capsys.readouterr()
    said = ends_with(ValidationFailed, capsys, "stage", "validate")
    assert name in said
    assert not (project / "data/accepted.parquet").exists()
    assert name in (project / "reports/validation-failed/failures.csv").read_text()


def test_missing_class_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "params.yaml").write_text("data: {name: digits, root: data/raw/digits, held_class: eleven}\n")
    assert main(["stage", "raw"]) == 0
    capsys.readouterr()
    assert "eleven" in ends_with(DataError, capsys, "stage", "manifest")


def test_bundle_with_one_changed_byte_screens_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_bundle(project / "bundle")
    weights = project / "bundle" / "pair" / "generator.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    image = picture(project / "image.png", "L")
    said = ends_with(BundleMismatch, capsys, "screen", str(image), "--bundle", "bundle", "--out", "out")
    assert "generator.safetensors" in said
    assert not (project / "out").exists()


def test_screening_goes_on_behind_an_unreadable_image(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_bundle(project / "bundle")
    picture(project / "in" / "a.png", "L")
    (project / "in" / "b.png").write_bytes(b"not an image")
    picture(project / "in" / "c.png", "L")
    assert main(["screen", "in", "--bundle", "bundle", "--json", "--out", "out"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(r["path"]).name for r in results] == ["a.png", "b.png", "c.png"]
    assert [r["verdict"] == "REJECTED" for r in results] == [False, True, False]
    assert results[1]["reason"]
    assert results[1]["score"] is None
    assert (project / "out" / "results.jsonl").read_text().count("\n") == 3


def test_screening_says_when_images_do_not_look_like_those_of_calibration(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_bundle(project / "bundle")
    for folder, brighter in (("same", 1.0), ("darker", 0.6)):
        (project / folder).mkdir()
        for index in range(100, 130):
            grey_image(index).point(lambda value, by=brighter: value * by).save(project / folder / f"{index}.png")
    assert main(["screen", "same", "--bundle", "bundle", "--out", "out"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert not any(feature["beyond"] for feature in read_json(project / "out/appearance.json")["features"].values())

    assert main(["screen", "darker", "--bundle", "bundle", "--json", "--out", "out"]) == 0
    said = capsys.readouterr()
    assert "warning: the 30 images do not look like those that the threshold was calibrated on: brightness" in said.err
    assert "calibrate on its images (`vigil calibrate`)" in said.err
    results = [json.loads(line) for line in said.out.splitlines()]
    assert len(results) == 30
    assert set(results[0]["appearance"]) == {"brightness", "contrast", "sharpness", "grain"}
    found = read_json(project / "out/appearance.json")
    assert found["images"] == 30
    assert found["features"]["brightness"]["beyond"]
    assert found["features"]["brightness"]["median"] < 0.7 * found["features"]["brightness"]["calibration_median"]


def test_a_bundle_calibrated_on_a_changed_display_screens_it_without_a_warning(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_bundle(project / "bundle")
    for folder, first in (("normal", 100), ("threats", 200), ("later", 300)):
        (project / folder).mkdir()
        for index in range(first, first + 30):
            grey_image(index).point(lambda value: value * 0.6).save(project / folder / f"{index}.png")
    called = ["calibrate", "--bundle", "bundle", "--normal", "normal", "--anomalous", "threats", "--out"]
    assert main([*called, "new"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Threshold ")
    assert "anomalous calibration images" in said
    assert "Next: vigil screen --bundle new PATH..." in said
    assert main(["screen", "later", "--bundle", "new"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert "is no bundle" in ends_with(ConfigError, capsys, *called, "normal")


def test_screening_says_when_the_bundle_keeps_no_looks(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_bundle(project / "bundle")
    without_appearance(project / "bundle")
    picture(project / "in" / "a.png", "L")
    assert main(["screen", "in", "--bundle", "bundle"]) == 0
    assert "note: this bundle keeps no looks" in capsys.readouterr().err


def test_screening_a_folder_without_images_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_bundle(project / "bundle")
    (project / "in").mkdir()
    assert "no images" in ends_with(DataError, capsys, "screen", "in", "--bundle", "bundle")
