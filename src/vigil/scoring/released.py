"""How the public code of the batch-norm baselines scores: in training mode, over a test set sorted by label.

Batch normalisation then takes its statistics from the batch, so that a patch's score depends on its neighbours, and
batches of almost pure labels give the labels away. This is no way to score; it is here so that a benchmark can measure
what the leak is worth, in a column of that name. No stage imports it, and a test holds that.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from vigil.errors import ConfigError
from vigil.images.dataset import to_tensor
from vigil.networks.pair import Pair
from vigil.scoring.scorer import PatchComponents, check_finite, components, exact_arithmetic


def score_released(
    pair: Pair, patches: NDArray[np.uint8], *, device: torch.device | str, batch_size: int
) -> PatchComponents:
    """The components of uint8 patches [N, P, P, C] with batch statistics, in batches of the given order.

    The pair itself is left as it was: a copy of it is scored, whose running statistics move.

    Args:
        pair: Of a system with batch normalisation.
        patches: At least two, in the order in which they share batches; a last batch of one joins the one before.
        device: Where to compute.
        batch_size: At least 2.

    Raises:
        ConfigError: The pair has no batch normalisation, or there are too few patches to make a batch.
        ScoreNotFinite: A component or a map of a patch is NaN or infinite.
    """
    if not pair.normalises_batches:
        raise ConfigError(
            f"model.name '{pair.spec.model.name}' has no batch normalisation, so its released protocol is the strict "
            f"one; score it as the score stage does"
        )
    if batch_size < 2 or len(patches) < 2:
        raise ConfigError(
            f"batch statistics need two patches, found {len(patches)} in batches of {batch_size}; give more of them"
        )
    starts = list(range(0, len(patches), batch_size))
    if len(patches) - starts[-1] == 1:
        del starts[-1]
    copied = copy.deepcopy(pair).to(device).train()
    parts = []
    with exact_arithmetic(copied):
        for start, stop in zip(starts, [*starts[1:], len(patches)], strict=True):
            x = to_tensor(patches[start:stop], device).contiguous(memory_format=torch.channels_last)
            parts.append(components(copied, x))
    columns = zip(*parts, strict=True)
    joined = (None if column[0] is None else torch.cat(column).cpu().numpy() for column in columns)
    scored = PatchComponents(*joined)  # type: ignore[arg-type]
    check_finite(scored)
    return scored
