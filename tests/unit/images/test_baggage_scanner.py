"""The physics of the simulated scanner, by numbers worked out by hand."""

import numpy as np
import pytest

from vigil.images.baggage.materials import INORGANIC, METAL, ORGANIC
from vigil.images.baggage.scanner import scan, transmission
from vigil.images.baggage.shapes import Canvas, Lathe, Plate, Wire, moved, points, rectangle


def _slab(organic: float = 0.0, inorganic: float = 0.0, metal: float = 0.0, side: int = 24) -> np.ndarray:
    return np.ones((3, side, side), np.float32) * np.array([organic, inorganic, metal], np.float32)[:, None, None]


def _colour(**thickness: float) -> np.ndarray:
    """The median colour of a uniform slab, R G B."""
    return np.median(scan(_slab(**thickness), 1, np.random.default_rng(0)), axis=(0, 1))


def test_transmission_is_beer_lambert() -> None:
    low, high = transmission(_slab(organic=2.0, inorganic=0.5, metal=0.1))[:, 0, 0]
    assert low == pytest.approx(np.exp(-(2 * 0.21 + 0.5 * 0.66 + 0.1 * 4.5)), rel=1e-5)
    assert high == pytest.approx(np.exp(-(2 * 0.18 + 0.5 * 0.46 + 0.1 * 2.0)), rel=1e-5)


def test_attenuation_multiplies_along_the_ray() -> None:
    cloth, knife = _slab(organic=3.0), _slab(metal=0.3)
    np.testing.assert_allclose(transmission(cloth + knife), transmission(cloth) * transmission(knife), rtol=1e-5)


def test_hue_follows_the_material() -> None:
    red, green, blue = _colour(organic=4.0)
    assert red > green > blue + 40  # orange
    red, green, blue = _colour(inorganic=1.5)
    assert green > red + 20
    assert green > blue + 40  # green
    red, green, blue = _colour(metal=0.3)
    assert blue > green > red + 40  # blue


def test_the_empty_belt_is_white_and_opaque_metal_nearly_black() -> None:
    assert np.all(_colour() == 255)
    assert np.all(_colour(metal=8.0) < 60)


def test_more_matter_is_darker() -> None:
    brightness = [_colour(organic=cm).mean() for cm in (0.5, 2.0, 5.0, 10.0, 25.0)]
    assert brightness == sorted(brightness, reverse=True)


def test_noise_comes_from_the_generator_alone() -> None:
    slab = _slab(organic=6.0)
    first, again, other = (scan(slab, 1, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_a_detector_pixel_averages_transmission_not_thickness() -> None:
    # Half of each pixel is covered by opaque metal: half of the photons pass, far more than exp(-mean thickness).
    striped = _slab(side=48)
    striped[METAL, :, ::2] = 10.0
    assert scan(striped, 2, np.random.default_rng(0)).mean() > 120
    assert scan(_slab(metal=5.0), 1, np.random.default_rng(0)).mean() < 60


def test_a_plate_adds_its_thickness_inside_its_outline_and_outside_its_holes() -> None:
    canvas = Canvas(40, 40, 2.0)  # 20 x 20 cm
    canvas.draw([Plate(INORGANIC, 0.5, rectangle(10, 10, 10, 10), (rectangle(4, 4, 10, 10),))])
    canvas.draw([Plate(INORGANIC, 0.25, rectangle(10, 10, 10, 10))])
    assert canvas.thickness_cm[INORGANIC, 13, 13] == pytest.approx(0.75)
    assert canvas.thickness_cm[INORGANIC, 20, 20] == pytest.approx(0.25)
    assert canvas.thickness_cm[INORGANIC, 2, 2] == 0
    assert not canvas.thickness_cm[[ORGANIC, METAL]].any()


def test_a_cylinder_is_thickest_on_its_axis_and_a_tube_at_its_edge() -> None:
    canvas = Canvas(200, 200, 20.0)  # 10 x 10 cm
    canvas.draw([Lathe(ORGANIC, points((1, 5), (9, 5)), (0, 1), (2.0, 2.0))])
    canvas.draw([Lathe(METAL, points((1, 5), (9, 5)), (0, 1), (2.0, 2.0), 0.1)])
    solid, shell = canvas.thickness_cm[ORGANIC, :, 100], canvas.thickness_cm[METAL, :, 100]
    assert solid[100] == pytest.approx(4.0, rel=0.01)
    assert solid[80] == pytest.approx(2 * np.sqrt(2.0**2 - 0.975**2), rel=0.02)  # the centre of sub-pixel 80
    assert shell[100] == pytest.approx(0.2, rel=0.02)
    assert shell.max() > 4 * shell[100]
    volume = canvas.thickness_cm[ORGANIC].sum() / 20**2
    assert volume == pytest.approx(np.pi * 2.0**2 * 8, rel=0.02)


def test_a_wire_keeps_its_mass_at_any_resolution() -> None:
    for resolution in (1.5, 4.0, 16.0):
        canvas = Canvas(int(20 * resolution), int(20 * resolution), resolution)
        canvas.draw([Wire(METAL, 0.2, points((2, 10), (18, 10)))])
        assert canvas.thickness_cm[METAL].sum() / resolution**2 == pytest.approx(16 * np.pi * 0.1**2, rel=0.2)


def test_what_lies_outside_the_canvas_is_cut_off() -> None:
    canvas = Canvas(10, 10, 1.0)
    far = 100.0
    canvas.draw([Plate(METAL, 1.0, rectangle(4, 4, far, far)), Wire(METAL, 1.0, points((far, far), (far + 5, far)))])
    canvas.draw([Lathe(METAL, points((-far, 0), (-far - 5, 0)), (0, 1), (1.0, 1.0))])
    assert not canvas.thickness_cm.any()


def test_tilt_foreshortens_and_lengthens_the_way_through() -> None:
    (plate,) = moved([Plate(METAL, 1.0, rectangle(10, 4))], tilt=np.pi / 3)
    assert isinstance(plate, Plate)
    assert np.ptp(plate.outline[:, 0]) == pytest.approx(10)
    assert np.ptp(plate.outline[:, 1]) == pytest.approx(2)
    assert plate.thickness_cm == pytest.approx(2)
