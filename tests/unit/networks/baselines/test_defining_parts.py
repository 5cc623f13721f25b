"""What makes each system itself, as far as its networks say it."""

import pytest
import torch
from torch import nn

from tests.tiny_systems import smooth_patches, tiny_pair
from vigil.networks.baselines.patch_svdd import SIZES, spread_over_windows, window_px, windows_a_side


def test_ganomaly_encodes_decodes_and_encodes_again():
    pair = tiny_pair("ganomaly")
    x = smooth_patches(3)
    with torch.no_grad():
        found = pair.generator(x)
        assert found.z.shape == found.z_again.shape == (3, 6)
        assert torch.equal(found.z, pair.generator.encoder(x))
        assert torch.equal(found.reconstruction, pair.generator.decoder(found.z))
        assert torch.equal(found.z_again, pair.generator.encoder_again(found.reconstruction))
    first, again = pair.generator.encoder, pair.generator.encoder_again
    assert [p.shape for p in first.parameters()] == [p.shape for p in again.parameters()]
    assert not any(a is b for a in first.parameters() for b in again.parameters())


def test_egbads_discriminator_judges_a_patch_together_with_its_latent_vector():
    pair = tiny_pair("egbad")
    x, z = smooth_patches(3), torch.rand(3, 6)
    with torch.no_grad():
        logits, features = pair.discriminator(x, z)
        assert logits.shape == (3,)
        assert features.shape == (3, 8)
        assert not torch.equal(pair.discriminator(x, -z)[0], logits)
        assert not torch.equal(pair.discriminator(-x, z)[0], logits)


@pytest.mark.parametrize("name", ["skip_ganomaly", "dagan"])
def test_the_skips_carry_what_the_bottleneck_cannot(name):
    """With the deepest level silenced, the reconstruction still depends on x; without skips it would be constant."""
    generator = tiny_pair(name).generator
    generator.down[-1].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    with torch.no_grad():
        found = generator(smooth_patches(2))
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_dagans_discriminator_is_an_auto_encoder_without_skips():
    discriminator = tiny_pair("dagan").discriminator
    x = smooth_patches(2)
    with torch.no_grad():
        again, z = discriminator(x)
        assert again.shape == x.shape
        assert z.shape == (2, 6)
        assert torch.equal(again, discriminator.decoder(z))  # through the latent vector alone


def test_the_u_net_has_skips_at_every_level_and_no_normalisation():
    generator = tiny_pair("unet_autoencoder").generator
    assert len(generator.up) == 3
    assert not [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    generator.down[-1].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    with torch.no_grad():
        found = generator(smooth_patches(2))
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_patch_svdd_embeds_a_window_alike_alone_and_within_its_patch():
    encoder = tiny_pair("patch_svdd").encoder
    x = smooth_patches(2)
    with torch.no_grad():
        whole = encoder(x)
        for size in SIZES:
            side, kernel = windows_a_side(size), window_px(32, size)
            assert whole[size].shape == (2, 8, side, side)
            for row, column in ((0, 0), (1, side - 1), (side - 1, 2)):
                window = x[:, :, 4 * row : 4 * row + kernel, 4 * column : 4 * column + kernel]
                alone = encoder.of_windows(window, size)
                torch.testing.assert_close(alone, whole[size][:, :, row, column], rtol=0, atol=1e-6)


def test_patch_svdds_distance_is_that_to_the_nearest_remembered_embedding():
    memory = tiny_pair("patch_svdd").memory
    found = memory(torch.cat([memory.small[3:4], memory.small[5:6] + 0.25]), "small")
    expected = torch.cdist(memory.small[5:6].double() + 0.25, memory.small.double()).min()
    assert found[0] == 0
    assert found[1].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_windows_distance_is_spread_over_its_pixels():
    distances = torch.zeros(1, 5, 5)
    distances[0, 0, 0] = 8.0
    found = spread_over_windows(distances, 32, "large")[0]
    assert found[0, 0] == 8  # no other window holds this pixel
    assert found[4, 0] == 4  # that of the next row does, with distance 0
    assert found[16:].abs().max() == found[:, 16:].abs().max() == 0
