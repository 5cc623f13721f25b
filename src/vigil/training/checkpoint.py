"""Checkpoints: everything that a run needs to go on as if it had never stopped.

    <folder>/checkpoint-000000008192/   generator  discriminator  generator_optimizer  discriminator_optimizer
                                        (.safetensors), checkpoint.json (run, images seen, record, checksums)

A system with other networks has two files for each of them, named as they are.

Randomness needs no state: it derives from the seed and the images seen.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vigil.errors import CheckpointError
from vigil.networks.pair import Pair
from vigil.networks.weights_folder import Tensors, load_weights, read_weights_folder, write_weights_folder
from vigil.training.recorder import StepRecord
from vigil.training.steps import Players

CHECKPOINT_VERSION = 1
_DOCUMENT = "checkpoint"


@dataclass(slots=True)
class RunState:
    """Where a run stands, beside weights and optimisers."""

    images_seen: int = 0
    rows: list[StepRecord] = field(default_factory=list)
    """All finished intervals."""
    interval_steps: int = 0
    """Steps of the interval that is under way."""
    interval_sums: dict[str, float] = field(default_factory=dict)
    """Sums of its losses and norms."""


def save_checkpoint(folder: Path, run: dict[str, Any], players: Players[Any], state: RunState) -> None:
    """Writes the newest checkpoint below `folder`, then removes older ones; one whole checkpoint exists at all times.

    Args:
        run: All settings, and the data's digest, that fix the run (JSON values).

    Raises:
        CheckpointError: A weight is not finite.
    """
    newest = Path(folder) / f"checkpoint-{state.images_seen:012d}"
    pair = players.pair
    networks = pair.networks()
    parts: dict[str, Tensors] = {name: network.state_dict() for name, network in networks.items()}
    parts |= {f"{name}_optimizer": _flat(networks[name], o) for name, o in players.optimizers.items()}
    content = {"run": run, "state": dataclasses.asdict(state)}
    write_weights_folder(newest, _DOCUMENT, CHECKPOINT_VERSION, content, parts)
    for path in _checkpoints(folder):
        if path != newest:
            shutil.rmtree(path)


def load_checkpoint(folder: Path, run: dict[str, Any], players: Players[Any]) -> RunState | None:
    """Puts the newest checkpoint below `folder` into `players`; None where there is none yet.

    Raises:
        CheckpointError: The checkpoint is damaged or belongs to a run with other settings or data.
    """
    found = _newest(folder, run)
    if found is None:
        return None
    path, content, parts = found
    _load_networks(path, parts, players.pair)
    for name, network in players.pair.networks().items():
        file = f"{name}_optimizer"
        _unflatten(network, players.optimizers[name], parts.get(file, {}), path / f"{file}.safetensors")
    return _state(content)


def load_result(folder: Path, run: dict[str, Any], pair: Pair) -> RunState | None:
    """Like `load_checkpoint`, the networks alone."""
    found = _newest(folder, run)
    if found is None:
        return None
    path, content, parts = found
    _load_networks(path, parts, pair)
    return _state(content)


def _load_networks(path: Path, parts: dict[str, Tensors], pair: Pair) -> None:
    """Copies the weights of all networks into `pair`."""
    for name, network in pair.networks().items():
        load_weights(network, parts.get(name, {}), path / f"{name}.safetensors")


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run was writing."""
    for path in Path(folder).glob(".checkpoint-*.aside-*"):
        shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("checkpoint-*"))


def _newest(folder: Path, run: dict[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Tensors]] | None:
    """The newest checkpoint, verified: its path, content and tensors."""
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    path = checkpoints[-1]
    content, parts = read_weights_folder(path, _DOCUMENT, CHECKPOINT_VERSION)
    wrong = differences(content["run"], run)
    if wrong:
        raise CheckpointError(
            f"{path}: the checkpoint belongs to another run: {'; '.join(wrong)}. Delete {folder} to train anew."
        )
    return path, content, parts


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Each setting in which two trees of settings differ, e.g. `model.depth was 3, is 4`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted(found.keys() | expected.keys())
        return [d for k in keys for d in differences(found.get(k), expected.get(k), f"{where}.{k}".lstrip("."))]
    return [] if found == expected else [f"{where} was {found!r}, is {expected!r}"]


def _state(content: dict[str, Any]) -> RunState:
    state = content["state"]
    return RunState(**{**state, "rows": [StepRecord(**row) for row in state["rows"]]})


def _flat(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, named `<parameter>/<entry>`."""
    return {
        f"{name}/{entry}": tensor
        for name, parameter in network.named_parameters()
        for entry, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def _unflatten(network: nn.Module, optimizer: Optimizer, tensors: Tensors, path: Path) -> None:
    """The inverse of `_flat`."""
    state: dict[int, dict[str, Tensor]] = {}
    known = {name: (number, parameter) for number, (name, parameter) in enumerate(network.named_parameters())}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        number, parameter = known.get(name, (-1, torch.empty(0)))
        if number < 0 or tensor.shape not in (parameter.shape, torch.Size([])):
            raise CheckpointError(
                f"{path}: '{key}' {list(tensor.shape)} fits no parameter. Delete {path.parent.parent} to train anew."
            )
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        state.setdefault(number, {})[entry] = tensor.contiguous(memory_format=layout)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
