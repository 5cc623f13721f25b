"""The training order and the way from patches at rest to tensors and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vigil.images.dataset import BatchOrder, from_tensor, to_tensor
from vigil.seeding import numpy_generator


def test_an_epoch_shows_every_patch_once_and_the_next_in_another_order() -> None:
    order = BatchOrder(count=50, seed=3)
    first, second = order.indices(0, 50), order.indices(50, 50)
    assert first.dtype == np.int64
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(50))


def test_another_seed_gives_another_order() -> None:
    assert BatchOrder(50, 0).indices(0, 50).tolist() != BatchOrder(50, 1).indices(0, 50).tolist()


def test_a_batch_may_hold_several_epochs() -> None:
    batch = BatchOrder(count=3, seed=0).indices(images_seen=2, batch_size=8)
    assert len(batch) == 8
    assert sorted(batch[1:4].tolist()) == sorted(batch[4:7].tolist()) == [0, 1, 2]


def test_the_order_is_the_same_on_every_machine() -> None:
    """Fixed values: a change here changes every training run."""
    assert BatchOrder(count=8, seed=0).indices(0, 8).tolist() == [5, 7, 0, 4, 3, 6, 2, 1]


def test_the_order_is_numpys_permutation_in_fewer_bytes() -> None:
    expected = numpy_generator(3, "batch order", 0).permutation(100_000)
    np.testing.assert_array_equal(BatchOrder(100_000, 3).indices(0, 100_000), expected)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one patch per epoch, found 0"):
        BatchOrder(count=0, seed=0)


def test_every_byte_survives_the_way_to_the_network_and_back() -> None:
    patches = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    tensor = to_tensor(patches)
    assert tensor.dtype == torch.float32
    assert tensor.min() == -1
    assert tensor.max() == 1
    np.testing.assert_array_equal(from_tensor(tensor), patches)


def test_channels_move_to_the_front_and_memory_is_contiguous() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    patches.setflags(write=False)  # as memory maps are
    tensor = to_tensor(patches)
    assert tensor.shape == (2, 3, 4, 5)
    assert tensor.is_contiguous()
    assert tensor[1, 2, 3, 4].item() == pytest.approx(patches[1, 3, 4, 2] / 127.5 - 1, abs=1e-7)
    np.testing.assert_array_equal(from_tensor(tensor), patches)


def test_values_beyond_the_range_are_clamped_and_nan_is_refused() -> None:
    tensor = torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2)
    assert from_tensor(tensor).ravel().tolist() == [0, 255]
    with pytest.raises(ValueError, match="NaN or infinity"):
        from_tensor(torch.full((1, 1, 2, 2), float("nan")))
