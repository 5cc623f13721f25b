"""Every system by name: the shapes of what it puts out, its folder, and which keys it refuses."""

import pytest
import torch

from tests.tiny_systems import BASELINES, BATCH_NORM, tiny_pair, tiny_spec
from vigil.config import Candidate, ModelSection, TrainSection, candidate_sections
from vigil.errors import CheckpointError
from vigil.files import digest_folder
from vigil.networks.baselines.anogan import AnoGan
from vigil.networks.pair import PairOutputs, build_pair, load_pair, save_pair
from vigil.networks.registry import SYSTEMS
from vigil.scoring.scorer import pair_digest
from vigil.training.systems import STEPS


def outputs_of(pair, x) -> PairOutputs:
    if isinstance(pair, AnoGan):
        return pair.outputs_at(x, torch.rand(len(x), pair.spec.model.latent_channels))
    return pair.outputs(x)


def test_every_system_has_networks_and_a_training_step():
    assert tuple(SYSTEMS) == tuple(STEPS)
    assert len(BASELINES) == 7


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 3)])
def test_outputs_have_the_promised_shapes_and_ranges(name, size, channels):
    pair = tiny_pair(name, patch_size_px=size, channels=channels)
    x = torch.rand(2, channels, size, size) * 2 - 1
    with torch.no_grad():
        found = outputs_of(pair, x)
    assert found.published.shape == (2,)
    assert found.published.dtype == torch.float64
    assert found.published.min() > 0
    if name == "patch_svdd":
        assert found.reconstruction is None
        assert found.anomaly_map.shape == (2, size, size)
        return
    assert found.reconstruction.shape == x.shape
    assert found.reconstruction.abs().max() <= 1
    if name == "unet_autoencoder":
        assert found.features_x is None
    else:
        assert found.features_x.shape == found.features_reconstruction.shape
        assert not torch.equal(found.features_x, found.features_reconstruction)


@pytest.mark.parametrize("name", BASELINES)
def test_only_those_published_with_batch_normalisation_have_it(name):
    assert build_pair(tiny_spec(name), 0).normalises_batches == (name in BATCH_NORM)
    assert not build_pair(tiny_spec("dense_skip_gan"), 0).normalises_batches


@pytest.mark.parametrize("name", BASELINES)
def test_a_loaded_pair_equals_the_saved_one(name, tmp_path):
    pair = tiny_pair(name)
    save_pair(tmp_path / "pair", pair, {"seed": 0})
    loaded, record = load_pair(tmp_path / "pair")
    assert record == {"seed": 0}
    assert type(loaded) is SYSTEMS[name]
    assert not any(module.training for module in loaded.modules())
    assert pair_digest(loaded) == pair_digest(pair)
    files = {f"{network}.safetensors" for network in pair.networks()} | {"pair.json"}
    assert {path.name for path in (tmp_path / "pair").iterdir()} == files | (
        {"memory.safetensors"} if pair.has_memory else set()
    )
    save_pair(tmp_path / "again", loaded, record)
    assert digest_folder(tmp_path / "again") == digest_folder(tmp_path / "pair")


def test_keys_that_came_later_are_left_out_where_they_have_their_default():
    """Or the folder of every pair, and with it its digest, would be another than before there were baselines."""
    later = {"latent_channels": 7, "latent_search": {"steps": 9}, "patch_svdd": {"remembered": 5}}
    assert not ModelSection().model_dump().keys() & later.keys()
    assert not TrainSection().model_dump().keys() & {"adversarial", "gradient_penalty"}
    found = ModelSection.model_validate(later).model_dump()
    assert (found["latent_channels"], found["latent_search"]["steps"], found["patch_svdd"]["remembered"]) == (7, 9, 5)
    assert ModelSection.model_validate(found) == ModelSection.model_validate(later)


def test_a_candidate_may_override_a_key_that_is_left_out():
    candidate = Candidate(name="a", overrides={"model.latent_channels": 7, "train.adversarial": "wasserstein_gp"})
    model, train = candidate_sections(ModelSection(), TrainSection(), candidate)
    assert (model.latent_channels, train.adversarial) == (7, "wasserstein_gp")
    assert candidate_sections(ModelSection(), TrainSection(), Candidate(name="b"))[0] == ModelSection()


def test_a_patch_svdd_without_a_memory_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="memory was not fitted"):
        save_pair(tmp_path / "pair", build_pair(tiny_spec("patch_svdd"), 0), {})


@pytest.mark.parametrize("name", BASELINES)
def test_weights_are_a_function_of_spec_and_seed(name):
    before = torch.get_rng_state()
    one, same, other = (build_pair(tiny_spec(name), seed) for seed in (1, 1, 2))
    assert pair_digest(one) == pair_digest(same) != pair_digest(other)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.isfinite(parameter).all() for parameter in one.parameters())


@pytest.mark.parametrize("key", ["pointing", "self_supervision", "memory"])
def test_what_is_beyond_the_paper_belongs_to_its_pair_alone(key):
    value = True if key == "pointing" else {"enabled": True}
    with pytest.raises(ValueError, match=rf"{key}.*on, but the model is 'ganomaly'"):
        ModelSection.model_validate({"name": "ganomaly", key: value})
