"""The pointing decoder: shapes, what it sees, and its place in the pair."""

import numpy as np
import pytest
import torch

from tests.unit.networks.test_network_shapes import small
from vigil.networks.pair import PairSpec, build_pair, load_pair, save_pair
from vigil.networks.pointing import _blur_matrix, with_blurred_colour


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


def test_the_decoder_has_a_bound_of_its_own_on_its_widths():
    def widths(**bounds):
        pair = pair_of(pointing_sees="patch", **bounds)
        return [level.convolution.out_channels for level in pair.discriminator.pointing.on_the_way_down]

    assert widths() == [4, 8, 16, 32, 64], "without it, that of all networks"
    assert widths(pointing_max_width=8) == [4, 8, 8, 8, 8]
    assert widths(max_width=8, pointing_max_width=32) == [4, 8, 16, 32, 32]


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


def blurred_slowly(image):
    """By the definition: lightness as it is, colour as the mean of the 5 x 5 px around each pixel, twice over."""
    lightness = image.mean(axis=0)
    colour = image - lightness
    for _ in range(2):
        padded = np.pad(colour, [(0, 0), (2, 2), (2, 2)], mode="edge")
        shifted = [padded[:, dy : dy + image.shape[1], dx : dx + image.shape[2]] for dy in range(5) for dx in range(5)]
        colour = np.mean(shifted, axis=0)
    return lightness + colour


def test_blurred_colour_by_its_definition():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 40, 33))
    found = with_blurred_colour(torch.from_numpy(images).float()).numpy()
    assert np.allclose(found, [blurred_slowly(image) for image in images], atol=1e-5)


def test_blurring_colour_leaves_grey_images_alone():
    for channels in (1, 3):
        images = batch(64)[:, :1].expand(-1, channels, -1, -1)
        assert torch.allclose(with_blurred_colour(images), images, atol=1e-6)


@pytest.mark.parametrize("sees", ["patch", "patch_and_restoration"])
def test_a_decoder_that_sees_colour_blurred_does_not_see_fine_colour(sees):
    """A chequered change of hue at equal lightness vanishes in the mean of its vicinity; one of lightness does not."""
    x = batch(64, 3) / 2
    chequered = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2 - 1.0
    hue = 0.5 * chequered * torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    lightness = 0.5 * chequered.expand(3, -1, -1)

    def moved_by(change, colour):
        decoder = pair_of(64, 3, pointing_sees=sees, pointing_colour=colour).discriminator.pointing
        with torch.no_grad():
            return (decoder(x + change, x) - decoder(x, x)).abs()[:, 8:-8, 8:-8].mean().item()

    assert moved_by(hue, "blurred") < 0.1 * moved_by(hue, "sharp")
    assert moved_by(lightness, "blurred") > 0.5 * moved_by(lightness, "sharp")


def test_scoring_leaves_nothing_behind_that_training_cannot_use():
    decoder, x = pair_of(64, 3, pointing_colour="blurred").discriminator.pointing, batch(64, 3)
    _blur_matrix.cache_clear()
    with torch.inference_mode():
        decoder(x, -x)
    decoder(x.requires_grad_(), -x).mean().backward()
    assert x.grad.any()


def test_sharp_colour_is_what_pairs_had_before_there_was_a_choice():
    sharp = pair_of(64, 3, pointing_colour="sharp")
    assert "pointing_colour" not in sharp.spec.model.model_dump(mode="json")
    assert sharp.spec == pair_of(64, 3).spec
