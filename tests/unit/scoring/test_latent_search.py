"""AnoGAN's latent search: it finds what it looks for, and of each patch for itself."""

import numpy as np
import pytest
import torch

from tests.tiny_systems import smooth_patches, tiny_pair
from vigil.config import LatentSearchSection
from vigil.scoring.latent_search import search_latent, starting_latent
from vigil.scoring.scorer import score_patches


@pytest.fixture(scope="module")
def pair():
    return tiny_pair("anogan", latent_search=LatentSearchSection(steps=40))


def loss_at(pair, x, z):
    with torch.no_grad():
        return pair.outputs_at(x, z).published


def test_more_steps_lower_the_loss_of_every_patch(pair):
    x = smooth_patches(5)
    losses = [loss_at(pair, x, search_latent(pair, x, steps)) for steps in (1, 10, 60)]
    assert torch.equal(loss_at(pair, x, search_latent(pair, x, 0)), loss_at(pair, x, starting_latent(pair, 5)))
    assert (losses[2] < losses[0]).all()
    assert losses[2].mean() < losses[1].mean() < losses[0].mean()


def test_an_image_that_the_generator_makes_is_found_and_scores_below_one_that_it_cannot_make(pair):
    with torch.no_grad():
        z = starting_latent(pair, 4) + 0.3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        made = pair.generator(z)
    other = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    of_made, of_other = (loss_at(pair, x, search_latent(pair, x, 100)) for x in (made, other))
    assert of_made.max() < of_other.min()
    assert (of_made < 0.5 * loss_at(pair, made, starting_latent(pair, 4))).all()


def test_a_patchs_latent_vector_is_the_same_bits_in_any_company(pair):
    """40 steps would make a difference of the last bit visible."""
    patches = np.random.default_rng(0).integers(0, 256, (21, 32, 32, 1), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(21)
    together = score_patches(pair, patches, device="cpu", batch_size=8)
    shuffled = score_patches(pair, patches[order], device="cpu", batch_size=8)
    alone = score_patches(pair, patches[:3], device="cpu", batch_size=1)
    for name, values in together.arrays().items():
        assert np.array_equal(getattr(shuffled, name), values[order]), name
        np.testing.assert_allclose(getattr(alone, name), values[:3], rtol=1e-6, err_msg=name)
    assert len(np.unique(together.published)) == 21


def test_the_search_changes_no_weight_and_leaves_no_gradient(pair):
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    random = torch.get_rng_state()
    score_patches(pair, np.zeros((3, 32, 32, 1), np.uint8), device="cpu", batch_size=4)
    assert all(torch.equal(before[k], v) for k, v in pair.state_dict().items())
    assert all(p.grad is None for p in pair.parameters())
    assert torch.equal(random, torch.get_rng_state())
