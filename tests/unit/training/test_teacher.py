"""Training with a frozen teacher: what it moves, what names the run, and that it is off unless asked for."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from tests.resnet18_weights import random_resnet18, write_resnet18
from tests.unit.training.make_patches import SPEC, train_section, write_patches
from vigil.config import Candidate, LossWeights, TrainSection, candidate_sections
from vigil.errors import CheckpointError, ConfigError
from vigil.images.shards import PatchShards
from vigil.networks.pair import build_pair
from vigil.networks.teacher import read_teacher
from vigil.training.loop import train_candidate
from vigil.training.plan import make_plan
from vigil.training.recorder import MemoryRecorder
from vigil.training.steps import Players, Teaching, generator_step, make_players

NOTHING_ELSE = LossWeights(adversarial=0, contextual=0, latent=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resnet18(tmp_path_factory.mktemp("teacher") / "resnet18.safetensors")


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> PatchShards:
    return write_patches(tmp_path_factory.mktemp("patches"))


def taught(weights: Path, weight: float = 1.0) -> Players:
    players = make_players(build_pair(SPEC, 0).train(), train_section())
    players.teaching = Teaching(read_teacher(weights)[0], weight)
    return players


def x() -> Tensor:
    return torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_feature_loss_moves_the_generator_alone(weights: Path) -> None:
    fabric, players = Fabric(accelerator="cpu", devices=1), taught(weights)
    assert players.teaching is not None
    teacher = copy.deepcopy(players.teaching.network.state_dict())
    discriminator = copy.deepcopy(players.pair.discriminator.state_dict())
    before = {k: v.detach().clone() for k, v in players.pair.generator.named_parameters()}
    step = generator_step(fabric, players, x(), players.pair.generator(x()), NOTHING_ELSE)
    assert 0 < step.loss < 2
    assert (step.adversarial, step.latent) == (0, 0)
    assert all(not torch.equal(before[k], v) for k, v in players.pair.generator.named_parameters())
    for network, state in ((players.teaching.network, teacher), (players.pair.discriminator, discriminator)):
        assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in players.teaching.network.parameters())


def test_it_is_added_to_the_other_losses_with_its_weight(weights: Path) -> None:
    fabric, losses = Fabric(accelerator="cpu", devices=1), {}
    for weight in (None, 0.5, 2.0):
        players = taught(weights, weight or 1.0)
        players.teaching = players.teaching if weight else None
        losses[weight] = generator_step(fabric, players, x(), players.pair.generator(x()), LossWeights()).loss
    feature = (losses[0.5] - losses[None]) / 0.5
    assert feature > 0.01
    assert losses[2.0] == pytest.approx(losses[None] + 2 * feature, rel=1e-4)


def test_a_run_is_named_by_the_weights_and_not_by_their_place(
    weights: Path, patches: PatchShards, tmp_path: Path
) -> None:
    def run(path: Path, weight: float = 1.0) -> Path:
        train = train_section(teacher={"weights": str(path), "weight": weight})
        return make_plan(SPEC, train, 0, patches, tmp_path).folder

    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_bytes(weights.read_bytes())
    other = write_resnet18(tmp_path / "other.safetensors", random_resnet18(1))
    assert run(weights) == run(elsewhere)
    without = make_plan(SPEC, train_section(), 0, patches, tmp_path).folder
    assert len({run(weights), run(other), run(weights, 0.5), without}) == 4


def test_a_taught_run_resumes_to_the_same_weights_and_differs_from_one_without(
    weights: Path, patches: PatchShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = train_section(teacher={"weights": str(weights)})
    whole = train_candidate(SPEC, train, 7, patches, tmp_path / "whole", MemoryRecorder())

    class Stop(Exception):
        pass

    steps = 0

    def stopping(*args: object, **kwargs: object) -> object:
        nonlocal steps
        steps += 1
        if steps > 4:
            raise Stop
        return generator_step(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr("vigil.training.steps.generator_step", stopping)
        with pytest.raises(Stop):
            train_candidate(SPEC, train, 7, patches, tmp_path / "cut", MemoryRecorder())
    resumed = train_candidate(SPEC, train, 7, patches, tmp_path / "cut", MemoryRecorder())
    plain = train_candidate(SPEC, train_section(), 7, patches, tmp_path / "plain", MemoryRecorder())
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(resumed.generator.state_dict()[name], value), name
    assert not torch.equal(whole.generator.output.weight, plain.generator.output.weight)


def test_bad_weights_stop_the_run_before_it_starts(patches: PatchShards, tmp_path: Path) -> None:
    work, path = tmp_path / "work", tmp_path / "resnet18.safetensors"
    train = train_section(teacher={"weights": str(path)})
    with pytest.raises(ConfigError, match="cannot be read"):
        train_candidate(SPEC, train, 0, patches, work, MemoryRecorder())
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        train_candidate(SPEC, train, 0, patches, work, MemoryRecorder())
    assert not work.exists()


def test_without_a_teacher_nothing_of_it_is_recorded_and_a_candidate_can_have_one() -> None:
    assert "teacher" not in TrainSection().model_dump(mode="json")
    override = {"train.teacher": {"weights": "resnet18.safetensors", "weight": 0.1}}
    _, own = candidate_sections(SPEC.model, TrainSection(), Candidate(name="taught", overrides=override))
    assert own.teacher is not None
    assert own.model_dump(mode="json")["teacher"] == {"weights": "resnet18.safetensors", "weight": 0.1}
