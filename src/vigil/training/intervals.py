"""The intervals of a run: means over steps, speed, the status line, and the warning of a dead discriminator."""

from __future__ import annotations

import dataclasses
import logging
import math
import resource
import sys
import time

import torch

from vigil.training.checkpoint import RunState
from vigil.training.plan import Plan
from vigil.training.recorder import Recorder, StepRecord
from vigil.training.steps import StepLosses

_CHANCE = 2 * math.log(2)
_CHANCE_WIDTH = 0.005
_INTERVALS_AT_CHANCE = 3

_log = logging.getLogger(__name__)


class Clock:
    """Speed since the last reading."""

    def __init__(self, images_seen: int) -> None:
        self._images, self._time = images_seen, time.monotonic()

    def images_per_s(self, images_seen: int) -> float:
        """Since the last call or, at first, since this process began to train."""
        now = time.monotonic()
        rate = (images_seen - self._images) / max(now - self._time, 1e-9)
        self._images, self._time = images_seen, now
        return rate


def add_step(state: RunState, losses: StepLosses) -> None:
    """Adds one step's numbers to the interval's sums."""
    values: dict[str, float] = dataclasses.asdict(losses)
    for key, value in values.items():
        state.interval_sums[key] = state.interval_sums.get(key, 0.0) + value
    state.interval_steps += 1


def finish_interval(state: RunState, clock: Clock, total_images: int, device: torch.device) -> StepRecord:
    """Turns the interval's sums into its row and starts the next interval."""
    rate = clock.images_per_s(state.images_seen)
    row = StepRecord(
        images_seen=state.images_seen,
        **{key: total / state.interval_steps for key, total in state.interval_sums.items()},
        images_per_s=rate,
        memory_mib=_memory_mib(device),
        eta_s=(total_images - state.images_seen) / rate,
    )
    state.rows.append(row)
    state.interval_steps, state.interval_sums = 0, {}
    return row


def _memory_mib(device: torch.device) -> float:
    """Peak memory so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Reporter:
    """Hands rows to the recorder and to the log, and warns once where the discriminator has stopped to learn."""

    def __init__(self, plan: Plan, recorder: Recorder, earlier: list[StepRecord]) -> None:
        self._plan, self._recorder = plan, recorder
        self._losses = [row.discriminator_loss for row in earlier]

    def __call__(self, row: StepRecord) -> None:
        self._recorder.record(row)
        _log.info("%s", status_line(row, self._plan))
        was_at_chance = stays_at_chance(self._losses)
        self._losses.append(row.discriminator_loss)
        log_loss = self._plan.train.adversarial == "log"  # no other has a value that means chance
        if log_loss and stays_at_chance(self._losses) and not was_at_chance:
            _log.warning(
                "the discriminator's loss stays within %.3f of 2 ln 2 = %.3f: it cannot tell real from fake, and the "
                "adversarial and latent losses teach nothing. Lower train.learning_rate (found %g).",
                _CHANCE_WIDTH,
                _CHANCE,
                self._plan.train.learning_rate,
            )


def stays_at_chance(discriminator_losses: list[float]) -> bool:
    """Whether the last three intervals' discriminator losses all lie within 0.005 of 2 ln 2."""
    last = discriminator_losses[-_INTERVALS_AT_CHANCE:]
    return len(last) == _INTERVALS_AT_CHANCE and all(abs(loss - _CHANCE) <= _CHANCE_WIDTH for loss in last)


def status_line(row: StepRecord, plan: Plan) -> str:
    """One line with units: step, images, losses, gradient norms, speed, memory, ETA."""
    return (
        f"step {row.images_seen // plan.train.batch_size}, {row.images_seen}/{plan.total_images} images, "
        f"D {row.discriminator_loss:.4f}, G {row.generator_loss:.4f} (adv {row.adversarial_loss:.4f}, con "
        f"{row.contextual_loss:.4f}, lat {row.latent_loss:.5f}), pointing {row.pointing_loss:.4f}, self-supervised "
        f"{row.self_supervised_loss:.4f}, gradient norm D "
        f"{row.discriminator_gradient_norm:.3g} G {row.generator_gradient_norm:.3g}, {row.images_per_s:.1f} images/s, "
        f"{row.memory_mib:.0f} MiB, ETA {row.eta_s:.0f} s"
    )
