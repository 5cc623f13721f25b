"""A bundle with the threshold of other images: fitted as the pipeline fits, on the scores that screening gives."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_bundle import grey_image, write_tiny_bundle
from vigil.calibration.threshold import conformal_threshold, recall_threshold
from vigil.config import CalibrateSection
from vigil.delivery.bundle import Bundle, load_bundle, verify_bundle
from vigil.delivery.verdict import judge_encoded
from vigil.errors import CalibrationError, ConfigError, DataError
from vigil.files import digest_folder
from vigil.serving import recalibration
from vigil.serving.recalibration import Recalibration, as_text, check_folder, recalibrate, write_recalibrated
from vigil.serving.screening import appearance_shifts, screen

SECTION = CalibrateSection(target_recall=0.8, target_fpr=0.1, confidence=0.9)
NORMAL, ANOMALOUS = 30, 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("recalibration") / "bundle"
    write_tiny_bundle(folder)
    return load_bundle(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a darker display, below `normal` and `anomalous`."""
    folder = tmp_path_factory.mktemp("darker")
    for kind, first, count in (("normal", 0, NORMAL), ("anomalous", 100, ANOMALOUS)):
        (folder / kind).mkdir()
        for index in range(first, first + count):
            grey_image(index).point(lambda value: value * 0.6).save(folder / kind / f"{index}.png")
    return folder


def fitted(bundle: Bundle, images: Path, *, anomalous: bool = True) -> Recalibration:
    return recalibrate(bundle, [images / "normal"], [images / "anomalous"] if anomalous else [], SECTION, device="cpu")


def scores(bundle: Bundle, folder: Path) -> list[float]:
    found = [result.score for result in screen(bundle, [folder], device="cpu")]
    assert None not in found
    return [score for score in found if score is not None]


def test_with_anomalous_images_the_threshold_keeps_the_recall(bundle: Bundle, images: Path) -> None:
    found = fitted(bundle, images)
    of_anomalous = np.array(scores(bundle, images / "anomalous"))
    of_normal = np.array(scores(bundle, images / "normal"))
    assert found.calibration.threshold == recall_threshold(of_anomalous, 0.8, 0.9).value
    assert (found.calibration.method, found.calibration.promise_kept) == ("recall", True)
    assert found.calibration.fpr.count == (of_normal > found.calibration.threshold).sum()
    assert found.recall_before is not None
    before = bundle.calibration.threshold
    assert (found.fpr_before.count, found.recall_before.count) == (
        (of_normal > before).sum(),
        (of_anomalous > before).sum(),
    )
    assert (found.source.normal, found.source.anomalous) == (NORMAL, ANOMALOUS)
    assert f"was {before:.6g}" in as_text(found, before)


def test_with_normal_images_alone_the_threshold_keeps_the_false_positive_rate(bundle: Bundle, images: Path) -> None:
    found = fitted(bundle, images, anomalous=False)
    assert found.calibration.threshold == conformal_threshold(scores(bundle, images / "normal"), 0.1).value
    assert (found.calibration.method, found.recall_before) == ("fpr", None)
    assert "nothing is promised about the recall" in as_text(found, 0.5)


def test_the_bundle_that_is_written_screens_by_the_new_threshold(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    found = fitted(bundle, images, anomalous=False)
    record = write_recalibrated(tmp_path / "new", bundle, found)
    opened = load_bundle(tmp_path / "new")
    assert opened.record == record == verify_bundle(tmp_path / "new")
    assert record.recalibrated == found.source
    assert record.recalibrated.bundle == bundle.record.digest
    assert digest_folder(tmp_path / "new" / "pair") == digest_folder(bundle.folder / "pair")
    assert (opened.calibration, opened.appearance, opened.patch) == (
        found.calibration,
        found.appearance,
        bundle.patch,
    )
    assert set(record.evaluation.figures) == {"threshold"}
    assert record.audit == bundle.record.audit

    flagged = [r for r in screen(opened, [images / "normal"], device="cpu") if r.verdict == "ANOMALOUS"]
    assert len(flagged) == found.calibration.fpr.count <= 3
    looks = [r.appearance for r in screen(opened, [images / "normal"], device="cpu") if r.appearance is not None]
    assert [shift.feature for shift in appearance_shifts(bundle, looks) if shift.beyond]
    assert not [shift for shift in appearance_shifts(opened, looks) if shift.beyond]


def test_the_map_level_is_what_few_normal_maps_exceed(bundle: Bundle, images: Path) -> None:
    found = fitted(bundle, images)
    contents = [path.read_bytes() for path in sorted((images / "normal").iterdir())]
    peaks = [judgement.map_peak for judgement in judge_encoded(bundle, contents)]
    assert None not in peaks
    assert found.map_level == conformal_threshold([peak for peak in peaks if peak is not None], 0.1).value


def test_the_order_of_the_images_changes_nothing_but_their_digest_of_scores(bundle: Bundle, images: Path) -> None:
    paths = sorted((images / "normal").iterdir())
    one, other = (recalibrate(bundle, some, [], SECTION, device="cpu") for some in (paths, paths[::-1]))
    assert one.source == other.source
    assert one.calibration.threshold == other.calibration.threshold


def test_an_image_that_screening_would_reject_is_named(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"bad\.png: screening would reject it, so leave it out"):
        recalibrate(bundle, [images / "normal", tmp_path], [], SECTION, device="cpu")
    with pytest.raises(DataError, match=r"missing\.png: cannot be read"):
        recalibrate(bundle, [tmp_path / "missing.png"], [], SECTION, device="cpu")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe: cannot be read \(not a file\)"):
        recalibrate(bundle, [tmp_path / "pipe"], [], SECTION, device="cpu")


def test_an_image_counts_once(bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before the first image is scored, which takes long."""
    monkeypatch.setattr(recalibration, "judged_with_progress", None)
    copied = tmp_path / "copy.png"
    copied.write_bytes((images / "normal" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"copy\.png: holds the same bytes as .*normal/0\.png"):
        recalibrate(bundle, [images / "normal"], [copied], SECTION, device="cpu")
    with pytest.raises(DataError, match="an image counts once"):
        recalibrate(bundle, [images / "normal", images / "normal" / "0.png"], [], SECTION, device="cpu")


def test_without_a_normal_image_or_with_one_alone_there_is_no_threshold(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no normal images found"):
        recalibrate(bundle, [tmp_path / "empty"], [images / "anomalous"], SECTION, device="cpu")
    with pytest.raises(CalibrationError):
        recalibrate(bundle, [images / "normal" / "0.png"], [], SECTION, device="cpu")


def test_only_another_bundle_is_replaced(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    found = fitted(bundle, images, anomalous=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    for folder, said in ((tmp_path / "notes", "is no bundle"), (bundle.folder, "the new one is made of")):
        with pytest.raises(ConfigError, match=said):
            check_folder(folder, bundle)
        with pytest.raises(ConfigError, match=said):
            write_recalibrated(folder, bundle, found)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"
    assert load_bundle(bundle.folder).record == bundle.record
    write_tiny_bundle(tmp_path / "old", seed=4)
    assert write_recalibrated(tmp_path / "old", bundle, found) == load_bundle(tmp_path / "old").record


def test_calibrated_twice_it_names_the_bundle_in_between(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    first = write_recalibrated(tmp_path / "first", bundle, fitted(bundle, images, anomalous=False))
    between = load_bundle(tmp_path / "first")
    second = write_recalibrated(tmp_path / "second", between, fitted(between, images))
    assert second.recalibrated is not None
    assert second.recalibrated.bundle == first.digest
    assert second.digest != first.digest
