"""What training measures, and where it goes: a JSONL file, memory, or (in delivery) MLflow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vigil.files import canonical_json

TIMINGS = ("images_per_s", "memory_mib", "eta_s")
"""Fields of a `StepRecord` that differ between two runs that are otherwise equal."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One interval of `train.log_every_images` images; losses and norms are means over its steps."""

    images_seen: int
    """At the interval's end."""
    discriminator_loss: float
    """-L_adv of Eq. (2), arXiv 2211.13808; 2 ln 2 = 1.386 where the discriminator is at chance."""
    generator_loss: float
    """Eq. (5)."""
    adversarial_loss: float
    """The generator's side of Eq. (2)."""
    contextual_loss: float
    """Eq. (3)."""
    latent_loss: float
    """Eq. (4)."""
    discriminator_gradient_norm: float
    generator_gradient_norm: float
    images_per_s: float
    memory_mib: float
    """Peak so far: of the GPU's tensors, or of the process on a CPU."""
    eta_s: float
    """Until the training budget is used up, at this interval's speed."""
    pointing_loss: float = 0.0
    """Of the pointing decoder; 0 where the pair has none."""
    self_supervised_loss: float = 0.0
    """Of the self-supervised trunk; 0 where the pair has none."""


class Recorder(Protocol):
    """Takes every interval of a run in order.

    A run that is continued hands over its earlier intervals again first, so a recorder starts from nothing, or
    leaves out what it holds already.
    """

    def record(self, step: StepRecord) -> None:
        """Takes one interval."""


class MemoryRecorder:
    """Keeps the intervals in `steps`."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []

    def record(self, step: StepRecord) -> None:
        """Appends one interval."""
        self.steps.append(step)


class JsonlRecorder:
    """Writes one JSON object per interval to a file, which starts empty and is whole after every line."""

    def __init__(self, path: Path, *, timings: bool = True) -> None:
        """
        Args:
            path: The file; what it held before is dropped.
            timings: False leaves speed, memory and ETA out, so that equal runs give equal files.
        """
        self._path = Path(path)
        self._left_out = () if timings else TIMINGS
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("")

    def record(self, step: StepRecord) -> None:
        """Appends one line."""
        values = {k: v for k, v in dataclasses.asdict(step).items() if k not in self._left_out}
        with self._path.open("a") as file:
            file.write(canonical_json(values) + "\n")
