"""Generator and discriminator: shapes, ranges, switches, and independence of the batch."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from vigil.config import AttentionSection, ModelSection
from vigil.errors import ConfigError
from vigil.networks.discriminator import AttentionDiscriminator, attention_side
from vigil.networks.generator import DenseSkipGenerator, dense_nodes, level_widths
from vigil.networks.pair import PairSpec, build_pair

SMALL = ModelSection(
    base_width=4,
    depth=2,
    discriminator_width=8,
    feature_channels=8,
    attention=AttentionSection(heads=2, key_channels=4, value_channels=4),
)


def small(**changes: object) -> ModelSection:
    return ModelSection.model_validate({**SMALL.model_dump(), **changes})


def normed_layers(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if parametrize.is_parametrized(m)]


def layers(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch", [32, 64, 128, 256])
def test_outputs_have_the_promised_shapes_and_ranges(channels, patch):
    pair = build_pair(PairSpec(channels=channels, patch_size_px=patch, model=SMALL), 0).eval()
    x = torch.rand(2, channels, patch, patch) * 2 - 1
    with torch.no_grad():
        outputs = pair.outputs(x)
        logits = pair.discriminator(x).logits
    assert outputs.reconstruction.shape == x.shape
    assert outputs.reconstruction.abs().max() <= 1
    side = attention_side(patch) // 2
    assert outputs.features_x.shape == outputs.features_reconstruction.shape == (2, 8, side, side)
    assert outputs.pointing is None
    assert logits.shape == (2,)


def test_attention_grid_stays_small():
    assert [attention_side(p) for p in (32, 64, 128, 256)] == [8, 8, 8, 16]


def test_widths_double_up_to_the_bound():
    assert level_widths(ModelSection(base_width=16, depth=5, max_width=100)) == (16, 32, 64, 100, 100, 100)


def test_nodes_of_the_paper_form_the_whole_triangle():
    nodes = dense_nodes(ModelSection(depth=3))
    assert list(nodes) == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3)]
    assert nodes[0, 3] == ((0, 0), (0, 1), (0, 2))
    assert nodes[1, 1] == ((1, 0),)


def test_left_out_rows_keep_only_the_decoder_without_concatenation():
    nodes = dense_nodes(ModelSection(depth=3, outer_rows_without_skips=1))
    assert nodes == {(1, 1): ((1, 0),), (2, 1): ((2, 0),), (1, 2): ((1, 0), (1, 1)), (0, 3): ()}
    assert dense_nodes(ModelSection(depth=2, outer_rows_without_skips=2)) == {(1, 1): (), (0, 2): ()}


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_full_resolution_skips_carry_the_input_only_where_they_exist(rows):
    """With the level-1 features zeroed, only a full-resolution skip lets the input reach the output."""
    generator = DenseSkipGenerator(1, small(outer_rows_without_skips=rows)).eval()
    generator.blocks["1_0"].register_forward_hook(lambda _m, _i, output: torch.zeros_like(output))
    with torch.no_grad():
        outputs = generator(torch.randn(2, 1, 16, 16).clamp(-1, 1))
    assert torch.equal(outputs[0], outputs[1]) == (rows > 0)


def test_spectral_norm_covers_every_layer_but_the_generators_output():
    generator, discriminator = DenseSkipGenerator(3, SMALL), AttentionDiscriminator(3, 32, SMALL)
    assert set(layers(generator)) - set(normed_layers(generator)) == {"output"}
    assert set(layers(discriminator)) == set(normed_layers(discriminator))


def test_spectral_norm_can_be_switched_off():
    model = small(spectral_norm=False)
    for network in (DenseSkipGenerator(3, model), AttentionDiscriminator(3, 32, model)):
        assert len(layers(network)) > 3
        assert normed_layers(network) == []


@pytest.mark.parametrize("patch", [32, 256])
def test_attention_can_be_switched_off_and_keeps_the_widths(patch):
    model = small(attention=AttentionSection(enabled=False))
    output = AttentionDiscriminator(3, patch, model)(torch.zeros(1, 3, patch, patch))
    side = attention_side(patch) // 2
    assert output.features.shape == (1, 8, side, side)


def test_attention_that_leaves_no_room_for_the_convolution_is_refused():
    model = small(attention=AttentionSection(heads=2, key_channels=4, value_channels=16))
    with pytest.raises(ConfigError, match=r"value_channels \(16\) must be smaller than the 16 output channels"):
        AttentionDiscriminator(3, 32, model)


def test_attention_sees_all_positions():
    """Changing one corner changes the attention's maps in the opposite corner, and the convolution's maps not."""
    augmented = AttentionDiscriminator(1, 64, SMALL).augmented.eval()
    x = torch.randn(1, 32, 8, 8)
    changed = x.clone()
    changed[..., 0, 0] += 3
    with torch.no_grad():
        difference = (augmented(x) - augmented(changed))[0, :, 7, 7].abs()
    assert difference.shape == (32,)
    assert torch.equal(difference[:28], torch.zeros(28))
    assert (difference[28:] > 0).all()


def test_no_layer_normalises_over_the_batch():
    pair = build_pair(PairSpec(channels=3, patch_size_px=32, model=SMALL), 0)
    for network in (pair.generator, pair.discriminator):
        assert not [m for m in network.modules() if "Norm" in type(m).__name__ and "Spectral" not in type(m).__name__]


def test_a_patch_is_judged_the_same_alone_and_in_a_batch():
    pair = build_pair(PairSpec(channels=3, patch_size_px=32, model=SMALL), 0).eval()
    x = torch.rand(5, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        together, alone = pair.outputs(x), pair.outputs(x[2:3])
    for a, b in zip(together[:3], alone[:3], strict=True):
        torch.testing.assert_close(a[2:3], b, rtol=0, atol=1e-6)


def test_evaluation_mode_leaves_the_power_iteration_alone():
    pair = build_pair(PairSpec(channels=3, patch_size_px=32, model=SMALL), 0)
    x = torch.zeros(1, 3, 32, 32)

    def vectors() -> dict[str, torch.Tensor]:
        return {n: b.clone() for n, b in pair.discriminator.named_buffers() if n.endswith(("_u", "_v"))}

    before = vectors()
    assert before
    pair.eval().discriminator(x)
    assert all(torch.equal(before[n], b) for n, b in vectors().items())
    pair.train().discriminator(x)
    assert not all(torch.equal(before[n], b) for n, b in vectors().items())


def test_weights_are_equal_inside_and_outside_of_autocast():
    layer = AttentionDiscriminator(3, 32, SMALL).eval().strided[0]
    seen = []
    original = nn.functional.conv2d
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "conv2d", lambda x, w, *rest: (seen.append(w.clone()), original(x, w, *rest))[1])
        layer(torch.zeros(1, 3, 8, 8))
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.zeros(1, 3, 8, 8))
    assert len(seen) == 2
    assert seen[0].dtype == seen[1].dtype == torch.float32
    assert torch.equal(seen[0], seen[1])
