"""Patch-SVDD's training step: neighbours are pulled together, and the direction between windows is to be told.

Legend: B batch, C channels, P patch size in pixels, K window size in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from vigil.networks.baselines.patch_svdd import POSITIONS, SIZES, PatchSvdd, window_px
from vigil.training.steps import Batch, Players, StepLosses, move

_NOISE = 0.04
"""Of a window's colour and of each of its pixels, in units of [-1, 1], so that edges do not give directions away."""
_DIRECTIONS = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
"""Down and right, of each of the 8 positions."""
Places = NDArray[np.int64]


class WindowPairs(NamedTuple):
    """Upper left corners of two windows in each patch, [B, 2] each, and where the second lies, [B], 0 to 7."""

    first: Places
    second: Places
    position: NDArray[np.int64]


def patch_svdd_step(fabric: Fabric, players: Players[PatchSvdd], batch: Batch) -> StepLosses:
    """The encoder with its classifiers once along the loss of arXiv 2006.16067, summed over both sizes of windows.

    SVDD' (recorded as latent): the mean distance of the embeddings of two windows that all but coincide; its weight
    lambda is `train.weights.latent`. Self-supervised: the cross entropy of the 8 positions; weight
    `train.weights.self_supervision`. The first alone is least where all embeddings are equal; the second keeps them
    apart.

    differs from the paper: windows are drawn so that both lie in the patch, where its public code moves those that do
    not.

    Raises:
        TrainingDiverged: A loss or the gradient's norm is not finite.
    """
    x, pair, weights = batch.patches, players.pair, players.train.weights
    near, told = x.new_zeros(()), x.new_zeros(())
    for size in SIZES:
        random = batch.random(f"{size} windows")
        kernel, patch = window_px(x.shape[-1], size), x.shape[-1]
        pairs = beside(random, len(x), patch, kernel)
        one, other = almost_the_same(random, len(x), patch, kernel)
        windows = torch.cat(
            [_noisy(_cut(x, places, kernel), batch, f"{size} window noise {n}") for n, places in enumerate(pairs[:2])]
            + [_cut(x, places, kernel) for places in (one, other)]
        )
        with fabric.autocast():
            first, second, here, there = pair.encoder.of_windows(windows, size).chunk(4)
            logits = pair.encoder.positions[size](first, second)
        told = told + cross_entropy(logits.float(), torch.from_numpy(pairs.position).to(x.device))
        near = near + (here - there).norm(dim=1).mean()
    loss = weights.latent * near + weights.self_supervision * told
    found = move(fabric, players, "encoder", {"loss": loss, "near": near, "told": told})
    return StepLosses(
        generator_loss=found["loss"],
        latent_loss=found["near"],
        self_supervised_loss=found["told"],
        generator_gradient_norm=found["gradient_norm"],
    )


def beside(random: np.random.Generator, count: int, patch_px: int, kernel: int) -> WindowPairs:
    """Windows and others beside them in one of 8 directions, three quarters of a window to one window away."""
    position = random.integers(POSITIONS, size=count)
    away = 3 * kernel // 4 + random.integers(max(kernel // 4, 1), size=(count, 2))
    move_by = _DIRECTIONS[position] * away
    low, high = np.maximum(0, -move_by), patch_px - kernel - np.maximum(0, move_by)
    first = random.integers(low, high + 1)
    return WindowPairs(first, first + move_by, position)


def almost_the_same(random: np.random.Generator, count: int, patch_px: int, kernel: int) -> tuple[Places, Places]:
    """Windows, and others a thirty-second of a window (at least one pixel) away in some direction; [B, 2] each."""
    largest = max(kernel // 32, 1)
    first = random.integers(largest, patch_px - kernel - largest + 1, size=(count, 2))
    steps = np.array([(d, r) for d in range(-largest, largest + 1) for r in range(-largest, largest + 1) if d or r])
    return first, first + steps[random.integers(len(steps), size=count)]


def _cut(x: Tensor, places: Places, kernel: int) -> Tensor:
    """[B, C, P, P] -> [B, C, K, K], one window of each patch."""
    rows, columns = (
        torch.from_numpy(places[:, axis]).to(x.device)[:, None] + torch.arange(kernel, device=x.device)
        for axis in (0, 1)
    )
    numbers = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _noisy(windows: Tensor, batch: Batch, purpose: str) -> Tensor:
    batch_size, channels = windows.shape[:2]
    colour = batch.normal(f"{purpose}, colour", batch_size, channels, 1, 1)
    return windows + _NOISE * (colour + batch.normal(purpose, *windows.shape))
