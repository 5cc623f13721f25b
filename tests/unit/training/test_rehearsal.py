"""Warm starts: which patches a batch has, whose weights it begins with, and what does not fit."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.training.make_patches import SPEC, train_section, write_patches
from vigil.errors import ConfigError
from vigil.images.dataset import BatchOrder
from vigil.networks.pair import build_pair, save_pair
from vigil.training.loop import train_candidate
from vigil.training.recorder import MemoryRecorder
from vigil.training.rehearsal import Sources, WarmStart, rehearsed_per_batch

PROJECT = Path(__file__).parents[3]
PARENT = {"version": 3, "bundle": "b" * 64, "rehearsal": "r" * 64}
OLD = np.random.default_rng(5).integers(0, 256, (6, 32, 32, 1), np.uint8)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return write_patches(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent") / "pair"
    save_pair(folder, build_pair(SPEC, 99), {})
    return folder


def warm(parent, share=0.5, old=OLD):
    return WarmStart(parent, PARENT, share, old)


def same_weights(one, other):
    return all(
        torch.equal(a, b)
        for mine, theirs in ((one.generator, other.generator), (one.discriminator, other.discriminator))
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(("share", "batch", "expected"), [(0.0, 8, 0), (0.01, 8, 1), (0.5, 8, 4), (0.3, 4, 1)])
def test_share_of_a_batch(share, batch, expected):
    assert rehearsed_per_batch(share, batch) == expected


def test_without_old_patches_the_order_is_that_of_a_run_from_scratch(patches, parent):
    for start in (None, warm(parent, old=None), warm(parent, share=0.0)):
        sources = Sources(patches, start, 4, 7)
        order = BatchOrder(len(patches), 7)
        for seen in range(0, 24, 4):
            np.testing.assert_array_equal(sources.batch(seen), order.indices(seen, 4))


def test_every_batch_has_its_share_and_every_patch_its_turn(patches, parent):
    sources = Sources(patches, warm(parent), 4, 7)
    assert len(sources) == len(patches) + len(OLD) == 16
    rows = [sources.batch(seen) for seen in range(0, 120, 4)]  # 60 of each: six passes of the new, ten of the old
    for batch in rows:
        assert (batch >= len(patches)).sum() == 2
    assert set(Counter(np.concatenate(rows).tolist()).values()) == {6, 10}
    first_places = [tuple(batch[:2] >= len(patches)) for batch in rows]
    assert len(set(first_places)) > 2, "old patches always lie in the same places, so a device would see one kind alone"
    np.testing.assert_array_equal(Sources(patches, warm(parent), 4, 7).batch(60), rows[15])


def test_rows_are_read_from_where_they_lie(patches, parent):
    sources = Sources(patches, warm(parent), 4, 7)
    read = sources.read(np.array([12, 0, 15, 9]))
    for found, expected in zip(read, (OLD[2], patches.read([0])[0], OLD[5], patches.read([9])[0]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_donors_come_from_both_with_the_same_share(patches, parent):
    alone = np.concatenate([Sources(patches, None, 4, 7).others("donors", seen) for seen in range(0, 400, 4)])
    both = np.concatenate([Sources(patches, warm(parent), 4, 7).others("donors", seen) for seen in range(0, 400, 4)])
    assert alone.max() == len(patches) - 1
    assert 0.4 < (both >= len(patches)).mean() < 0.6


@pytest.mark.parametrize("objective", ["reconstruct", "restore"])
def test_old_patches_and_the_parents_weights_both_matter(patches, parent, tmp_path, objective):
    train = train_section(epochs=1, objective=objective)

    def run(name, start):
        return train_candidate(SPEC, train, 7, patches, tmp_path / name, MemoryRecorder(), start)

    rehearsed = run("rehearsed", warm(parent))
    assert same_weights(rehearsed, run("again", warm(parent)))
    assert not same_weights(rehearsed, run("alone", warm(parent, share=0.0)))
    assert not same_weights(run("warm", warm(parent, old=None)), run("cold", None))


def test_a_warm_start_begins_with_the_parents_weights(patches, parent, tmp_path):
    train = train_section(epochs=0.1, learning_rate=1e-12)
    pair = train_candidate(SPEC, train, 7, patches, tmp_path, MemoryRecorder(), warm(parent))
    for mine, theirs in zip(pair.generator.parameters(), build_pair(SPEC, 99).generator.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


KILLED = """
import sys
import time
from pathlib import Path
from tests.unit.training.make_patches import SPEC, train_section
from tests.unit.training.test_rehearsal import warm
from vigil.images.shards import PatchShards
from vigil.training import loop
from vigil.training.recorder import MemoryRecorder
real = loop.training_step
def slowed(*args):
    print("step", flush=True)
    time.sleep(0.05)
    return real(*args)
loop.training_step = slowed
train = train_section(epochs=4, checkpoint_every_images=8, objective="restore")
patches = PatchShards.open(Path(sys.argv[1]))
loop.train_candidate(SPEC, train, 7, patches, Path(sys.argv[2]), MemoryRecorder(), warm(Path(sys.argv[3])))
"""


def test_a_warm_run_that_is_killed_ends_like_an_uninterrupted_one(patches, parent, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    command = [sys.executable, "-W", "error", "-c", KILLED, str(patches.folder), str(tmp_path / "work"), str(parent)]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'src'}{os.pathsep}{PROJECT}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(6):
            assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGKILL)
    (checkpoint,) = (tmp_path / "work").glob("*/checkpoint-*")
    assert checkpoint.name in ("checkpoint-000000000008", "checkpoint-000000000016")
    train = train_section(epochs=4, checkpoint_every_images=8, objective="restore")
    try:
        resumed = train_candidate(SPEC, train, 7, patches, tmp_path / "work", MemoryRecorder(), warm(parent))
        whole = train_candidate(SPEC, train, 7, patches, tmp_path / "whole", MemoryRecorder(), warm(parent))
    finally:
        torch.set_num_threads(threads)
    assert same_weights(resumed, whole)


def test_another_parent_or_share_is_another_run(patches, parent, tmp_path):
    for start in (None, warm(parent), warm(parent, share=0.25), warm(parent, old=None)):
        train_candidate(SPEC, train_section(epochs=0.4), 7, patches, tmp_path, MemoryRecorder(), start)
    assert len(list(tmp_path.iterdir())) == 4


def test_another_architecture_is_refused_key_by_key(patches, parent, tmp_path):
    model = SPEC.model.model_copy(update={"base_width": 8, "feature_channels": 16})
    spec = SPEC.model_copy(update={"model": model})
    expected = (
        r"version 3 has another architecture .* model.base_width was 4, is 8; model.feature_channels was 8, is 16"
    )
    with pytest.raises(ConfigError, match=expected):
        train_candidate(spec, train_section(), 7, patches, tmp_path, MemoryRecorder(), warm(parent))
    assert not list(tmp_path.iterdir())


def test_a_share_that_leaves_no_new_patch_is_refused(patches, parent, tmp_path):
    with pytest.raises(ConfigError, match=r"rehearsal_share 0.9 of train.batch_size 4 leaves no place for a new patch"):
        train_candidate(SPEC, train_section(), 7, patches, tmp_path, MemoryRecorder(), warm(parent, share=0.9))
