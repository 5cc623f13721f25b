"""Batches as training meets them, made on the host: by the training process itself, or ahead of it by others.

Legend: B the batch over all processes, P patch size, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vigil.config import TrainSection
from vigil.errors import VigilError
from vigil.seeding import numpy_generator
from vigil.training.photometric import shown_otherwise
from vigil.training.pseudo_anomalies import colour_table, decoys, pseudo_anomalies
from vigil.training.rehearsal import Sources
from vigil.training.steps import generator_plays

Pixels = npt.NDArray[np.uint8]

_COLOUR_SAMPLE = 256
"""Patches from which the table of colours is made."""
_AHEAD = 4
"""Batches that each process makes before they are asked for."""


class HostBatch(NamedTuple):
    """One process's share of a batch, as bytes."""

    pixels: Tensor
    """Normal patches, uint8 [B / processes, P, P, C]; where the generator has no part in this batch, as they are."""
    corrupted: Tensor | None
    """The same with pseudo-anomalies, and photometric changes; None where the objective is to reconstruct."""
    anomalous: Tensor | None
    """bool [B / processes, P, P], the pixels that visibly changed."""


class BatchMaker(Dataset[HostBatch]):
    """Batches by the number of images seen before them.

    A batch is a function of that number, the seed and the settings, so that a resumed run meets what an uninterrupted
    one meets, and any process can make any batch.
    """

    def __init__(self, sources: Sources, train: TrainSection, seed: int, process: int = 0, processes: int = 1) -> None:
        """
        Args:
            sources: The patches.
            train: Flips, turns, pseudo-anomalies and photometric changes.
            seed: Of the run.
            process: Which share of each batch: of the places, every `processes`-th from this one.
            processes: How many share a batch.
        """
        self._sources, self._train, self._seed = sources, train, seed
        self._own = slice(process, None, processes)
        self._colours = _colours(sources, seed) if train.objective == "restore" else None

    @property
    def batch_size(self) -> int:
        """B."""
        return self._train.batch_size

    def __getitem__(self, images_seen: int) -> HostBatch:
        """The batch that follows after `images_seen` images."""
        train, seed = self._train, self._seed
        rows = self._sources.batch(images_seen)
        pixels = self._sources.read(rows[self._own])
        if train.horizontal_flip:
            flipped = numpy_generator(seed, "horizontal flip", images_seen).random(len(rows))[self._own] < 0.5
            pixels[flipped] = pixels[flipped, :, ::-1]
        if train.quarter_turns:
            quarters = numpy_generator(seed, "quarter turns", images_seen).integers(4, size=len(rows))[self._own]
            for count in (1, 2, 3):
                pixels[quarters == count] = np.rot90(pixels[quarters == count], count, axes=(1, 2))
        if self._colours is None:
            return HostBatch(torch.from_numpy(pixels), None, None)

        section, numbers = train.pseudo_anomalies, images_seen + np.arange(len(rows))[self._own]
        if section.decoy_fraction:
            donors = self._others("decoy donors", images_seen)
            pixels = decoys(pixels, donors, section, self._colours, seed=seed, numbers=numbers)
        donors = self._others("pseudo anomaly donors", images_seen)
        corrupted, anomalous = pseudo_anomalies(pixels, donors, section, self._colours, seed=seed, numbers=numbers)
        if share := train.photometric_share:
            wide = train.photometric_range == "wide"
            corrupted = shown_otherwise(corrupted, share, wide=wide, seed=seed, numbers=numbers)
            if generator_plays(images_seen // self.batch_size, train.generator_share):
                pixels = shown_otherwise(pixels, share, wide=wide, seed=seed, numbers=numbers)
        return HostBatch(*(torch.from_numpy(np.ascontiguousarray(made)) for made in (pixels, corrupted, anomalous)))

    def _others(self, purpose: str, images_seen: int) -> Pixels:
        return self._sources.read(self._sources.others(purpose, images_seen)[self._own])


def batches_in_order(maker: BatchMaker, images_seen: int, total_images: int, workers: int) -> Iterator[HostBatch]:
    """The batches after `images_seen` images, up to `total_images`.

    Args:
        maker: Makes each.
        images_seen: Before the first one.
        total_images: Before none: the budget.
        workers: Processes that make batches ahead; 0: each is made when it is asked for, in this process. What the
            batches are does not depend on it, nor what is said where one cannot be made.
    """
    loader = DataLoader(
        _OwnErrorsAsItems(maker),
        sampler=range(images_seen, total_images, maker.batch_size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        multiprocessing_context="spawn" if workers else None,  # a fork of a process that computes on a GPU may hang
        generator=torch.Generator(),  # else it draws from the generator that everything in this process shares
    )
    for made in loader:
        if isinstance(made, VigilError):
            raise made
        yield made


class _OwnErrorsAsItems(Dataset[HostBatch | VigilError]):
    """Hands over Vigil's own errors as they are; PyTorch would put a worker's traceback into their message."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker

    def __getitem__(self, images_seen: int) -> HostBatch | VigilError:
        try:
            return self._maker[images_seen]
        except VigilError as error:
            return error


def _colours(sources: Sources, seed: int) -> npt.NDArray[np.float32]:
    """The colours that occur in the training patches, of a seeded sample of them."""
    sample = numpy_generator(seed, "colour table").integers(len(sources), size=min(_COLOUR_SAMPLE, len(sources)))
    return colour_table(sources.read(np.sort(sample)))
