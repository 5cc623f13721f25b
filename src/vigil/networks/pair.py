"""The pair of generator and discriminator: how it is built, what it puts out, and its folder on disk.

models/pair/generator.safetensors  discriminator.safetensors  [memory.safetensors]
            pair.json (version, spec, record, checksums)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ValidationError, model_validator
from torch import Tensor

from vigil.config import ModelSection, Section, explain
from vigil.errors import CheckpointError
from vigil.networks.discriminator import AttentionDiscriminator
from vigil.networks.generator import DenseSkipGenerator
from vigil.networks.initialization import initialize
from vigil.networks.memory import Memory
from vigil.networks.self_supervision import turn_outputs
from vigil.networks.weights_folder import load_weights, read_weights_folder, write_weights_folder
from vigil.seeding import torch_generator

PAIR_VERSION = 1
_DOCUMENT = "pair"


class PairSpec(Section):
    """Everything that fixes the shapes of a pair's networks."""

    channels: Literal[1, 3]
    patch_size_px: Literal[32, 64, 128, 256]
    model: ModelSection

    @model_validator(mode="after")
    def _depth_fits(self) -> PairSpec:
        if self.patch_size_px % 2**self.model.depth:
            raise ValueError(
                f"patch_size_px ({self.patch_size_px}) is not a multiple of 2**model.depth ({2**self.model.depth}); "
                f"lower model.depth"
            )
        if self.model.outer_rows_without_skips > self.model.depth:
            raise ValueError(
                f"model.outer_rows_without_skips ({self.model.outer_rows_without_skips}) is larger than model.depth "
                f"({self.model.depth}); {self.model.depth} leaves out every skip"
            )
        return self


@dataclass(slots=True)
class Pair:
    """A generator and a discriminator that belong together."""

    spec: PairSpec
    generator: DenseSkipGenerator
    discriminator: AttentionDiscriminator
    memory: Memory | None = None
    """Of the discriminator's features; None where the model has none, and before it is fitted."""

    def to(self, device: torch.device | str) -> Pair:
        """Moves both networks and the memory to `device` and returns the pair."""
        self.generator.to(device)
        self.discriminator.to(device)
        if self.memory is not None:
            self.memory.to(device)
        return self

    def eval(self) -> Pair:
        """Sets evaluation mode, in which the spectral norms' power iterations stand still; returns the pair."""
        return self.train(False)

    def train(self, mode: bool = True) -> Pair:
        """Sets training mode (or, with False, evaluation mode) and returns the pair."""
        self.generator.train(mode)
        self.discriminator.train(mode)
        return self


class PairOutputs(NamedTuple):
    """What a pair makes of a batch x [B, C, P, P]."""

    reconstruction: Tensor
    """x^ [B, C, P, P] float32 in [-1, 1]."""
    features_x: Tensor
    """f(x) [B, F, h, w] float32."""
    features_reconstruction: Tensor
    """f(x^) [B, F, h, w] float32."""
    pointing: Tensor | None
    """Logits [B, P, P] of the pointing decoder, averaged over its views; None where the pair has none."""
    self_supervision: Tensor | None = None
    """[B] float32, the self-supervised loss over all four turns, nats; None where the pair has no such trunk."""
    memory: Tensor | None = None
    """[B] float64, the distance from the memory; None where the pair has none."""


def build_pair(spec: PairSpec, seed: int) -> Pair:
    """A new pair in training mode on the CPU, its weights a function of `spec` and `seed` alone.

    torch's global random state is left as it was.

    Raises:
        ConfigError: The model asks for something that the networks cannot be built with.
    """
    pair = _empty_pair(spec)
    initialize(pair.generator, torch_generator(seed, "generator weights"))
    initialize(pair.discriminator, torch_generator(seed, "discriminator weights"))
    return pair


def pair_outputs(pair: Pair, x: Tensor) -> PairOutputs:
    """Reconstruction and features of x [B, C, P, P] in [-1, 1], in whatever mode the pair is in."""
    reconstruction = pair.generator(x)
    pointing, trunk = pair.discriminator.pointing, pair.discriminator.self_supervision
    turns = None if trunk is None else turn_outputs(trunk, x)
    distance = None
    if pair.memory is not None:
        of_turns = turns if pair.spec.model.memory.features == "self_supervision" else None
        distance = pair.memory(remembered_features(pair, x) if of_turns is None else of_turns.features)
    return PairOutputs(
        reconstruction,
        pair.discriminator(x).features,
        pair.discriminator(reconstruction).features,
        None if pointing is None else pointing.averaged(x, reconstruction),
        None if turns is None else turns.loss,
        distance,
    )


def remembered_features(pair: Pair, x: Tensor) -> Tensor:
    """The features of x [B, C, P, P] in [-1, 1] that the model's memory knows, [B, S, D] float32."""
    if pair.spec.model.memory.features == "discriminator":
        return pair.discriminator.statistics(x)[:, None]
    trunk = pair.discriminator.self_supervision
    assert trunk is not None  # the model section says so
    return turn_outputs(trunk, x).features


def save_pair(folder: Path, pair: Pair, record: dict[str, Any]) -> None:
    """Writes the pair, aside then renamed; equal weights and record give equal bytes.

    Args:
        record: What is to be known of the pair's making (JSON values).

    Raises:
        CheckpointError: A weight is not finite, or the model has a memory that was not fitted.
    """
    if pair.spec.model.memory.enabled and pair.memory is None:
        raise CheckpointError(
            f"{folder}: model.memory is on, but the pair's memory was not fitted; run the train stage"
        )
    content = {"spec": pair.spec.model_dump(mode="json"), "record": record}
    parts = {"generator": pair.generator.state_dict(), "discriminator": pair.discriminator.state_dict()}
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
    for name, network in (("generator", pair.generator), ("discriminator", pair.discriminator)):
        load_weights(network, parts.get(name, {}), folder / f"{name}.safetensors")
    if pair.spec.model.memory.enabled:
        pair.memory = Memory(pair.spec.model, pair.discriminator)
        load_weights(pair.memory, parts.get("memory", {}), folder / "memory.safetensors")
    return pair.eval(), content.get("record", {})


def _empty_pair(spec: PairSpec) -> Pair:
    """A pair whose weights are still to be set."""
    with torch.random.fork_rng(devices=[]):  # constructors draw weights that nobody uses
        generator = DenseSkipGenerator(spec.channels, spec.model)
        discriminator = AttentionDiscriminator(spec.channels, spec.patch_size_px, spec.model)
    return Pair(spec, generator, discriminator)
