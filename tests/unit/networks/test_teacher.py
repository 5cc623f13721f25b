"""The frozen teacher: the features of a ResNet-18, whatever happens around it, and no other file passes for one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.resnet18_weights import random_resnet18, write_resnet18
from vigil.errors import CheckpointError, ConfigError
from vigil.networks.teacher import ResNet18Features, read_teacher


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_resnet18()


@pytest.fixture(scope="module")
def teacher(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> ResNet18Features:
    return read_teacher(write_resnet18(tmp_path_factory.mktemp("teacher") / "resnet18.safetensors", weights))[0]


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


def plainly(w: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The three stages in plain functional operations."""

    def normalised(name: str, values: Tensor) -> Tensor:
        mean, variance, scale, shift = (
            w[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (values - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    pixels = (x + 1) / 2
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    values = normalised("bn1", functional.conv2d(pixels, w["conv1.weight"], stride=2, padding=3)).clamp(min=0)
    values = functional.max_pool2d(values, 3, 2, 1)
    found = []
    for stage in (1, 2, 3):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = functional.conv2d(values, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            inner = functional.conv2d(
                normalised(f"{name}.bn1", inner).clamp(min=0), w[f"{name}.conv2.weight"], padding=1
            )
            if stride == 2:
                values = functional.conv2d(values, w[f"{name}.downsample.0.weight"], stride=2)
                values = normalised(f"{name}.downsample.1", values)
            values = (normalised(f"{name}.bn2", inner) + values).clamp(min=0)
        found.append(values)
    return found


def test_the_features_are_those_of_plain_operations(
    teacher: ResNet18Features, weights: dict[str, Tensor], x: Tensor
) -> None:
    found, expected = teacher(x), plainly(weights, x)
    assert [tuple(f.shape) for f in found] == [(2, 64, 16, 12), (2, 128, 8, 6), (2, 256, 4, 3)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_grey_patches_count_as_colour_ones_with_equal_channels(teacher: ResNet18Features, x: Tensor) -> None:
    grey = x[:, :1]
    for one, other in zip(teacher(grey), teacher(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(one, other)


def test_it_stays_in_evaluation_mode_and_frozen(teacher: ResNet18Features, x: Tensor) -> None:
    before = teacher(x)[2]
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    moving = x.clone().requires_grad_()
    teacher(moving)[2].sum().backward()
    assert moving.grad is not None
    assert moving.grad.abs().sum() > 0
    assert torch.equal(teacher(x)[2], before)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer2.0.bn1.running_var"), "'layer2.0.bn1.running_var' is missing"),
        (lambda t: {**t, "layer1.2.conv1.weight": torch.zeros(1)}, "'layer1.2.conv1.weight' is unknown"),
        (lambda t: {**t, "conv1.weight": torch.zeros(64, 3, 3, 3)}, r"'conv1.weight' is torch.float32 \(64, 3, 3, 3\)"),
        (lambda t: {**t, "bn1.bias": t["bn1.bias"].half()}, "'bn1.bias' is torch.float16"),
        (lambda t: {**t, "bn1.bias": t["bn1.bias"] * torch.nan}, "'bn1.bias' holds values that are not finite"),
        (lambda t: {"weight": torch.zeros(3)}, "and .* more. Give train.teacher.weights such a file"),
    ],
)
def test_weights_of_another_network_are_refused(
    weights: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    path = write_resnet18(tmp_path / "other.safetensors", change(weights))
    with pytest.raises(CheckpointError, match=message):
        read_teacher(path)


def test_a_missing_a_damaged_a_pickled_and_a_changed_file_are_refused(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"train\.teacher\.weights: .*none\.safetensors cannot be read"):
        read_teacher(tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_teacher(tmp_path)
    path = write_resnet18(tmp_path / "resnet18.safetensors", weights)
    whole, digest = path.read_bytes(), read_teacher(path)[1]
    for content in (b"", whole[:5000], whole[:-1], b"\xff" * 64, pickle.dumps({"conv1.weight": [1.0]})):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            read_teacher(path)
    path.write_bytes(whole)
    assert read_teacher(path, digest)[1] == digest
    with pytest.raises(CheckpointError, match="changed while the run was under way"):
        read_teacher(path, "0" * 64)
