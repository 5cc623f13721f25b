"""Pseudo-anomalies: what they change, what they leave, and what they depend on."""

import numpy as np
import pytest
from pydantic import ValidationError

from vigil.config import PaintWeights, PseudoAnomalySection, ShapeWeights
from vigil.training.pseudo_anomalies import colour_table, decoys, pseudo_anomalies

SHAPES = list(ShapeWeights.model_fields)
PAINTS = list(PaintWeights.model_fields)


def only(kinds, name):
    return {kind: float(kind == name) for kind in kinds}


def section(**changes):
    return PseudoAnomalySection.model_validate({"clean_fraction": 0.0, "most_stamps": 1, **changes})


def patches(count=24, side=64, channels=3, seed=0):
    """Smooth ramps with some noise, of one hue each."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(60, 190, side)[None, None, :, None] + rng.uniform(-40, 40, (count, 1, 1, channels))
    return (ramp + rng.normal(0, 2, (count, side, side, channels))).clip(0, 255).astype(np.uint8)


def stamped(values, seed=3, count=24, **shape):
    x = patches(count, **shape)
    return x, *pseudo_anomalies(x, x[::-1], values, colour_table(x), seed=seed, numbers=np.arange(len(x)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [32, 64, 128, 256])
def test_patches_keep_their_shape_and_most_are_visibly_changed(side, channels):
    x, corrupted, masks = stamped(section(), side=side, channels=channels)
    assert (corrupted.shape, corrupted.dtype) == (x.shape, np.uint8)
    assert (masks.shape, masks.dtype) == (x.shape[:3], np.bool_)
    assert masks.any(axis=(1, 2)).mean() > 0.8


def test_a_range_of_pixels_that_falls_is_refused():
    with pytest.raises(ValidationError, match=r"absorber_pixels \[64, 8\]: the first is larger"):
        section(absorber_pixels=[64, 8])


def test_what_is_not_marked_has_not_visibly_changed_and_what_is_marked_has_changed():
    values = section(most_stamps=3)
    x, corrupted, masks = stamped(values)
    change = np.abs(corrupted.astype(int) - x).max(axis=3) / 255
    assert change[~masks].max() <= values.visible_difference
    assert change[masks].min() > 0


def test_the_patches_given_are_left_alone():
    x = patches()
    before, donors = x.copy(), x[::-1].copy()
    pseudo_anomalies(x, donors, section(), colour_table(x), seed=0, numbers=np.arange(len(x)))
    assert np.array_equal(x, before)
    assert np.array_equal(donors, before[::-1])


def test_a_result_depends_on_its_own_patch_donor_seed_and_number_alone():
    x, corrupted, masks = stamped(section(clean_fraction=0.3))
    some = np.array([5, 2, 17])
    values, colours = section(clean_fraction=0.3), colour_table(x)
    again = pseudo_anomalies(x[some], x[::-1][some], values, colours, seed=3, numbers=some)
    assert np.array_equal(again[0], corrupted[some])
    assert np.array_equal(again[1], masks[some])
    assert not np.array_equal(stamped(section(clean_fraction=0.3), seed=4)[1], corrupted)


def test_the_clean_share_is_left_as_it_is_and_marked_nowhere():
    x, corrupted, masks = stamped(section(clean_fraction=0.5), count=200, side=32)
    clean = (corrupted == x).all(axis=(1, 2, 3))
    assert 0.4 < clean.mean() < 0.65
    assert not masks[clean].any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("paint", PAINTS)
def test_each_shape_can_be_drawn_in_each_paint(shape, paint):
    values = section(shapes=only(SHAPES, shape), paints=only(PAINTS, paint), smallest=0.3, least_opacity=1.0)
    _, _, masks = stamped(values)
    assert masks.any(axis=(1, 2)).mean() > 0.6


@pytest.mark.parametrize("shape", SHAPES)
def test_large_extents_change_more_than_small_ones(shape):
    def area(extent):
        values = section(shapes=only(SHAPES, shape), smallest=extent, largest=extent, least_opacity=1.0)
        return stamped(values, side=128)[2].mean()

    assert area(0.6) > 3 * area(0.1) > 0


def test_a_stamp_stays_near_its_extent():
    x, corrupted, _ = stamped(section(smallest=0.1, largest=0.1), side=128, count=60)
    for rows, columns in (np.nonzero(c) for c in (corrupted != x).any(axis=3)):
        assert np.ptp(rows) <= 40
        assert np.ptp(columns) <= 40


def scan(count=12, side=64, seed=0):
    """Orange fields of several densities with blue bars on them, as a dual-energy scanner colours them."""
    rng = np.random.default_rng(seed)
    orange, blue = np.array([1.0, 0.75, 0.45]), np.array([0.15, 0.45, 0.75])
    field = rng.uniform(0.6, 1, (count, 1, 1, 1)) * orange * np.ones((count, side, side, 3))
    field[:, 20:26] = blue * rng.uniform(0.5, 1, (count, 1, 1, 1))
    return (255 * (field + rng.normal(0, 0.01, field.shape)).clip(0, 1)).astype(np.uint8)


def test_absorbers_darken_and_take_the_hue_that_stands_out():
    x = scan()
    values = section(paints=only(PAINTS, "absorber"), shapes=only(SHAPES, "blobs"), smallest=0.3, largest=0.4)
    corrupted, masks = pseudo_anomalies(x, x[::-1], values, colour_table(x), seed=1, numbers=np.arange(len(x)))
    on_field = masks.copy()
    on_field[:, 18:28] = False
    assert on_field.sum() > 500
    assert (corrupted.mean(axis=3) - x.mean(axis=3))[on_field].mean() < -20
    bluish = corrupted[..., 2].astype(int) > corrupted[..., 0]
    assert bluish[on_field].mean() > 0.6
    assert not (x[..., 2].astype(int) > x[..., 0])[on_field].any()


def test_the_more_pixels_are_seen_the_surer_an_absorber_is_of_the_rarest_matter():
    x = scan()
    x[:, 20:26, 10:] = x[:, 30:36, 10:]  # blue is left in 60 of 4,096 pixels
    table = colour_table(scan())

    def bluish(pixels):
        values = section(
            paints=only(PAINTS, "absorber"), shapes=only(SHAPES, "blobs"), smallest=0.3, absorber_pixels=pixels
        )
        corrupted, masks = pseudo_anomalies(x, x[::-1], values, table, seed=1, numbers=np.arange(len(x)))
        masks[:, 18:28] = False
        return (corrupted[..., 2].astype(int) > corrupted[..., 0])[masks].mean()

    assert bluish([1, 2]) < 0.2
    assert bluish([400, 512]) > 0.6


def test_absorbers_use_only_colours_near_those_that_occur():
    x = scan()
    values = section(paints=only(PAINTS, "absorber"), smallest=0.3)
    corrupted, masks = pseudo_anomalies(x, x[::-1], values, colour_table(x), seed=1, numbers=np.arange(len(x)))
    known = x.reshape(-1, 3)[::97].astype(int)
    saturation = np.ptp(known, axis=1).min()
    assert np.median(np.ptp(corrupted[masks].astype(int), axis=1)) > 0.6 * saturation


def beside(mask):
    """The mask [N, P, P], grown by one pixel."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    side = mask.shape[1]
    return np.any([padded[:, i : i + side, k : k + side] for i in range(3) for k in range(3)], axis=0)


def test_grey_absorbers_darken_all_but_their_rims():
    x, corrupted, masks = stamped(section(paints=only(PAINTS, "absorber"), smallest=0.3), channels=1)
    lighter = (corrupted.astype(int) - x)[..., 0]
    assert lighter[masks].mean() < -10
    assert not ((lighter > 0.05 * 255) & ~beside(lighter < 0)).any()


def test_an_absorber_has_a_light_rim_as_displays_give_it():
    x = np.full((24, 64, 64, 1), 150, np.uint8)
    values = section(paints=only(PAINTS, "absorber"), shapes=only(SHAPES, "blobs"), smallest=0.3, softest_px=0.7)
    donors = np.full_like(x, 60)
    corrupted, _ = pseudo_anomalies(x, donors, values, colour_table(donors), seed=1, numbers=np.arange(len(x)))
    change = corrupted[..., 0].astype(int) - 150
    darker = change < -15
    outside = beside(darker) & ~darker
    assert change[outside].mean() > 3


def test_the_colour_table_gives_back_the_colours_it_was_made_of():
    table = colour_table(scan())
    assert table.shape == (36, 48, 3)
    assert (table.min(), table.max()) >= (0, 0)
    assert table.max() <= 1
    light = table.mean(axis=2)
    assert np.corrcoef(light.mean(axis=0), np.arange(48))[0, 1] > 0.99
    assert colour_table(patches(channels=1)).shape == (36, 48, 1)


def test_structure_attracts_stamps():
    x = np.full((60, 64, 64, 1), 120, np.uint8)
    x[:, 16:40, 16:40] = np.random.default_rng(0).integers(60, 180, (60, 24, 24, 1))

    def inside(share):
        values = section(on_structure=share, smallest=0.1, largest=0.1)
        corrupted, _ = pseudo_anomalies(x, x, values, colour_table(x), seed=0, numbers=np.arange(60))
        changed = (corrupted != x).any(axis=3)
        return changed[:, 16:40, 16:40].sum() / changed.sum()

    assert inside(1.0) > 2 * inside(0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smallest": 0.7}, "smallest .0.7. is larger than largest"),
        ({"shapes": dict.fromkeys(SHAPES, 0.0)}, "every weight is 0"),
        ({"paints": dict.fromkeys(PAINTS, 0.0)}, "every weight is 0"),
        ({"clean_fraction": 1.0}, "less than 1"),
    ],
)
def test_settings_that_could_draw_nothing_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        section(**changes)


def with_dark_objects(x, seed=5):
    """The patches with a dark square each, as metal in the beam."""
    rng, dark = np.random.default_rng(seed), x.copy()
    for patch in dark:
        top, left = rng.integers(8, len(patch) - 24, size=2)
        patch[top : top + 14, left : left + 14] = 20
    return dark


def test_decoys_lay_matter_of_other_patches_in_and_lighten_its_rims_alone():
    x = patches()
    donors = with_dark_objects(x[::-1])
    values, numbers = section(decoy_fraction=1.0), np.arange(len(x))
    mixed = decoys(x, donors, values, colour_table(donors), seed=0, numbers=numbers)
    darker = x.mean(axis=3) - mixed.mean(axis=3)
    assert (darker.max(axis=(1, 2)) > 30).mean() > 0.4
    assert not ((darker < -6) & ~beside(darker > 0)).any()
    plain = decoys(x, np.full_like(x, 200), values, colour_table(donors), seed=0, numbers=numbers)
    assert np.array_equal(plain, x), "a donor in which nothing stands out has nothing to lay in"


def test_a_decoy_depends_on_its_own_patch_donor_seed_and_number_alone():
    x, some = patches(), np.array([4, 9, 1])
    donors, values = with_dark_objects(x[::-1]), section(decoy_fraction=0.7)
    colours = colour_table(donors)
    all_of_them = decoys(x, donors, values, colours, seed=0, numbers=np.arange(len(x)))
    assert np.array_equal(decoys(x[some], donors[some], values, colours, seed=0, numbers=some), all_of_them[some])
    untouched = (all_of_them == x).all(axis=(1, 2, 3))
    assert 0 < untouched.sum() < len(x)
