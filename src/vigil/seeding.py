"""All randomness is a function of (seed, purpose, counters), so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed that depends on every argument and on nothing else, equal on every platform.

    Args:
        seed: The user's seed.
        purpose: What the random numbers are for, e.g. `"batch order"`; two purposes never share a stream.
        counters: Positions in the run, e.g. the number of images seen.
    """
    text = "\x1f".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A NumPy generator seeded by `derive_seed`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose, *counters)))


def torch_generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU torch generator seeded by `derive_seed`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))
