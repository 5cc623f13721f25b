"""One image, one verdict: rejected with a reason, or scored as if it were alone."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_bundle import MODEL, PATCH, encoded, grey_image, tiny_calibration, write_tiny_bundle
from vigil.config import PatchSection, ValidateSection
from vigil.delivery.bundle import Bundle, load_bundle
from vigil.delivery.verdict import judge, judge_encoded, pixels_of, rejected
from vigil.images.patches import extract, grid_positions
from vigil.images.preprocessing import preprocess, scaled_pixels
from vigil.networks.pair import PairSpec, build_pair, save_pair
from vigil.scoring.scorer import score_patches
from vigil.scoring.stitched_peak import stitched_peaks


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("verdict") / "bundle"
    write_tiny_bundle(folder)
    return load_bundle(folder)


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def sixteen_bit() -> bytes:
    return encoded(Image.fromarray(np.full((40, 40), 40_000, np.uint16)))


BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"not an image", "not an image in one of the formats"),
    "truncated JPEG": (cut_in_half(encoded(grey_image(0), "JPEG")), "truncated"),
    "truncated PNG": (cut_in_half(encoded(grey_image(0))), "does not decode"),
    "1x1": (encoded(Image.new("L", (1, 1))), "1x1 pixels"),
    "7 px side": (encoded(Image.new("L", (100, 7))), "100x7 pixels"),
    "16-bit": (sixteen_bit(), "16 bits"),
    "CMYK": (encoded(Image.new("CMYK", (40, 40)), "JPEG"), "CMYK"),
    "palette": (encoded(grey_image(0).convert("P")), "palette"),
    "alpha": (encoded(grey_image(0).convert("RGBA")), "alpha"),
    "1 bit": (encoded(grey_image(0).convert("1")), "1 bit"),
    "animation": (b"", ""),
}
_frames = io.BytesIO()
grey_image(0).save(_frames, "GIF", save_all=True, append_images=[grey_image(1)])
BAD["animation"] = (_frames.getvalue(), "holds 2 pictures")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_rejected_with_the_reason_and_stops_nothing(bundle: Bundle, name: str) -> None:
    content, reason = BAD[name]
    before, bad, after = judge_encoded(bundle, [encoded(grey_image(1)), content, encoded(grey_image(2))])
    assert bad.verdict == "REJECTED"
    assert bad.reason is not None
    assert reason in bad.reason
    assert (bad.score, bad.scaled_score, bad.anomaly_map) == (None, None, None)
    assert before.score is not None
    assert after.score is not None


def test_an_image_larger_than_the_limit_is_rejected_before_it_is_decoded(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b", accept=ValidateSection(max_pixels=1000))
    (judged,) = judge_encoded(load_bundle(tmp_path / "b"), [encoded(grey_image(0))])
    assert judged.reason == "image: 48x40 pixels, more than the limit of 1000; scale it down"


def test_an_image_smaller_than_a_patch_is_rejected_where_the_bundle_does_not_pad(tmp_path: Path) -> None:
    dropping = PatchSection.model_validate({**PATCH.model_dump(), "edge": "drop"})
    write_tiny_bundle(tmp_path / "b", patch=dropping)
    small, large = judge_encoded(
        load_bundle(tmp_path / "b"), [encoded(grey_image(0, width=31)), encoded(grey_image(0, width=32))]
    )
    assert small.verdict == "REJECTED"
    assert "smaller than one patch of 32" in str(small.reason)
    assert large.score is not None


def test_a_mode_that_training_did_not_see_is_rejected(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b", accept=ValidateSection(modes=("L",)))
    (judged,) = judge_encoded(load_bundle(tmp_path / "b"), [encoded(grey_image(0).convert("RGB"))])
    assert judged.verdict == "REJECTED"
    assert "RGB" in str(judged.reason)


def test_a_score_does_not_depend_on_neighbours_or_order(bundle: Bundle) -> None:
    images = [preprocess(grey_image(i, width=33 + 7 * i), PATCH) for i in range(6)]
    alone = [next(judge(bundle, [image], batch_size=8)).score for image in images]
    together = [j.score for j in judge(bundle, images, batch_size=8)]
    reversed_order = [j.score for j in judge(bundle, images[::-1], batch_size=8)][::-1]
    assert alone == together == reversed_order
    assert len(set(alone)) == 6


def test_an_image_scores_the_peak_of_what_its_patches_point_at_together(tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"pointing": True, "pointing_width": 4})
    save_pair(tmp_path / "pair", build_pair(PairSpec(channels=1, patch_size_px=32, model=model), 0), {"seed": 0})
    calibration = tiny_calibration(score="stitched_peak", eta=None)
    write_tiny_bundle(tmp_path / "bundle", pair=tmp_path / "pair", calibration=calibration)
    pointing = load_bundle(tmp_path / "bundle")
    images = [preprocess(grey_image(i, width=40 + 8 * i), PATCH) for i in range(3)]
    scores = [judged.score for judged in judge(pointing, images, batch_size=8)]
    for image, score in zip(images, scores, strict=True):
        positions = grid_positions(*image.shape[:2], PATCH)
        found = score_patches(pointing.pair, extract(image, positions, PATCH), device="cpu", batch_size=8)
        assert found.log_odds is not None
        assert score == stitched_peaks(found.log_odds, positions).max()
        assert abs(score - found.map_peak.max()) > 1e-4  # more than rounding


def test_maps_have_the_scaled_size_of_their_image(bundle: Bundle) -> None:
    images = [preprocess(grey_image(i, width=33 + 20 * i, height=40), PATCH) for i in range(3)]
    shapes = [j.anomaly_map.shape for j in judge(bundle, images) if j.anomaly_map is not None]
    assert shapes == [(40, 33), (40, 53), (40, 73)]


def test_the_threshold_itself_is_normal_and_one_step_below_is_anomalous(tmp_path: Path) -> None:
    image = [encoded(grey_image(0))]
    write_tiny_bundle(tmp_path / "probe")
    (probe,) = judge_encoded(load_bundle(tmp_path / "probe"), image)
    assert probe.score is not None
    for threshold, verdict in ((probe.score, "NORMAL"), (float(np.nextafter(probe.score, 0)), "ANOMALOUS")):
        write_tiny_bundle(tmp_path / "b", calibration=tiny_calibration(threshold=threshold))
        (judged,) = judge_encoded(load_bundle(tmp_path / "b"), image)
        assert judged.verdict == verdict
        assert judged.score == probe.score


def test_the_scaled_score_is_equation_7_with_the_calibration_extremes(bundle: Bundle) -> None:
    (judged,) = judge_encoded(bundle, [encoded(grey_image(0))])
    fitted = bundle.calibration
    assert judged.score is not None
    assert judged.scaled_score == pytest.approx(
        (judged.score - fitted.scale_min) / (fitted.scale_max - fitted.scale_min), rel=1e-12
    )


def test_a_network_that_gives_no_number_rejects_and_never_says_normal(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    with torch.no_grad():
        for parameter in bundle.pair.generator.parameters():
            parameter.fill_(torch.nan)
    judged = list(judge_encoded(bundle, [encoded(grey_image(i)) for i in range(2)]))
    assert [j.verdict for j in judged] == ["REJECTED", "REJECTED"]
    assert all("no score" in str(j.reason) for j in judged)


def test_what_is_judged_already_keeps_its_place(bundle: Bundle) -> None:
    pixels = preprocess(grey_image(0), PATCH)
    judged = list(judge(bundle, [rejected(bundle, "a"), pixels, rejected(bundle, "b"), pixels], batch_size=2))
    assert [j.reason for j in judged] == ["a", None, "b", None]
    assert judged[1].score == judged[3].score


def test_no_images_give_no_judgements(bundle: Bundle) -> None:
    assert list(judge(bundle, [])) == []


def test_pixels_are_those_of_the_one_preprocessing(bundle: Bundle) -> None:
    pixels, image = pixels_of(bundle, encoded(grey_image(3)), "x.png")
    assert image is not None
    assert isinstance(pixels, np.ndarray)
    np.testing.assert_array_equal(pixels, preprocess(grey_image(3), PATCH))


def test_a_large_jpeg_is_screened_with_the_pixels_that_training_cut(bundle: Bundle) -> None:
    patch = bundle.patch.model_copy(update={"shorter_side_px": 40})
    content = encoded(grey_image(0).resize((200, 200)), "JPEG")
    pixels, image = pixels_of(dataclasses.replace(bundle, patch=patch), content, "a.jpg")
    np.testing.assert_array_equal(pixels, scaled_pixels(content, "a.jpg", patch, (200, 200)))
    assert image is not None
    assert image.size == (200, 200), "the picture for the heat map is whole"
    assert not np.array_equal(pixels, preprocess(image, patch))
