"""Every baseline through the one loop: what it learns, who moves, and a resumed run that equals a whole one."""

import pytest
import torch
from lightning_fabric import Fabric

from tests.tiny_systems import BASELINES, BATCH_NORM, placed_patches, smooth_patches, tiny_spec
from tests.unit.training.make_patches import train_section, write_patches
from vigil.errors import ConfigError, TrainingDiverged
from vigil.networks.pair import build_pair
from vigil.scoring.scorer import pair_digest
from vigil.training import loop
from vigil.training.loop import train_candidate
from vigil.training.recorder import MemoryRecorder
from vigil.training.steps import Batch, make_players
from vigil.training.systems import training_step

FALLING = {
    "anogan": "discriminator_loss",
    "egbad": "discriminator_loss",
    "ganomaly": "contextual_loss",
    "skip_ganomaly": "contextual_loss",
    "dagan": "contextual_loss",
    "unet_autoencoder": "contextual_loss",
    "patch_svdd": "self_supervised_loss",
}
"""What must fall in a few steps on the same patches; a GAN without a reconstruction has the discriminator's alone."""


class Stop(Exception):
    """Ends a run from within, as a kill would."""


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return write_patches(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def batch(step: int, x: torch.Tensor) -> Batch:
    return Batch(x, None, None, 0, step * len(x), 0)


def steps_of(fabric, name, count):
    x = placed_patches(16) if name == "patch_svdd" else smooth_patches(16)
    spec = tiny_spec(name, channels=x.shape[1])
    players = make_players(build_pair(spec, 0).train(), train_section(learning_rate=2e-3))
    return players, [training_step(fabric, players, batch(n, x)) for n in range(count)]


@pytest.mark.parametrize("name", BASELINES)
def test_a_few_steps_lower_the_loss(fabric, name):
    _, losses = steps_of(fabric, name, 25)
    values = [getattr(step, FALLING[name]) for step in losses]
    if name in ("anogan", "egbad"):  # a game: what the discriminator gains, the generator takes back
        assert min(values) < 0.9 * values[0]
    else:
        assert sum(values[-3:]) < 0.9 * sum(values[:3])


@pytest.mark.parametrize("name", BASELINES)
def test_every_weight_moves_and_every_player_is_recorded(fabric, name):
    players, (losses,) = steps_of(fabric, name, 1)
    fresh = dict(build_pair(players.pair.spec, 0).named_parameters())
    still = [n for n, p in players.pair.named_parameters() if torch.equal(p, fresh[n])]
    assert still == []
    assert losses.generator_gradient_norm > 0
    assert (losses.discriminator_gradient_norm > 0) == ("discriminator" in players.pair.networks())
    assert all(parameter.requires_grad for parameter in players.pair.parameters())


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_not_finite_stops_the_run_before_that_player_moves(fabric, name):
    players = make_players(build_pair(tiny_spec(name), 0).train(), train_section())
    first = next(iter(players.pair.networks()))
    last = next(reversed(players.pair.networks()))
    before = {n: p.detach().clone() for n, p in players.pair.networks()[last].named_parameters()}
    with pytest.raises(TrainingDiverged, match="expected finite losses"):
        training_step(fabric, players, batch(0, torch.full((4, 1, 32, 32), float("nan"))))
    assert all(torch.equal(before[n], p) for n, p in players.pair.networks()[last].named_parameters())
    assert not players.optimizers[first].state


@pytest.mark.parametrize("name", BASELINES)
def test_a_stopped_run_goes_on_to_the_same_weights(name, patches, tmp_path, monkeypatch):
    spec, train = tiny_spec(name), train_section()
    whole, resumed = MemoryRecorder(), MemoryRecorder()
    expected = train_candidate(spec, train, 7, patches, tmp_path / "whole", whole)
    real, done = loop.training_step, []

    def counted(*args):
        if len(done) == 4:
            raise Stop
        done.append(1)
        return real(*args)

    monkeypatch.setattr(loop, "training_step", counted)
    with pytest.raises(Stop):
        train_candidate(spec, train, 7, patches, tmp_path / "parts", MemoryRecorder())
    monkeypatch.setattr(loop, "training_step", real)
    assert [p.name for p in (tmp_path / "parts").glob("*/checkpoint-*")] == ["checkpoint-000000000012"]
    found = train_candidate(spec, train, 7, patches, tmp_path / "parts", resumed)
    assert pair_digest(found) == pair_digest(expected) != pair_digest(build_pair(spec, 7))
    assert [s.generator_loss for s in resumed.steps] == [s.generator_loss for s in whole.steps]
    assert not any(module.training for module in found.modules())
    if name in BATCH_NORM:  # the running statistics are part of what is stored
        counts = {int(v) for k, v in found.state_dict().items() if k.endswith("num_batches_tracked")}
        assert min(counts) >= 5


@pytest.mark.parametrize("name", ["anogan", "patch_svdd"])
def test_a_steps_random_numbers_depend_on_the_images_seen_alone(fabric, name):
    x, seen = smooth_patches(4), []
    for images_seen in (8, 8, 12):
        players = make_players(build_pair(tiny_spec(name), 0).train(), train_section())
        seen.append(training_step(fabric, players, Batch(x, None, None, 0, images_seen, 0)))
    assert seen[0] == seen[1] != seen[2]


def test_batch_statistics_of_one_patch_are_refused_before_training(patches, tmp_path):
    train = train_section(batch_size=1)
    with pytest.raises(ConfigError, match=r"'dagan' normalises batches.*train\.batch_size 1.*raise the batch size"):
        train_candidate(tiny_spec("dagan"), train, 0, patches, tmp_path, MemoryRecorder())
    train_candidate(tiny_spec("unet_autoencoder"), train, 0, patches, tmp_path, MemoryRecorder())


@pytest.mark.parametrize("name", ["ganomaly", "patch_svdd"])
def test_a_baseline_trains_in_16_bits_too(fabric, name, patches, tmp_path):
    recorder = MemoryRecorder()
    train_candidate(tiny_spec(name), train_section(precision="bf16-mixed"), 0, patches, tmp_path, recorder)
    assert all(step.generator_loss > 0 for step in recorder.steps)
