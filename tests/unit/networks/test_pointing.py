"""The pointing decoder: shapes, what it sees, and its place in the pair."""

import pytest
import torch

from tests.unit.networks.test_network_shapes import small
from vigil.networks.pair import PairSpec, build_pair, load_pair, save_pair


def pair_of(patch_size_px=32, channels=1, seed=0, **changes):
    model = small(pointing=True, pointing_width=4, **changes)
    return build_pair(PairSpec(channels=channels, patch_size_px=patch_size_px, model=model), seed).eval()


def batch(size=32, channels=1, count=2):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("sees", ["patch", "patch_and_restoration"])
@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 1), (256, 3)])
def test_there_is_one_logit_per_pixel(size, channels, sees):
    with torch.no_grad():
        outputs = pair_of(size, channels, pointing_sees=sees).outputs(batch(size, channels))
    assert outputs.pointing.shape == (2, size, size)
    assert outputs.pointing.dtype == torch.float32
    assert outputs.pointing.std() > 0


def test_the_restoration_matters_exactly_where_the_decoder_sees_it():
    x = batch()
    for sees, matters in (("patch", False), ("patch_and_restoration", True)):
        decoder = pair_of(pointing_sees=sees).discriminator.pointing
        with torch.no_grad():
            assert torch.equal(decoder(x, x), decoder(x, -x)) is not matters


def test_a_patch_is_judged_alone():
    decoder, x = pair_of().discriminator.pointing, batch(count=3)
    with torch.no_grad():
        together, alone = decoder(x, -x), decoder(x[1:2], -x[1:2])
    assert torch.allclose(together[1], alone[0], rtol=1e-5, atol=1e-5)


def test_a_logit_belongs_to_the_pixel_that_it_stands_at():
    """Each pixel's own logit is moved by that pixel, so nothing is shifted on the way through half resolution."""
    decoder, x = pair_of(pointing_sees="patch").discriminator.pointing, batch().requires_grad_()
    for row, column in ((0, 0), (9, 20), (31, 31)):
        (gradient,) = torch.autograd.grad(decoder(x, x)[0, row, column], x)
        assert gradient[0, 0, row, column] != 0
        assert not gradient[1].any()


def test_every_weight_of_the_decoder_learns():
    decoder = pair_of().discriminator.pointing
    decoder(batch(), -batch()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_the_weights_of_the_rest_do_not_depend_on_whether_the_pair_points():
    plain = build_pair(PairSpec(channels=1, patch_size_px=32, model=small()), 0)
    pointing = pair_of()
    for name, tensor in plain.discriminator.state_dict().items():
        assert torch.equal(tensor, pointing.discriminator.state_dict()[name])
    assert plain.discriminator.pointing is None


def test_a_pointing_pair_survives_its_folder(tmp_path):
    pair, x = pair_of(seed=3), batch()
    save_pair(tmp_path / "pair", pair, {})
    loaded, _ = load_pair(tmp_path / "pair")
    with torch.no_grad():
        assert torch.equal(pair.outputs(x).pointing, loaded.outputs(x).pointing)


@pytest.mark.parametrize(("views", "turns", "mirrored"), [(2, 0, True), (4, 1, False), (8, 3, True)])
def test_averaging_over_views_makes_the_map_turn_with_the_patch(views, turns, mirrored):
    def view(images):
        turned = torch.rot90(images, turns, (-2, -1))
        return turned.flip(-1) if mirrored else turned

    x = batch(64)
    decoder = pair_of(64, pointing_views=views).discriminator.pointing
    with torch.no_grad():
        assert torch.allclose(decoder.averaged(view(x), -view(x)), view(decoder.averaged(x, -x)), atol=1e-5)
        assert not torch.allclose(decoder(view(x), -view(x)), view(decoder(x, -x)), atol=1e-3)


def test_one_view_is_the_patch_as_it_is():
    x, pair = batch(), pair_of(pointing_views=1)
    with torch.no_grad():
        assert torch.equal(pair.discriminator.pointing.averaged(x, -x), pair.discriminator.pointing(x, -x))


def test_four_views_are_the_mean_over_the_quarter_turns():
    x, decoder = batch(), pair_of(pointing_views=4).discriminator.pointing
    with torch.no_grad():
        each = [
            torch.rot90(decoder(torch.rot90(x, k, (2, 3)), torch.rot90(-x, k, (2, 3))), -k, (1, 2)) for k in range(4)
        ]
        assert torch.allclose(decoder.averaged(x, -x), torch.stack(each).mean(0), atol=1e-6)
