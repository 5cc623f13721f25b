"""What a run starts from, and the patches that its batches are drawn from: new ones, and old ones to rehearse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vigil.images.dataset import BatchOrder
from vigil.images.shards import PatchShards
from vigil.seeding import derive_seed, numpy_generator

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A trained pair to go on from."""

    pair: Path
    """Its folder."""
    parent: dict[str, Any]
    """Version, digest of the bundle and digest of the sample: what fixes this start (JSON values)."""
    share: float
    """Of each batch, drawn from `old`."""
    old: Pixels | None
    """[N, P, P, C], patches that the pair learned from; None where none are rehearsed."""

    @property
    def record(self) -> dict[str, Any]:
        """What is kept of it with the pair; the share is 0 where there was nothing to rehearse."""
        old = 0 if self.old is None else len(self.old)
        return {**self.parent, "rehearsal_share": self.share if old else 0.0, "rehearsed_patches": old}


class Sources:
    """The patches of a run under one numbering: the new ones of the shards, and the old ones after them.

    Which rows a batch has is a pure function of (seed, images seen). Without old patches it is the order of
    `BatchOrder`, so that a run from scratch is what it would be if there were no rehearsal.
    """

    def __init__(self, new: PatchShards, warm: WarmStart | None, batch_size: int, seed: int) -> None:
        """
        Args:
            new: The training patches.
            warm: What the run starts from; None from scratch.
            batch_size: Of the whole batch, over all processes.
            seed: Of the run.
        """
        self._new = new
        self._old = None if warm is None else warm.old
        self._seed = seed
        self._batch_size = batch_size
        self._rehearsed = 0 if warm is None or warm.old is None else rehearsed_per_batch(warm.share, batch_size)
        self._new_order = BatchOrder(len(new), seed)
        if self._old is not None:
            self._old_order = BatchOrder(len(self._old), derive_seed(seed, "rehearsal order"))

    def __len__(self) -> int:
        return len(self._new) + (0 if self._old is None else len(self._old))

    def batch(self, images_seen: int) -> Rows:
        """The rows of the batch after `images_seen` images; old and new in seeded places, so that a part of the
        batch (a process's, the generator's) has its share of both."""
        if not self._rehearsed:
            return self._new_order.indices(images_seen, self._batch_size)
        steps, fresh = images_seen // self._batch_size, self._batch_size - self._rehearsed
        new = self._new_order.indices(steps * fresh, fresh)
        old = self._old_order.indices(steps * self._rehearsed, self._rehearsed) + len(self._new)
        rows = np.concatenate([new, old])
        return rows[numpy_generator(self._seed, "rehearsal places", images_seen).permutation(len(rows))]

    def others(self, purpose: str, images_seen: int) -> Rows:
        """Another row for each place of that batch, to take texture and colour from; old ones with the same share."""
        stream = numpy_generator(self._seed, purpose, images_seen)
        rows = stream.integers(len(self._new), size=self._batch_size)
        if self._rehearsed and self._old is not None:
            old = stream.integers(len(self._old), size=self._batch_size) + len(self._new)
            rows = np.where(stream.random(self._batch_size) < self._rehearsed / self._batch_size, old, rows)
        return rows

    def read(self, rows: Rows) -> Pixels:
        """The patches of these rows in this order, uint8 [n, P, P, C]."""
        if self._old is None:
            return self._new.read(rows)
        is_new = rows < len(self._new)
        pixels = np.empty((len(rows), *self._old.shape[1:]), np.uint8)
        pixels[is_new] = self._new.read(rows[is_new])
        pixels[~is_new] = self._old[rows[~is_new] - len(self._new)]
        return pixels


def rehearsed_per_batch(share: float, batch_size: int) -> int:
    """How many patches of a batch are old: the share, rounded half up, at least one where it is above 0."""
    return max(1, int(share * batch_size + 0.5)) if share > 0 else 0
