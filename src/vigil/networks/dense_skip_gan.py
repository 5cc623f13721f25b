"""The paper's pair, arXiv 2211.13808, with what Vigil adds to it."""

from __future__ import annotations

from torch import Tensor

from vigil.networks.discriminator import AttentionDiscriminator
from vigil.networks.generator import DenseSkipGenerator
from vigil.networks.memory import Memory
from vigil.networks.self_supervision import turn_outputs
from vigil.networks.system import Pair, PairOutputs, PairSpec


class DenseSkipGan(Pair):
    """A generator with dense skip blocks and a discriminator with attention.

    Its score is Eq. (6), whose weight is fitted with the calibration, so that it has no `published` score of its own.
    Ablations: `model.attention.enabled`, `model.spectral_norm`, and `train.adversarial` in place of Eq. (2).
    """

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        self.generator = DenseSkipGenerator(spec.channels, spec.model)
        self.discriminator = AttentionDiscriminator(spec.channels, spec.patch_size_px, spec.model)

    def outputs(self, x: Tensor) -> PairOutputs:
        """Reconstruction and features of x, and what the discriminator's further heads and the memory say of it."""
        reconstruction = self.generator(x)
        pointing, trunk = self.discriminator.pointing, self.discriminator.self_supervision
        turns = None if trunk is None else turn_outputs(trunk, x)
        distance = None
        if self.memory is not None:
            of_turns = turns if self.spec.model.memory.features == "self_supervision" else None
            distance = self.memory(self.remembered(x) if of_turns is None else of_turns.features)
        return PairOutputs(
            reconstruction,
            self.discriminator(x).features,
            self.discriminator(reconstruction).features,
            None if pointing is None else pointing.averaged(x, reconstruction),
            None if turns is None else turns.loss,
            distance,
        )

    @property
    def has_memory(self) -> bool:
        """As the model section says."""
        return self.spec.model.memory.enabled

    def new_memory(self) -> Memory:
        """A Gaussian of the features, still to be fitted."""
        return Memory(self.spec.model, self.discriminator)

    def remembered(self, x: Tensor) -> Tensor:
        """The discriminator's statistics of x, or its trunk's features in all four turns; [B, S, D] float32."""
        if self.spec.model.memory.features == "discriminator":
            return self.discriminator.statistics(x)[:, None]
        trunk = self.discriminator.self_supervision
        assert trunk is not None  # the model section says so
        return turn_outputs(trunk, x).features
