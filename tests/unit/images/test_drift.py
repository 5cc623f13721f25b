"""Data that drifted from the accepted set are found and described; what was accepted is kept, and moves on request."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vigil.cli import main
from vigil.config import FolderData, ValidateSection
from vigil.errors import DataError, ValidationFailed
from vigil.files import digest_file, digest_folder, read_json
from vigil.images.drift import Statistics, accept, chance, distance, read_reference
from vigil.stages import layout, manifest, validate

DATA = FolderData(name="folder", root="raw")
FEW = ValidateSection(min_normal_images=3)


def histogram(**counts: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    found = np.zeros(256, np.int64)
    for level, count in counts.items():
        found[int(level[1:])] = count
    return found


def test_distance_is_the_largest_gap_of_cumulated_shares() -> None:
    assert distance(histogram(_10=1, _20=3), histogram(_10=1, _20=3)) == 0
    assert distance(histogram(_10=1, _20=3), histogram(_10=2, _20=2)) == 0.25
    assert distance(histogram(_10=5), histogram(_200=1)) == 1
    assert distance(histogram(), histogram(_200=1)) == 0


def test_chance_is_exceeded_by_one_sample_in_a_hundred() -> None:
    random = np.random.default_rng(0)
    draws = random.integers(0, 256, (3000, 500))
    pairs = [(np.bincount(d[:300], minlength=256), np.bincount(d[300:], minlength=256)) for d in draws]
    exceeded = np.mean([distance(*pair) > chance(300, 200) for pair in pairs])
    assert 0.002 < exceeded < 0.015


def test_the_reference_keeps_other_data_sets_and_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    path, latest = tmp_path / "reference.json", tmp_path / "statistics.json"
    other = FolderData(name="folder", root="other")
    assert read_reference(path, DATA).accepted is None
    assert (
        read_reference(path, other.model_copy(update={"near_repeats": "never"})).data
        == read_reference(path, other).data
    )
    for data, images in ((DATA, 3), (other, 4), (DATA, 5)):
        statistics = Statistics()
        statistics.images_of_kind["normal"] = images
        entry = {"data": read_reference(path, data).data, "statistics": statistics.as_json()}
        latest.write_text(json.dumps(entry))
        before = accept((tmp_path / "nothing.json", latest), path)[2]
    assert before is not None
    assert before.images_of_kind == {"normal": 3}
    for data, images in ((DATA, 5), (other, 4)):
        accepted = read_reference(path, data).accepted
        assert accepted is not None
        assert accepted.images_of_kind == {"normal": images}
    for content in ('{"format": 2, "accepted": []}', "[]", '{"format": 1, "accepted": [{"data": {}}]}', "no json"):
        path.write_text(content)
        with pytest.raises(DataError, match=r"reference\.json"):
            read_reference(path, DATA)
    with pytest.raises(DataError, match="no data set was validated yet"):
        accept((tmp_path / "nothing.json",), path)


# ------------------------------------------------------------------------------------------------------------ as stages


def save(name: str, seed: int, brighter: int = 0) -> None:
    path = Path("raw") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 120, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels + np.uint8(brighter)).save(path)


def rerun(section: ValidateSection = FEW) -> None:
    manifest.run(DATA)
    validate.run(DATA, section)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty normal images and eight anomalous ones, validated and accepted."""
    monkeypatch.chdir(tmp_path)
    for number in range(48):
        save(f"{'normal' if number < 40 else 'anomalous/dent'}/{number:02d}.png", number)
    rerun()
    assert main(["data", "accept"]) == 0
    return tmp_path


def test_drift_stops_the_pipeline_until_it_is_accepted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rerun()
    good = digest_file(layout.ACCEPTED), digest_folder(layout.VALIDATION_REPORT)
    names = [e["name"] for e in read_json(layout.VALIDATION_REPORT / "validation.json")["expectations"]]
    assert names[-1] == "the images are as bright as those of the accepted set"

    for number in range(20):
        save(f"normal/{number:02d}.png", number, brighter=100)
    for number in range(42, 48):
        Path(f"raw/anomalous/dent/{number}.png").unlink()
    save("anomalous/hole/1.png", 99)
    with pytest.raises(ValidationFailed) as caught:
        rerun()
    message = str(caught.value)
    assert "kind 'dent': 2 images, 8 in the accepted set; allowed are 4 to 16" in message
    assert "kind 'hole': 1 images, 0 in the accepted set; allowed are 0 to 0" in message
    assert "normal images: their brightness is 0.500 away from that of the accepted set" in message
    assert "`vigil data accept` makes them the set to compare with" in message
    assert (digest_file(layout.ACCEPTED), digest_folder(layout.VALIDATION_REPORT)) == good

    capsys.readouterr()
    assert main(["data", "accept"]) == 0
    assert "  dent: 2 images (before: 8)" in capsys.readouterr().out
    rerun()
    assert not Path("reports/validation-failed").exists()


def test_data_that_break_other_rules_cannot_be_accepted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = layout.REFERENCE.read_bytes()
    Path("raw/normal/03.png").write_bytes(b"")
    with pytest.raises(ValidationFailed):
        rerun()
    assert main(["data", "accept"]) == 4
    assert "the data break other rules than those on drift" in capsys.readouterr().err
    assert layout.REFERENCE.read_bytes() == reference


def test_drift_stops_under_quarantine_too_and_a_few_images_more_do_not_count(project: Path) -> None:
    for number in range(60, 66):
        save(f"normal/{number}.png", number)
    rerun()
    for number in range(66, 110):
        save(f"normal/{number}.png", number)
    with pytest.raises(ValidationFailed, match=r"kind 'normal': 90 images, 40 in the accepted set; .* 20 to 80"):
        rerun(FEW.model_copy(update={"quarantine": True}))


def test_quarantine_on_the_command_line_goes_on_without_the_bad_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text("data: {name: folder, root: raw}\nvalidate: {min_normal_images: 3}\n")
    Path("raw/normal/03.png").write_bytes(b"")
    manifest.run(DATA)
    assert main(["stage", "validate"]) == 4
    assert "\n  normal/03.png: the file is empty\n" in capsys.readouterr().err
    assert main(["stage", "validate", "--quarantine"]) == 0
    result = read_json(layout.VALIDATION_REPORT / "validation.json")
    assert (result["overview"]["Accepted"], result["overview"]["Quarantined"]) == (47, 1)
    assert result["items"] == [{"item": "normal/03.png", "reasons": ["the file is empty"]}]
    assert result["listed_in"] == "quarantined.csv"
    assert main(["stage", "split", "--quarantine"]) == 3
