"""Fits the memory of a pair on normal training patches.

Legend: N patches, S slots, D feature channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from vigil.errors import TrainingDiverged
from vigil.images.dataset import to_tensor
from vigil.images.shards import PatchShards
from vigil.networks.baselines.patch_svdd import SIZES, EmbeddingMemory, windows_a_side
from vigil.networks.memory import Memory
from vigil.networks.pair import Pair
from vigil.progress import Progress
from vigil.scoring.scorer import exact_evaluation
from vigil.seeding import numpy_generator

_BATCH = 64
_LEAST_VARIANCE = 1e-12
"""Relative to the largest, below which a direction counts as this spread: rounding errors must not become distances."""


def fit_memory(
    pair: Pair,
    patches: PatchShards,
    *,
    seed: int,
    device: torch.device | str,
    old: NDArray[np.uint8] | None = None,
    old_share: float = 0.0,
) -> None:
    """Puts a memory of `patches` into the pair, if its model has one; does nothing otherwise.

    Fitted on a seeded choice of at most `model.memory.fitted_patches` grid patches: the mean, and the covariance
    shrunk as Ledoit and Wolf (2004) say, so that fewer patches than channels suffice. Patch-SVDD's holds embeddings of
    windows instead, `model.patch_svdd.remembered` of each size, drawn from as many patches.

    Args:
        pair: A trained pair; is moved to `device`.
        patches: Normal training patches.
        seed: Of the choice.
        device: Where to compute the features.
        old: [N, P, P, C], rehearsed patches of earlier data; they take the place of `old_share` of the patches.
        old_share: See there; less where there are fewer of them.

    Raises:
        TrainingDiverged: A feature is not finite, or the features of all patches are equal.
    """
    if not pair.has_memory:
        return
    memory, model = pair.new_memory(), pair.spec.model
    most = model.patch_svdd.remembered if isinstance(memory, EmbeddingMemory) else model.memory.fitted_patches
    rows = patches.rows_of("grid")
    chosen = numpy_generator(seed, "memory").permutation(rows)[:most]
    rehearsed = np.empty(0, np.int64)
    if old is not None:
        count = min(len(old), int(old_share * len(chosen) + 0.5))
        rehearsed = numpy_generator(seed, "memory of old patches").permutation(len(old))[:count]
        chosen = chosen[: len(chosen) - count]
    features = _features(pair, patches.read, np.sort(chosen), device)
    if old is not None and len(rehearsed):
        of_old = _features(pair, old.__getitem__, np.sort(rehearsed), device)
        features = np.concatenate([features, of_old])
    spread = features.var(axis=0).sum(axis=1)  # S
    if not np.isfinite(spread).all() or not spread.all():
        raise TrainingDiverged(
            f"the features of {len(features)} training patches have the total variance {spread.tolist()} per slot; a "
            f"memory needs finite features that differ. Lower train.learning_rate, or give more training images."
        )
    if isinstance(memory, EmbeddingMemory):
        _remember(memory, features, seed)
    else:
        assert isinstance(memory, Memory)
        for slot in range(features.shape[1]):
            mean, whitening = _gaussian(features[:, slot])
            memory.mean[slot], memory.whitening[slot] = torch.from_numpy(mean), torch.from_numpy(whitening)
    pair.memory = memory.to(device)


def _remember(memory: EmbeddingMemory, features: NDArray[np.float64], seed: int) -> None:
    """Fills the memory with embeddings of random windows [N, S, D] of random patches, drawn with replacement."""
    first = 0
    for size in SIZES:
        windows, room = windows_a_side(size) ** 2, getattr(memory, size)
        draws = numpy_generator(seed, f"remembered {size} windows")
        of_patch = draws.integers(len(features), size=len(room))
        of_window = first + draws.integers(windows, size=len(room))
        room.copy_(torch.from_numpy(features[of_patch, of_window]))
        first += windows


def _gaussian(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D] and whitening matrix [D, D] of features [N, D]; (f - mean) @ whitening has the covariance 1."""
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(features)
    variances, directions = np.linalg.eigh(fitted.covariance_)
    return fitted.location_, directions / np.sqrt(np.maximum(variances, _LEAST_VARIANCE * variances[-1]))


def _features(
    pair: Pair,
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    rows: NDArray[np.int64],
    device: torch.device | str,
) -> NDArray[np.float64]:
    """[N, S, D] of the patches in these rows."""
    collected = []
    progress = Progress("memory", len(rows), "patches")
    with exact_evaluation(pair.to(device)):
        for start in range(0, len(rows), _BATCH):
            here = rows[start : start + _BATCH]
            x = to_tensor(read(here), device).contiguous(memory_format=torch.channels_last)
            collected.append(pair.remembered(x).double().cpu().numpy())
            progress.advance(len(here))
    progress.close()
    return np.concatenate(collected)
