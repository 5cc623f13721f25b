"""A bundle on other displays: its own verdicts on the changed pictures, and a report that a kill does not lose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny_bundle import PATCH, grey_image, write_tiny_bundle
from vigil.config import EvaluateSection, FolderData, Params, SplitSection
from vigil.delivery.bundle import Bundle, load_bundle
from vigil.delivery.verdict import judge
from vigil.errors import DataError
from vigil.files import read_json
from vigil.images.displays import AS_THEY_ARE, DISPLAYS, shown_on
from vigil.images.manifest import build_manifest
from vigil.images.splitting import split_images
from vigil.records import ANOMALOUS, MANIFEST, NORMAL, SPLIT_TABLE
from vigil.serving import display_audit
from vigil.serving.display_audit import Labelled, judged_on
from vigil.stages.display_audit import REPORT, as_text, audit_displays
from vigil.stages.layout import ACCEPTED, SPLITS

SECTION = EvaluateSection(bootstrap_samples=100)
COLOURS = ["paler", "hue turned"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("displays") / "bundle"
    write_tiny_bundle(folder)
    return load_bundle(folder)


def picture(index: int, anomalous: bool) -> np.ndarray:
    pixels = np.array(grey_image(index))
    if anomalous:
        pixels[10:25, 10:30] = 255
    return pixels[..., None]


def labelled(normal: int = 9, anomalous: int = 7) -> Iterator[Labelled]:
    for index in range(normal + anomalous):
        yield Labelled(f"{index}.png", picture(index, index >= normal), int(index >= normal), f"group {index // 2}")


@pytest.mark.parametrize("display", [AS_THEY_ARE, "darker", "blurred", "compressed"])
def test_a_row_holds_the_bundles_own_verdicts_on_the_changed_pictures(bundle: Bundle, display: str) -> None:
    row = judged_on(display, bundle, labelled, 16, SECTION, device="cpu")
    images = list(labelled())
    shown = [shown_on(display, image.pixels, number) for number, image in enumerate(images)]
    verdicts = list(judge(bundle, [pixels for pixels in shown if pixels is not None]))
    scores = np.array([verdict.score for verdict in verdicts], float)
    anomalous = np.array([image.label == ANOMALOUS for image in images])
    flagged = np.array([verdict.verdict == "ANOMALOUS" for verdict in verdicts])
    assert row is not None
    assert (row.recall.count, row.recall.of) == (flagged[anomalous].sum(), 7)
    assert (row.fpr.count, row.fpr.of) == (flagged[~anomalous].sum(), 9)
    above = np.sign(np.subtract.outer(scores[anomalous], scores[~anomalous]))
    assert row.auroc == pytest.approx((above + 1).mean() / 2)
    assert row.auroc_low is not None
    assert row.auroc_high is not None
    assert row.auroc_low <= row.auroc <= row.auroc_high


def test_screening_would_warn_of_a_display_that_looks_otherwise(bundle: Bundle) -> None:
    def many() -> Iterator[Labelled]:
        return labelled(normal=30, anomalous=2)

    as_they_are, dimmer, blurred = (
        judged_on(display, bundle, many, 32, SECTION, device="cpu") for display in (AS_THEY_ARE, "dimmer", "blurred")
    )
    assert as_they_are is not None
    assert as_they_are.warned_by == ()
    assert dimmer is not None
    assert "brightness" in dimmer.warned_by
    assert blurred is not None
    assert "sharpness" in blurred.warned_by


def test_colours_of_grey_pictures_have_no_row_and_one_label_is_not_enough(bundle: Bundle) -> None:
    assert judged_on("hue turned", bundle, labelled, 16, SECTION, device="cpu") is None
    with pytest.raises(DataError, match="one label alone"):
        judged_on("darker", bundle, lambda: labelled(anomalous=0), 9, SECTION, device="cpu")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A folder with raw images, manifest and splits, and a tiny bundle."""
    monkeypatch.chdir(tmp_path)
    for kind, anomalous in (("normal", False), ("anomalous/square", True)):
        Path("raw", kind).mkdir(parents=True)
        for index in range(20):
            name = f"{'bad' if anomalous else 'good'}-{index}.png"
            Image.fromarray(picture(index + 50 * anomalous, anomalous)[..., 0]).save(Path("raw", kind, name))
    data = FolderData(name="folder", root="raw")
    manifest = build_manifest(data)
    MANIFEST.write(ACCEPTED, manifest)
    SPLIT_TABLE.write(SPLITS, split_images(manifest, SplitSection(test_fraction=0.4)))
    write_tiny_bundle(tmp_path / "bundle")
    return Params.model_validate({"data": data.model_dump(), "patch": PATCH.model_dump(), "evaluate": SECTION})


def test_the_report_has_every_display_and_a_killed_run_is_continued(
    project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    def killed_at_the_third(display: str, *arguments: Any, **options: Any) -> object:
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append(display)
        return judged_on(display, *arguments, **options)

    monkeypatch.setattr("vigil.stages.display_audit.judged_on", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        audit_displays(project, Path("bundle"), 5, "cpu")
    before = read_json(REPORT)
    assert [row["display"] for row in before["rows"]] == judged == list(DISPLAYS)[:2]

    rest: list[str] = []
    monkeypatch.setattr(
        "vigil.stages.display_audit.judged_on", lambda *a, **o: rest.append(a[0]) or display_audit.judged_on(*a, **o)
    )
    found = audit_displays(project, Path("bundle"), 5, "cpu")
    assert rest == list(DISPLAYS)[2:]
    assert found["rows"][:2] == before["rows"]
    assert found == read_json(REPORT)
    assert (found["normal"], found["anomalous"], found["unchanged"]) == (5, 5, COLOURS)
    assert [row["display"] for row in found["rows"]] == [name for name in DISPLAYS if name not in COLOURS]
    text = as_text(found)
    assert all(f"\n{name:<14}" in text for name in DISPLAYS)

    rest.clear()
    assert audit_displays(project, Path("bundle"), 5, "cpu") == found
    assert not rest
    assert audit_displays(project, Path("bundle"), 3, "cpu")["normal"] == 3  # other images: judged anew
    assert rest == list(DISPLAYS)


def test_a_test_split_of_one_label_is_an_error(project: Params) -> None:
    splits = SPLIT_TABLE.read(SPLITS)
    SPLIT_TABLE.write(SPLITS, splits.filter(splits["label"].to_numpy() == NORMAL))
    with pytest.raises(DataError, match="lacks normal or anomalous"):
        audit_displays(project, Path("bundle"), 5, "cpu")
    assert not REPORT.exists()
