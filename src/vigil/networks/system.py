"""What every system is: some networks that belong together, and what they make of a patch.

In the paper a system is a pair of generator and discriminator, and the folder on disk is called after it; a baseline
may have one network only. A system is a subclass of `Pair`, named in `networks.registry`; how it is trained stands in
`training.systems`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor, nn

from vigil.config import ModelSection, Section
from vigil.networks.initialization import initialize


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


class PairOutputs(NamedTuple):
    """What a pair makes of a batch x [B, C, P, P]; None where the system has no such thing."""

    reconstruction: Tensor | None
    """x^ [B, C, P, P] float32 in [-1, 1]."""
    features_x: Tensor | None
    """f(x) [B, F, ...] float32, of a latent vector or of feature maps."""
    features_reconstruction: Tensor | None
    """f(x^) of the same shape."""
    pointing: Tensor | None = None
    """Logits [B, P, P] of the pointing decoder, averaged over its views."""
    self_supervision: Tensor | None = None
    """[B] float32, the self-supervised loss over all four turns, nats."""
    memory: Tensor | None = None
    """[B] float64, the distance from the memory."""
    published: Tensor | None = None
    """[B] float64, the score that the system's own description defines; higher = more anomalous."""
    anomaly_map: Tensor | None = None
    """[B, P, P] float32, of a system whose map is no residual."""


class Pair(nn.Module):
    """The networks of one system. Each is a player: it has an optimiser, and a safetensors file, of its own."""

    NETWORKS: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    """Attributes that hold the networks, in the order in which they are built, stored and digested."""

    def __init__(self, spec: PairSpec) -> None:
        super().__init__()
        self.spec = spec
        self.memory: nn.Module | None = None
        """Of normal training patches; None where the model has none, and before it is fitted."""

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {name: getattr(self, name) for name in self.NETWORKS}

    def draw_weights(self, network: nn.Module, generator: torch.Generator) -> None:
        """Draws all parameters of one of the networks anew."""
        initialize(network, generator)

    def outputs(self, x: Tensor) -> PairOutputs:
        """What the networks make of x [B, C, P, P] in [-1, 1], in whatever mode they are in.

        Raises:
            NotImplementedError: The system has to search for its answer (`scoring.latent_search`).
        """
        raise NotImplementedError(f"{type(self).__name__} has no outputs in one pass")

    @property
    def has_memory(self) -> bool:
        """Whether training ends with fitting a memory."""
        return False

    def new_memory(self) -> nn.Module:
        """A memory that is still to be fitted; where `has_memory`."""
        raise NotImplementedError(f"{type(self).__name__} has no memory")

    def remembered(self, x: Tensor) -> Tensor:
        """The features of x [B, C, P, P] in [-1, 1] that the memory knows, [B, S, D] float32; where `has_memory`."""
        raise NotImplementedError(f"{type(self).__name__} has no memory")

    @property
    def normalises_batches(self) -> bool:
        """Whether a network holds batch normalisation, so that its outputs in training mode depend on the batch."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())
