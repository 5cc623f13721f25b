"""The views of the self-supervised trunk: turned as labelled, moved a little, and enough to learn from."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests.unit.training.make_patches import SPEC, train_section
from vigil.config import LossWeights, SelfSupervisionSection
from vigil.networks.pair import PairSpec, build_pair
from vigil.training.self_supervision import shifted, training_views
from vigil.training.steps import discriminator_step, make_players

MODEL = SPEC.model.model_copy(update={"self_supervision": SelfSupervisionSection(enabled=True, width=8)})


def test_a_shift_moves_pixels_and_reflects_what_comes_into_view() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(3, 1, 4, 4)
    found = shifted(x, torch.tensor([0, 1, 0]), torch.tensor([0, 0, -2]), 2)
    assert torch.equal(found[0], x[0])
    assert found[1, 0].tolist() == [[4.0, 5.0, 6.0, 7.0], *x[0, 0, :3].tolist()]
    assert found[2, 0, 0].tolist() == [2.0, 3.0, 2.0, 1.0]


def test_every_patch_is_seen_in_all_four_turns_with_its_label() -> None:
    x = torch.rand(3, 2, 8, 8)  # a side of 8 px leaves no room for shifts
    views = training_views(x, np.random.default_rng(0))
    assert views.quarters.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for view, quarters, number in zip(views.patches, views.quarters.tolist(), [0, 1, 2] * 4, strict=True):
        assert np.array_equal(view.numpy(), np.rot90(x[number].numpy(), quarters, (1, 2)))


def test_views_are_moved_by_at_most_a_tenth_and_each_on_its_own() -> None:
    x = torch.zeros(8, 1, 32, 32)
    x[:, :, 16, 16] = 1
    views = training_views(x, np.random.default_rng(0))
    places = torch.stack([view[0].nonzero()[0] for view in views.patches]).double()
    assert ((places - 15.5).abs() <= 3.5).all()
    assert len({tuple(place) for place in places.tolist()}) > 16


def test_the_trunk_learns_which_way_is_up() -> None:
    """Ramps that grow to the right: their turns can be told, and after a few steps they are."""
    ramp = torch.linspace(-1, 1, 32)[None, None, None, :].expand(8, 1, 32, 32)
    x = (ramp * torch.linspace(0.5, 1, 8)[:, None, None, None]).contiguous()
    players = make_players(build_pair(PairSpec(channels=1, patch_size_px=32, model=MODEL), 0), train_section())
    for group in players.optimizers["discriminator"].param_groups:
        group["lr"] = 5e-3
    fabric, weights = Fabric(accelerator="cpu", devices=1), LossWeights(adversarial=0, latent=0)
    losses = []
    for step in range(25):
        views = training_views(x, np.random.default_rng(step))
        losses.append(discriminator_step(fabric, players, x, x[:2], weights, views=views).self_supervision)
    assert losses[0] == pytest.approx(1.4, abs=0.6)
    assert losses[-1] < 0.2


def test_the_weight_scales_the_loss_and_the_adversarial_term_is_kept_where_the_generator_listens() -> None:
    players = make_players(build_pair(PairSpec(channels=1, patch_size_px=32, model=MODEL), 0), train_section())
    x = torch.rand(4, 1, 32, 32)
    views = training_views(x, np.random.default_rng(0))
    fabric = Fabric(accelerator="cpu", devices=1)
    step = discriminator_step(fabric, players, x, x, LossWeights(self_supervision=0.5), views=views)
    assert step.adversarial > 0
    assert step.loss == pytest.approx(step.adversarial + 0.5 * step.self_supervision, rel=1e-5)
