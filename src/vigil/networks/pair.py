"""How a pair is built, and its folder on disk.

models/pair/generator.safetensors  discriminator.safetensors  [memory.safetensors]
            pair.json (version, spec, record, checksums)

A system with other networks has a file for each of them, named as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from vigil.config import explain
from vigil.errors import CheckpointError
from vigil.networks.registry import SYSTEMS
from vigil.networks.system import Pair, PairOutputs, PairSpec
from vigil.networks.weights_folder import load_weights, read_weights_folder, write_weights_folder
from vigil.seeding import torch_generator

__all__ = ["Pair", "PairOutputs", "PairSpec", "build_pair", "load_pair", "save_pair"]

PAIR_VERSION = 1
_DOCUMENT = "pair"


def build_pair(spec: PairSpec, seed: int) -> Pair:
    """A new pair in training mode on the CPU, its weights a function of `spec` and `seed` alone.

    torch's global random state is left as it was.

    Raises:
        ConfigError: The model asks for something that the networks cannot be built with.
    """
    pair = _empty_pair(spec)
    for name, network in pair.networks().items():
        pair.draw_weights(network, torch_generator(seed, f"{name} weights"))
    return pair


def save_pair(folder: Path, pair: Pair, record: dict[str, Any]) -> None:
    """Writes the pair, aside then renamed; equal weights and record give equal bytes.

    Args:
        record: What is to be known of the pair's making (JSON values).

    Raises:
        CheckpointError: A weight is not finite, or the model has a memory that was not fitted.
    """
    if pair.has_memory and pair.memory is None:
        raise CheckpointError(f"{folder}: the pair's memory was not fitted; run the train stage")
    content = {"spec": pair.spec.model_dump(mode="json"), "record": record}
    parts = {name: network.state_dict() for name, network in pair.networks().items()}
    if pair.memory is not None:
        parts["memory"] = pair.memory.state_dict()
    write_weights_folder(folder, _DOCUMENT, PAIR_VERSION, content, parts)


def load_pair(folder: Path) -> tuple[Pair, dict[str, Any]]:
    """The pair in evaluation mode on the CPU, and its record; every byte is verified first.

    Raises:
        CheckpointError: The folder is incomplete, damaged, of another version, or its weights do not fit its spec.
    """
    folder = Path(folder)
    content, parts = read_weights_folder(folder, _DOCUMENT, PAIR_VERSION)
    try:
        pair = _empty_pair(PairSpec.model_validate(content.get("spec")))
    except ValidationError as error:
        raise CheckpointError(explain(error, f"{folder / 'pair.json'}: spec")) from error
    for name, network in pair.networks().items():
        load_weights(network, parts.get(name, {}), folder / f"{name}.safetensors")
    if pair.has_memory:
        pair.memory = pair.new_memory()
        load_weights(pair.memory, parts.get("memory", {}), folder / "memory.safetensors")
    return pair.eval(), content.get("record", {})


def _empty_pair(spec: PairSpec) -> Pair:
    """A pair whose weights are still to be set."""
    with torch.random.fork_rng(devices=[]):  # constructors draw weights that nobody uses
        return SYSTEMS[spec.model.name](spec)
