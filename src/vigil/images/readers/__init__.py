"""One reader per data set layout; each yields an `ImageRow` per image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vigil.config import (
    BaggageData,
    Cifar10Data,
    DataSection,
    DigitsData,
    FolderData,
    MagneticTileData,
    MvtecData,
    SixrayData,
)
from vigil.errors import DataError
from vigil.images.readers import cifar10, digits, folder, magnetic_tile, mvtec, sixray
from vigil.images.readers.rows import ImageRow

__all__ = ["ImageRow", "read_rows"]


def read_rows(data: DataSection) -> Iterator[ImageRow]:
    """The rows of a raw data set, in an order that depends on the files' names alone.

    Raises:
        DataError: The root is missing, holds no images, lacks a class or a folder of its layout, or a file's place
            says neither normal nor anomalous.
    """
    if not Path(data.root).is_dir():
        raise DataError(
            f"{data.root}: data folder not found; run `vigil stage raw`, or `vigil data import {data.name}`"
        )
    match data:
        case BaggageData() | SixrayData():
            return sixray.read(data)
        case DigitsData():
            return digits.read(data)
        case Cifar10Data():
            return cifar10.read(data)
        case MvtecData():
            return mvtec.read(data)
        case MagneticTileData():
            return magnetic_tile.read(data)
        case FolderData():
            return folder.read(data)
