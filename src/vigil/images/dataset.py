"""The order in which training sees patches, and patches as tensors.

Legend: N patches, H W pixels, C channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vigil.seeding import numpy_generator


class BatchOrder:
    """The training order as a pure function of (seed, images seen): a new permutation in every epoch.

    Nothing is remembered between calls, so a run that goes on at `images_seen` sees what an uninterrupted run sees,
    also when the batch size changes on the way.
    """

    def __init__(self, count: int, seed: int) -> None:
        """
        Args:
            count: Patches per epoch.
            seed: Of the run.

        Raises:
            ValueError: `count` is not positive.
        """
        if count < 1:
            raise ValueError(f"expected at least one patch per epoch, found {count}")
        self.count = count
        self.seed = seed

    def indices(self, images_seen: int, batch_size: int) -> npt.NDArray[np.int64]:
        """The `batch_size` patches that follow after `images_seen`, int64 in [0, count); crosses ends of epochs."""
        parts, first, left = [], images_seen, batch_size
        while left > 0:
            epoch, start = divmod(first, self.count)
            parts.append(_permutation(self.count, self.seed, epoch)[start : start + left])
            first, left = first + len(parts[-1]), left - len(parts[-1])
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)


@lru_cache(maxsize=2)  # new patches and rehearsed ones
def _permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.integer[Any]]:
    """As `Generator.permutation(count)`, in 4 bytes per patch where these suffice: it stays in memory for an epoch."""
    order: npt.NDArray[np.integer[Any]] = np.arange(count, dtype=np.uint32 if count <= 1 << 32 else np.int64)
    numpy_generator(seed, "batch order", epoch).shuffle(order)
    return order


def to_tensor(patches: npt.NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Patches at rest, uint8 [N, H, W, C], as the networks' input, float32 [N, C, H, W] in [-1, 1] on `device`.

    0 becomes -1, 255 becomes 1; bytes travel to the device and become floats there.
    """
    on_device = torch.tensor(patches, dtype=torch.uint8).to(device)
    # Bytes are moved before they become floats, and in place after: twice as fast as the other way round.
    return on_device.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(127.5).sub_(1.0)


def from_tensor(images: Tensor) -> npt.NDArray[np.uint8]:
    """The inverse of `to_tensor`, exact on its results; other values are clamped to [-1, 1] and rounded.

    Raises:
        ValueError: A value is not finite.
    """
    if not torch.isfinite(images).all():
        raise ValueError("expected finite values in [-1, 1], found NaN or infinity")
    scaled = ((images.detach().to(torch.float32) + 1.0) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
