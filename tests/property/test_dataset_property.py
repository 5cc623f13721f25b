"""The training order under any count, seed, batch size and point of resumption."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.images.dataset import BatchOrder

counts = st.integers(1, 40)
seeds = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(counts, seeds, st.integers(1, 50), st.integers(1, 4))
def test_every_patch_once_per_epoch_for_any_batch_size(count: int, seed: int, batch_size: int, epochs: int) -> None:
    order = BatchOrder(count, seed)
    batches = [order.indices(seen, batch_size) for seen in range(0, count * epochs, batch_size)]
    shown = np.concatenate(batches)[: count * epochs].reshape(epochs, count)
    for epoch in shown:
        assert sorted(epoch.tolist()) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(counts, seeds, st.integers(0, 100), st.integers(1, 30), st.integers(0, 30))
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(
    count: int, seed: int, seen: int, batch_size: int, cut: int
) -> None:
    """Also when the batch is split at any point between the two runs (another batch size, another share per device)."""
    whole = BatchOrder(count, seed).indices(seen, batch_size)
    cut = min(cut, batch_size)
    first = BatchOrder(count, seed).indices(seen, cut)
    BatchOrder(count, seed + 1).indices(0, count)  # another run in between leaves no trace
    rest = BatchOrder(count, seed).indices(seen + cut, batch_size - cut)
    assert np.concatenate([first, rest]).tolist() == whole.tolist()
