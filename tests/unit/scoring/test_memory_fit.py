"""The memory: fitted on training patches, stored with the pair, equal to scikit-learn's distance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from tests.tiny_systems import tiny_spec
from tests.unit.training.make_patches import SPEC, write_patches
from vigil.config import ModelSection, PatchSvddSection
from vigil.errors import CheckpointError, TrainingDiverged
from vigil.files import digest_folder
from vigil.images.dataset import to_tensor
from vigil.images.shards import PatchShards
from vigil.networks.baselines.patch_svdd import EmbeddingMemory
from vigil.networks.pair import Pair, build_pair, load_pair, save_pair
from vigil.scoring.memory_fit import fit_memory
from vigil.scoring.scorer import pair_digest, score_patches
from vigil.seeding import numpy_generator


def remembering(features: str) -> Pair:
    values = SPEC.model.model_dump() | {
        "self_supervision": {"enabled": features == "self_supervision", "width": 8},
        "memory": {"enabled": True, "features": features, "fitted_patches": 50},
    }
    return build_pair(SPEC.model_copy(update={"model": ModelSection.model_validate(values)}), 0).eval()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> PatchShards:
    return write_patches(tmp_path_factory.mktemp("patches"), count=60)


@pytest.mark.parametrize("features", ["discriminator", "self_supervision"])
def test_the_distance_is_that_of_scikit_learn(features: str, shards: PatchShards) -> None:
    pair = remembering(features)
    fit_memory(pair, shards, seed=0, device="cpu")
    assert pair.memory is not None
    every = shards.read(np.arange(60))
    found = score_patches(pair, every, device="cpu", batch_size=16).memory
    assert found is not None
    with torch.no_grad():
        features_of = pair.remembered(to_tensor(every)).double().numpy()
    chosen = np.sort(numpy_generator(0, "memory").permutation(shards.rows_of("grid"))[:50])
    squares = [
        LedoitWolf().fit(features_of[chosen, slot]).mahalanobis(features_of[:, slot]) / features_of.shape[2]
        for slot in range(features_of.shape[1])
    ]
    np.testing.assert_allclose(found, np.sqrt(np.mean(squares, axis=0)), rtol=2e-3)


def test_a_patch_unlike_training_is_far_and_normal_ones_are_near_one(shards: PatchShards) -> None:
    pair = remembering("discriminator")
    fit_memory(pair, shards, seed=0, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    near = score_patches(pair, shards.read(np.arange(60)), device="cpu", batch_size=16).memory
    far = score_patches(pair, noise, device="cpu", batch_size=16).memory
    assert near is not None
    assert far is not None
    assert 0.2 < np.median(near) < 2
    assert far.min() > 3 * near.max()


def test_rehearsed_patches_stay_near(shards: PatchShards) -> None:
    """Earlier data that look otherwise are far from a memory of the new data alone, and near where they had a share."""
    old = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), dtype=np.uint8)
    distances = []
    for share in (0.0, 0.5):
        pair = remembering("discriminator")
        fit_memory(pair, shards, seed=0, device="cpu", old=old[:30], old_share=share)
        found = score_patches(pair, old[30:], device="cpu", batch_size=16).memory
        assert found is not None
        distances.append(np.median(found))
    alone, shared = distances
    assert shared < 3
    assert alone > 2 * shared


def test_the_memory_travels_with_the_pair_and_equal_fits_give_equal_bytes(shards: PatchShards, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pair = remembering("self_supervision")
        fit_memory(pair, shards, seed=0, device="cpu")
        save_pair(tmp_path / name, pair, {})
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")
    assert (tmp_path / "one" / "memory.safetensors").is_file()
    loaded, _ = load_pair(tmp_path / "one")
    assert pair_digest(loaded) == pair_digest(pair)
    patches = shards.read(np.arange(5))
    stored, own = (score_patches(p, patches, device="cpu", batch_size=5).memory for p in (loaded, pair))
    assert stored is not None
    assert own is not None
    assert np.array_equal(stored, own)


def test_another_memory_is_another_pair(shards: PatchShards) -> None:
    pair = remembering("discriminator")
    fit_memory(pair, shards, seed=0, device="cpu")
    before = pair_digest(pair)
    fit_memory(pair, shards, seed=1, device="cpu")
    assert pair_digest(pair) != before


def test_a_pair_without_its_memory_is_neither_written_nor_read(shards: PatchShards, tmp_path: Path) -> None:
    pair = remembering("discriminator")
    with pytest.raises(CheckpointError, match="the pair's memory was not fitted"):
        save_pair(tmp_path / "pair", pair, {})
    assert not (tmp_path / "pair").exists()
    fit_memory(pair, shards, seed=0, device="cpu")
    assert pair.memory is not None
    pair.memory.mean[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        save_pair(tmp_path / "pair", pair, {})


def test_features_that_are_all_equal_or_no_numbers_make_no_memory(shards: PatchShards) -> None:
    for value in (0.0, float("nan")):
        pair = remembering("discriminator")
        with torch.no_grad():
            for parameter in pair.discriminator.parameters():
                parameter.fill_(value)
        with pytest.raises(TrainingDiverged, match="needs finite features that differ"):
            fit_memory(pair, shards, seed=0, device="cpu")


def test_a_model_without_memory_is_left_alone(shards: PatchShards) -> None:
    pair = build_pair(SPEC, 0)
    fit_memory(pair, shards, seed=0, device="cpu")
    assert pair.memory is None


def test_patch_svdd_remembers_embeddings_of_windows_of_training_patches(shards: PatchShards, tmp_path: Path) -> None:
    pair = build_pair(tiny_spec("patch_svdd"), 0).eval()
    fit_memory(pair, shards, seed=0, device="cpu")
    assert isinstance(pair.memory, EmbeddingMemory)
    with torch.no_grad():
        found = pair.remembered(to_tensor(shards.read(shards.rows_of("grid")))).flatten(0, 1)
    for room in (pair.memory.small, pair.memory.large):
        assert room.shape == (40, 8)
        assert len(torch.unique(room, dim=0)) > 30  # of many patches and windows
        assert torch.cdist(room.double(), found.double()).amin(dim=1).max() < 1e-5
    again = build_pair(tiny_spec("patch_svdd"), 0).eval()
    fit_memory(again, shards, seed=0, device="cpu")
    assert pair_digest(again) == pair_digest(pair)
    fit_memory(again, shards, seed=1, device="cpu")
    assert pair_digest(again) != pair_digest(pair)
    save_pair(tmp_path / "pair", pair, {})
    assert pair_digest(load_pair(tmp_path / "pair")[0]) == pair_digest(pair)


def test_patch_svdds_score_is_near_nothing_on_what_it_remembers(shards: PatchShards) -> None:
    pair = build_pair(tiny_spec("patch_svdd", patch_svdd=PatchSvddSection(remembered=4000)), 0).eval()
    fit_memory(pair, shards, seed=0, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    near, far = (
        score_patches(pair, patches, device="cpu", batch_size=16).published
        for patches in (shards.read(np.arange(8)), noise)
    )
    assert near is not None
    assert far is not None
    assert near.max() < 0.2 * far.min()
