"""The views from which the self-supervised trunk learns: every patch in all four turns, each moved a little.

Legend: B batch, C channels, P patch size, V = 4 B views.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from vigil.networks.self_supervision import TURNS, turned
from vigil.training.steps import Views

_LARGEST_SHIFT = 10
"""A view is moved by up to one such part of its side in each direction."""


def training_views(x: Tensor, rng: np.random.Generator) -> Views:
    """All four turns of the normal patches x [B, C, P, P], each view shifted by a random number of pixels."""
    largest = x.shape[-1] // _LARGEST_SHIFT
    moves = torch.from_numpy(rng.integers(-largest, largest + 1, size=(2, TURNS * len(x)))).to(x.device)
    views = torch.cat([turned(x, quarters) for quarters in range(TURNS)])
    turns = torch.arange(TURNS, device=x.device).repeat_interleave(len(x))
    return Views(shifted(views, moves[0], moves[1], largest), turns)


def shifted(x: Tensor, down: Tensor, right: Tensor, largest: int) -> Tensor:
    """Each patch of x [B, C, P, P] moved by its own number of pixels; what comes into view is a reflection.

    Args:
        x: The patches.
        down: int64 [B], pixels towards the lower edge, -largest to largest.
        right: The same towards the right edge.
        largest: The most that any patch is moved; below P.
    """
    padded = pad(x, [largest] * 4, mode="reflect").permute(0, 2, 3, 1)  # B P+2l P+2l C
    steps = torch.arange(x.shape[-1], device=x.device) + largest
    rows, columns = steps - down[:, None], steps - right[:, None]  # B P
    numbers = torch.arange(len(x), device=x.device)
    return padded[numbers[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # channels last
