"""Every system through the one scorer: a patch's scores are its own. And the released way, in which they are not."""

import numpy as np
import pytest
import torch

from tests.tiny_systems import BASELINES, BATCH_NORM, tiny_pair
from vigil.errors import ConfigError, ScoreNotFinite
from vigil.records import COMPONENTS
from vigil.scoring.released import score_released
from vigil.scoring.scorer import score_patches

WITHOUT = {"patch_svdd": {"contextual", "latent"}, "unet_autoencoder": {"latent"}}


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 1), dtype=np.uint8)


def flat(count: int, value: int) -> np.ndarray:
    return np.full((count, 32, 32, 1), value, np.uint8)


@pytest.mark.parametrize("name", BASELINES)
def test_components_have_the_promised_form(name):
    scored = score_patches(tiny_pair(name), noise(5), device="cpu", batch_size=4)
    columns = scored.columns()
    absent = {"stitched_peak", "self_supervision", "memory"} | WITHOUT.get(name, set())
    assert list(columns) == [c for c in COMPONENTS if c not in absent]
    assert all(values.shape == (5,) and values.dtype == np.float64 for values in columns.values())
    assert scored.maps.shape == (5, 32, 32)
    assert scored.maps.dtype == np.float32
    assert np.array_equal(scored.map_peak, scored.maps.max(axis=(1, 2)).astype(np.float64))
    assert scored.rows(np.array([3, 1])).published.tolist() == scored.published[[3, 1]].tolist()


@pytest.mark.parametrize("name", BASELINES)
def test_no_patches_have_no_components(name):
    scored = score_patches(tiny_pair(name), noise(0), device="cpu", batch_size=4)
    assert scored.published.shape == (0,)
    assert scored.maps.shape == (0, 32, 32)


@pytest.mark.parametrize("name", BASELINES)
def test_a_patch_scores_the_same_bits_in_any_order_and_with_any_neighbours(name):
    pair, patches = tiny_pair(name), noise(21)
    together = score_patches(pair, patches, device="cpu", batch_size=8)
    order = np.random.default_rng(1).permutation(21)
    shuffled = score_patches(pair, patches[order], device="cpu", batch_size=8)
    beside = np.concatenate([patches[:1], flat(7, 255), flat(9, 0)])
    beside_extremes = score_patches(pair, beside, device="cpu", batch_size=8)
    single = score_patches(pair, patches[:3], device="cpu", batch_size=1)
    for component, values in together.arrays().items():
        assert np.array_equal(getattr(shuffled, component), values[order]), component
        assert np.array_equal(getattr(beside_extremes, component)[0], values[0]), component
        np.testing.assert_allclose(getattr(single, component), values[:3], rtol=1e-5, atol=1e-6, err_msg=component)
    assert len(np.unique(together.published)) == 21


@pytest.mark.parametrize("name", BASELINES)
def test_evaluation_mode_is_set_by_the_scorer_and_nothing_of_the_pair_moves(name):
    pair = tiny_pair(name).train()
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    in_training = score_patches(pair, noise(5), device="cpu", batch_size=4)
    assert all(network.training for network in pair.networks().values())
    assert np.array_equal(
        in_training.published, score_patches(pair.eval(), noise(5), device="cpu", batch_size=4).published
    )
    assert all(torch.equal(before[k], v) for k, v in pair.state_dict().items())


@pytest.mark.parametrize("name", BASELINES)
def test_weights_that_are_no_numbers_raise(name):
    pair = tiny_pair(name)
    with torch.no_grad():
        next(iter(pair.parameters())).fill_(float("nan"))
    with pytest.raises(ScoreNotFinite, match="patch 0: its"):
        score_patches(pair, noise(3), device="cpu", batch_size=4)


# ------------------------------------------------------------------------------------------------------- released


@pytest.mark.parametrize("name", BATCH_NORM)
def test_released_scores_depend_on_the_company_and_strict_ones_do_not(name):
    """The same patches beside white ones, and shuffled among black ones: what the public code's leak is made of."""
    pair, patches = tiny_pair(name), noise(8)
    sorted_set = np.concatenate([patches, flat(8, 255)])
    mixed = np.empty_like(sorted_set)
    mixed[::2], mixed[1::2] = patches, flat(8, 255)
    apart = score_released(pair, sorted_set, device="cpu", batch_size=8).published[:8]
    together = score_released(pair, mixed, device="cpu", batch_size=8).published[::2]
    assert np.abs(apart / together - 1).max() > 1e-3
    strict = score_patches(pair, sorted_set, device="cpu", batch_size=8).published[:8]
    assert np.array_equal(strict, score_patches(pair, mixed, device="cpu", batch_size=8).published[::2])


@pytest.mark.parametrize("name", BATCH_NORM)
def test_released_scoring_leaves_weights_running_statistics_and_modes_untouched(name):
    pair = tiny_pair(name)
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    scored = score_released(pair, noise(9), device="cpu", batch_size=4)
    assert scored.published.shape == (9,)  # the last patch joins the batch before it
    assert scored.maps.shape == (9, 32, 32)
    assert not any(module.training for module in pair.modules())
    assert all(torch.equal(before[k], v) for k, v in pair.state_dict().items())
    assert all(p.grad is None for p in pair.parameters())


@pytest.mark.parametrize("name", sorted({"dense_skip_gan", *BASELINES} - {*BATCH_NORM}))
def test_a_system_without_batch_normalisation_has_no_released_protocol(name):
    with pytest.raises(ConfigError, match=f"'{name}' has no batch normalisation"):
        score_released(tiny_pair(name), noise(4), device="cpu", batch_size=4)


def test_batch_statistics_need_two_patches():
    with pytest.raises(ConfigError, match="need two patches, found 1 in batches of 4"):
        score_released(tiny_pair("ganomaly"), noise(1), device="cpu", batch_size=4)
