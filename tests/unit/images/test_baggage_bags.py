"""The simulated bags: determinism, boxes, and that no trivial image feature gives a threat away."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from vigil.images.baggage import KINDS, simulate_bag

_SEED = 20
_BAGS = 150
_HIGHEST_AUROC = 0.65

_PALETTE_BINS = 8


def _trivial_features(image: np.ndarray) -> dict[str, float]:
    brightness = image.astype(np.float64).mean(axis=2)
    hue, saturation, _ = np.moveaxis(np.asarray(Image.fromarray(image).convert("HSV")).astype(int), 2, 0)
    coloured = saturation > 60
    blue = coloured & (hue > 135) & (hue < 185)
    inner = brightness[1:-1, 1:-1]
    laplacian = brightness[1:-1, :-2] + brightness[1:-1, 2:] + brightness[:-2, 1:-1] + brightness[2:, 1:-1] - 4 * inner
    jpeg = io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=92, subsampling="4:4:4")
    return {
        "mean brightness": brightness.mean(),
        "variance": brightness.var(),
        "share of metal (blue)": blue.mean(),
        "share of dense metal (dark blue)": (blue & (brightness < 90)).mean(),
        "share of dark pixels": (brightness < 90).mean(),
        "share of very dark pixels": (brightness < 60).mean(),
        "share of opaque pixels": (brightness < 45).mean(),
        "share of orange": (coloured & (hue > 8) & (hue < 35)).mean(),
        "share of green": (coloured & (hue > 40) & (hue < 120)).mean(),
        "share of white": (brightness > 240).mean(),
        "darkest pixel": brightness.min(),
        "Laplacian energy": (laplacian**2).mean(),
        "mean absolute Laplacian": np.abs(laplacian).mean(),
        "file size": float(len(jpeg.getvalue())),
    }


def _histogram(image: np.ndarray) -> np.ndarray:
    bins = image.astype(int) * _PALETTE_BINS // 256
    flat = (bins[..., 0] * _PALETTE_BINS + bins[..., 1]) * _PALETTE_BINS + bins[..., 2]
    return np.bincount(flat.ravel(), minlength=_PALETTE_BINS**3) / flat.size


def test_no_trivial_feature_separates_threat_bags() -> None:
    # Bags of different numbers, so that none is the twin of another.
    harmless = [simulate_bag(_SEED, i, None, 256, 192).image for i in range(_BAGS)]
    threats = [simulate_bag(_SEED, _BAGS + i, KINDS[i % 6], 256, 192).image for i in range(_BAGS)]
    rows = [_trivial_features(image) for image in harmless + threats]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    # The reference histogram is that of further harmless bags: its own members would lie closer to it.
    reference = np.mean([_histogram(simulate_bag(_SEED + 1, i, None, 256, 192).image) for i in range(40)], axis=0)
    histograms = np.array([_histogram(image) for image in harmless + threats])
    columns["histogram distance L1"] = np.abs(histograms - reference).sum(axis=1)
    columns["histogram distance chi2"] = ((histograms - reference) ** 2 / (histograms + reference + 1e-9)).sum(axis=1)

    labels = np.repeat([0, 1], _BAGS)
    separation = {}
    for name, values in columns.items():
        auroc = float(roc_auc_score(labels, values))
        separation[name] = max(auroc, 1 - auroc)
    too_easy = {name: round(value, 3) for name, value in separation.items() if value > _HIGHEST_AUROC}
    assert not too_easy


@pytest.mark.parametrize("kind", KINDS)
def test_a_threat_changes_its_box_and_is_large_enough_to_be_found(kind: str) -> None:
    for index in range(8):
        (box,) = simulate_bag(3, index, kind, 256, 192).boxes
        assert box.kind == kind
        assert 0 <= box.x0 < box.x1 <= 256
        assert 0 <= box.y0 < box.y1 <= 192
        assert 30 <= max(box.x1 - box.x0, box.y1 - box.y0) <= 125


def test_the_same_bag_with_another_threat_differs_in_their_boxes_alone() -> None:
    """So a box holds all of its threat, and nothing else in the picture tells that there is one."""
    for index, kind in enumerate(KINDS):
        scans = [simulate_bag(5, index, k, 256, 192) for k in (kind, KINDS[(index + 2) % 6])]
        allowed = np.zeros((192, 256), dtype=bool)
        for scan in scans:
            (box,) = scan.boxes
            # Detector blur, smoothed hue and edge enhancement reach three pixels further.
            allowed[max(box.y0 - 3, 0) : box.y1 + 3, max(box.x0 - 3, 0) : box.x1 + 3] = True
        changed = np.any(scans[0].image != scans[1].image, axis=2)
        assert not np.any(changed & ~allowed)
        assert changed.sum() > 100


def test_a_harmless_bag_is_its_threat_bag_with_one_object_exchanged() -> None:
    for index in range(6):
        harmless, threat = (simulate_bag(6, index, k, 256, 192).image for k in (None, KINDS[index]))
        changed = np.any(harmless != threat, axis=2)
        assert 0.002 < changed.mean() < 0.25


def test_a_bag_depends_on_its_arguments_alone() -> None:
    np.random.seed(0)
    first = simulate_bag(1, 2, "knife", 128, 96)
    np.random.seed(1)
    again = simulate_bag(1, 2, "knife", 128, 96)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.boxes == again.boxes
    for other in (simulate_bag(2, 2, "knife", 128, 96), simulate_bag(1, 3, "knife", 128, 96)):
        assert np.any(first.image != other.image)


def test_a_harmless_bag_has_no_box() -> None:
    assert simulate_bag(1, 2, None, 128, 96).boxes == ()


def test_objects_scale_with_the_image() -> None:
    sides = {}
    for scale in (1, 2, 4):
        (box,) = simulate_bag(9, 1, "wrench", 128 * scale, 96 * scale).boxes
        sides[scale] = max(box.x1 - box.x0, box.y1 - box.y0)
    assert sides[2] == pytest.approx(2 * sides[1], abs=4)
    assert sides[4] == pytest.approx(4 * sides[1], abs=8)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="threat: expected one of gun, knife"):
        simulate_bag(0, 0, "spoon", 128, 96)
    with pytest.raises(ValueError, match="at least 64 each, found 128 x 63"):
        simulate_bag(0, 0, None, 128, 63)
