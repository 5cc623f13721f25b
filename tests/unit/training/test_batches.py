"""Batches on the host: the same ones whoever makes them, and each process's share of them."""

from pathlib import Path

import pytest
import torch

from tests.unit.training.make_patches import SPEC, train_section, write_patches
from vigil.errors import DataError
from vigil.images.shards import PATCHES, PatchShards, bucket_file
from vigil.training.batches import BatchMaker, batches_in_order
from vigil.training.loop import train_candidate
from vigil.training.plan import resolve_workers
from vigil.training.recorder import MemoryRecorder
from vigil.training.rehearsal import Sources

RESTORE = train_section(objective="restore", quarter_turns=True, photometric_share=0.5)
POINTING = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"pointing": True, "pointing_width": 4})})


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return write_patches(tmp_path_factory.mktemp("patches"))


def maker(patches, train=RESTORE, process=0, processes=1):
    return BatchMaker(Sources(patches, None, train.batch_size, 7), train, 7, process, processes)


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_is_bytes_and_its_stamps_are_where_it_says(patches):
    batch = maker(patches)[8]
    assert (batch.pixels.dtype, batch.corrupted.dtype, batch.anomalous.dtype) == (torch.uint8, torch.uint8, torch.bool)
    assert batch.pixels.shape == batch.corrupted.shape == (4, 32, 32, 1)
    assert batch.anomalous.shape == (4, 32, 32)
    assert (batch.pixels != batch.corrupted).any()
    assert (batch.pixels != batch.corrupted)[..., 0][batch.anomalous].float().mean() > 0.9


def test_the_generator_meets_patches_and_their_stamped_copies_shown_alike(patches):
    train = train_section(objective="restore", photometric_share=1.0, generator_share=0.5)
    plain = maker(patches, train_section(objective="restore", generator_share=0.5))
    for images_seen, plays in ((0, True), (4, False), (8, True), (12, False)):
        batch, before = maker(patches, train)[images_seen], plain[images_seen]
        assert (batch.corrupted != before.corrupted).float().mean() > 0.5
        alike = (batch.pixels == batch.corrupted)[..., 0][~batch.anomalous].float().mean()
        assert alike > 0.8 if plays else alike < 0.5
        assert torch.equal(batch.pixels, before.pixels) is not plays, "what nobody looks at is not changed"


def test_the_wide_range_shows_patches_otherwise_than_the_narrow_one(patches):
    narrow, wide = (
        maker(patches, train_section(objective="restore", photometric_share=1.0, photometric_range=name))[0]
        for name in ("narrow", "wide")
    )
    assert torch.equal(narrow.anomalous, wide.anomalous)
    assert (narrow.corrupted != wide.corrupted).float().mean() > 0.2


def test_nothing_is_stamped_where_the_objective_is_to_reconstruct(patches):
    batch = maker(patches, train_section())[0]
    assert batch.pixels.shape == (4, 32, 32, 1)
    assert (batch.corrupted, batch.anomalous) == (None, None)


def test_other_processes_make_the_same_batches_in_the_same_order(patches):
    here = list(batches_in_order(maker(patches), 4, 24, workers=0))
    assert len(here) == 5
    assert_same(list(batches_in_order(maker(patches), 4, 24, workers=2)), here)


def test_the_batches_do_not_depend_on_where_one_starts(patches):
    assert_same(
        list(batches_in_order(maker(patches), 12, 24, workers=0)),
        list(batches_in_order(maker(patches), 0, 24, workers=0))[3:],
    )


def test_making_batches_leaves_the_common_random_numbers_alone(patches):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(batches_in_order(maker(patches), 0, 8, workers=0))
    assert torch.equal(torch.rand(2), expected)


def test_processes_share_a_batch_between_them(patches):
    whole, shares = maker(patches)[4], [maker(patches, process=i, processes=2)[4] for i in (0, 1)]
    for field in ("pixels", "corrupted", "anomalous"):
        mixed = torch.empty_like(getattr(whole, field))
        for i, share in enumerate(shares):
            mixed[i::2] = getattr(share, field)
        assert torch.equal(mixed, getattr(whole, field))


def test_a_run_with_workers_ends_with_the_weights_of_one_without(patches, tmp_path):
    def weights(name, workers):
        train = RESTORE.model_copy(update={"workers": workers})
        pair = train_candidate(POINTING, train, 7, patches, tmp_path / name, MemoryRecorder())
        return {f"{n}.{k}": t for n, network in pair.networks().items() for k, t in network.state_dict().items()}

    alone, helped = weights("alone", 0), weights("helped", 1)
    assert [k for k in alone if not torch.equal(alone[k], helped[k])] == []
    # The same run: what was finished with workers is read back without them.
    assert len({path.name for name in ("alone", "helped") for path in (tmp_path / name).iterdir()}) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_what_goes_wrong_is_said_in_one_line_whoever_makes_the_batches(tmp_path, workers):
    shards = write_patches(tmp_path / "damaged")
    batches = maker(PatchShards.open(shards.folder))
    damaged = bucket_file(Path(shards.folder), shards.buckets[0], PATCHES)
    damaged.write_bytes(b"no shard")
    with pytest.raises(DataError) as caught:
        list(batches_in_order(batches, 0, 12, workers))
    assert str(caught.value).startswith(f"{damaged}: not a whole shard")
    assert "\n" not in str(caught.value)


def test_auto_gives_workers_to_a_gpu_where_stamps_are_made(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert resolve_workers(RESTORE, "cuda") == 15
    assert resolve_workers(RESTORE.model_copy(update={"devices": 4}), "cuda") == 3
    assert resolve_workers(RESTORE.model_copy(update={"devices": 32}), "cuda") == 1
    assert resolve_workers(RESTORE, "cpu") == 0
    assert resolve_workers(train_section(), "cuda") == 0
    assert resolve_workers(RESTORE.model_copy(update={"workers": 2}), "cpu") == 2
