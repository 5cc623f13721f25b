"""How images look: the figures against plain arithmetic, and which differences of two sets are told from chance."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from vigil.config import FolderData, PatchSection, SplitSection
from vigil.errors import DataError
from vigil.images.appearance import FEATURES, Appearance, look_of, shifts, warning_of
from vigil.images.baggage import simulate_bag
from vigil.images.manifest import build_manifest
from vigil.images.split_appearance import appearance_of
from vigil.images.splitting import split_images
from vigil.records import NORMAL

PATCH = PatchSection(patch_size_px=32, stride_px=16, workers=1)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_the_figures_of_an_image_are_those_of_plain_arithmetic() -> None:
    pixels = noise(0, 9, 13, 3)
    values = pixels.astype(float) / 255
    luma = values @ [0.299, 0.587, 0.114]
    inner = luma[1:-1]  # the rows that have neighbours
    laplacian = [
        abs(4 * luma[y, x] - luma[y - 1, x] - luma[y + 1, x] - luma[y, x - 1] - luma[y, x + 1])
        for y in range(1, 8)
        for x in range(1, 12)
    ]
    saturation = [colorsys.rgb_to_hsv(*pixel)[1] for row in values[1:-1] for pixel in row]
    look = look_of(pixels)
    assert tuple(look) == FEATURES
    assert look["brightness"] == pytest.approx(inner.mean(), abs=1e-5)
    assert look["contrast"] == pytest.approx(inner.std(), abs=1e-5)
    assert look["saturation"] == pytest.approx(np.mean(saturation), abs=1e-5)
    assert look["sharpness"] == pytest.approx(math.log(np.mean(np.square(laplacian)) / inner.var()), abs=1e-4)
    assert look["grain"] == pytest.approx(math.log(np.median(laplacian) + 0.1 / 255), abs=1e-4)


@pytest.mark.parametrize("turn", [0.0, 20.0, 95.0, 170.0, 200.0, 359.0])
def test_hue_is_the_axis_that_colours_and_their_opposites_share(turn: float) -> None:
    """Within what the hexagon of HSV and the circle differ by."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    for y in range(16):
        for x in range(16):
            opposite = 0.5 if x > 8 else 0.0
            colour = colorsys.hsv_to_rgb((turn / 360 + opposite) % 1, 0.2 + 0.04 * y, 0.5 + 0.02 * x)
            pixels[y, x] = np.rint(255 * np.array(colour))
    away = (look_of(pixels)["hue"] - turn + 90) % 180 - 90
    assert abs(away) < 2


def test_grey_images_have_neither_hue_nor_saturation_and_flat_ones_no_sharpness() -> None:
    assert set(look_of(noise(0, 20, 20, 1))) == {"brightness", "contrast", "sharpness", "grain"}
    assert look_of(np.repeat(noise(0, 20, 20, 1), 3, axis=2)) == {**look_of(noise(0, 20, 20, 1)), "saturation": 0.0}
    assert look_of(np.full((20, 20, 3), 77, np.uint8)) == {
        "brightness": pytest.approx(77 / 255, abs=1e-5),
        "contrast": 0.0,
        "saturation": 0.0,
    }


def test_of_a_large_image_rows_at_equal_distances_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bag = np.asarray(Image.fromarray(simulate_bag(3, 0, None, 256, 192).image).resize((1600, 1200)))
    some = look_of(bag)
    monkeypatch.setattr("vigil.images.appearance._MOST_PIXELS", bag.size)
    whole = look_of(bag)
    assert some != whole
    assert some == pytest.approx(whole, rel=0.02, abs=2e-3)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_figures_are_numbers_whatever_the_image(height: int, width: int, channels: int, span: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(255 - span, 256, (height, width, channels), np.uint8)
    look = look_of(pixels)
    assert {"brightness", "contrast"} <= set(look) <= set(FEATURES)
    assert all(math.isfinite(value) for value in look.values())
    assert 0 <= look.get("hue", 0) <= 180
    assert look_of(pixels[:, ::-1]) == pytest.approx(look, abs=1e-3)


# -------------------------------------------------------------------------------------------------------------- shifts


def appearance(**values: list[float]) -> Appearance:
    return Appearance.of([dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)])


def test_a_distance_is_the_largest_gap_of_cumulated_shares() -> None:
    (found,) = shifts(appearance(contrast=[0.1, 0.2, 0.3, 0.4]), appearance(contrast=[0.1, 0.35, 0.45, 0.5]))
    assert (found.feature, found.distance) == ("contrast", 0.5)
    assert (found.calibration_median, found.median) == (pytest.approx(0.25), pytest.approx(0.4))


def test_sets_of_one_display_are_hardly_ever_told_apart() -> None:
    random = np.random.default_rng(0)
    warned = 0
    for _ in range(150):
        looks = [dict(zip(FEATURES, row, strict=True)) for row in random.normal(90, 5, (190, len(FEATURES)))]
        warned += warning_of(shifts(Appearance.of(looks[:140]), Appearance.of(looks[140:])), 50) is not None
    assert warned <= 1  # of 150 at 1 %, before what ordinary sets may differ by


def test_a_hue_is_not_torn_where_180_degrees_become_0() -> None:
    around = np.random.default_rng(1).normal(0, 3, 200)
    before, same = appearance(hue=list(around[:100] % 180)), appearance(hue=list(around[100:] % 180))
    turned = appearance(hue=list((around[100:] + 11) % 180))
    assert not shifts(before, same)[0].beyond
    (found,) = shifts(before, turned)
    assert found.beyond
    assert found.median - found.calibration_median == pytest.approx(11, abs=1)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_so_few_images_never_warn(images: int) -> None:
    before = appearance(brightness=list(np.linspace(0.4, 0.5, 500)))
    (found,) = shifts(before, appearance(brightness=[0.9] * images))
    assert found.distance == 1
    assert not found.beyond


def test_figures_that_one_side_lacks_are_not_compared() -> None:
    grey, colour = appearance(brightness=[0.5] * 50), appearance(brightness=[0.5] * 50, saturation=[0.2] * 50)
    assert [shift.feature for shift in shifts(grey, colour)] == ["brightness"]
    assert shifts(grey, Appearance.of([])) == []
    assert warning_of([], 0) is None


def display(pixels: np.ndarray, what: str) -> np.ndarray:
    image = Image.fromarray(pixels)
    if what == "blurred":
        return np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)))
    if what == "hue":
        hue = np.array(image.convert("HSV"))
        hue[..., 0] += 8  # 11 degrees
        return np.asarray(Image.fromarray(hue, "HSV").convert("RGB"))
    return pixels if what == "as they are" else np.rint(pixels * 0.85).astype(np.uint8)


@pytest.fixture(scope="module")
def bags() -> tuple[Appearance, list[np.ndarray]]:
    """How 60 harmless bags look, and 40 others, four of them with a knife."""
    before = Appearance.of([look_of(simulate_bag(1, i, None, 128, 96).image) for i in range(60)])
    return before, [simulate_bag(2, i, "knife" if i % 10 == 0 else None, 128, 96).image for i in range(40)]


@pytest.mark.parametrize(
    ("what", "feature"),
    [("as they are", None), ("blurred", "sharpness"), ("hue", "hue"), ("dimmer", "brightness")],
)
def test_bags_on_another_display_are_noticed_threats_among_them(
    bags: tuple[Appearance, list[np.ndarray]], what: str, feature: str | None
) -> None:
    before, images = bags
    found = shifts(before, Appearance.of([look_of(display(image, what)) for image in images]))
    beyond = {shift.feature for shift in found if shift.beyond}
    assert (feature in beyond) if feature else not beyond
    said = warning_of(found, len(images))
    assert (said is None) == (feature is None)
    assert said is None or f"{feature} " in said


# -------------------------------------------------------------------------------------------------- of a split's images


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, pa.Table, pa.Table]:
    """30 normal and 30 anomalous images: folder, manifest and splits."""
    for kind, level in (("normal", 40), ("anomalous/dent", 200)):
        (tmp_path / kind).mkdir(parents=True)
        for index in range(30):
            pixels = np.random.default_rng([level, index]).integers(level, level + 40, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{level}-{index}.png")
    manifest = build_manifest(FolderData(name="folder", root=str(tmp_path)))
    section = SplitSection(calibration_fraction=0.3, calibration_anomaly_fraction=0.4, test_fraction=0.3)
    return tmp_path, manifest, split_images(manifest, section)


def test_a_splits_appearance_is_of_its_normal_images_alone(raw: tuple[Path, pa.Table, pa.Table]) -> None:
    root, manifest, splits = raw
    of_split = splits.filter(pc.field("split") == "calibration").to_pylist()
    normal = [row["image_id"] for row in of_split if row["label"] == NORMAL]
    assert 0 < len(normal) < len(of_split)
    found = appearance_of(manifest, splits, "calibration", root, PATCH)
    assert found.images == len(normal)
    paths = {row["image_id"]: root / row["path"] for row in manifest.to_pylist()}
    assert found == Appearance.of([look_of(np.asarray(Image.open(paths[name]))) for name in normal])
    assert Appearance.model_validate_json(found.model_dump_json()) == found

    paths[normal[0]].write_bytes(b"")
    with pytest.raises(DataError, match=r"\.png"):
        appearance_of(manifest, splits, "calibration", root, PATCH)


def test_of_many_images_some_at_equal_distances_are_measured(
    raw: tuple[Path, pa.Table, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, manifest, splits = raw
    monkeypatch.setattr("vigil.images.split_appearance._MOST_IMAGES", 5)
    every = splits.filter((pc.field("split") == "calibration") & (pc.field("label") == NORMAL))
    assert every.num_rows > 5
    found = appearance_of(manifest, splits, "calibration", root, PATCH)
    assert (found.images, len(found.values["brightness"])) == (5, 5)
