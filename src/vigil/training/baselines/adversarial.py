"""What the steps of the GAN baselines share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def without_gradients(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of a network that others learn from; its batch statistics stay those of training.

    Unlike `steps.standing_still`, which would judge in evaluation mode: with batch normalisation that is another
    function, whose statistics lag behind.
    """
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
