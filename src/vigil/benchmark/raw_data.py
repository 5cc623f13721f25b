"""Where a cell's raw images come from: generated, imported already, or imported now from a folder of data sets."""

from __future__ import annotations

from pathlib import Path

from vigil.benchmark.cells import Task
from vigil.benchmark.locks import locked
from vigil.benchmark.settings import SIXRAY_SETS
from vigil.errors import ConfigError
from vigil.images.importing import import_data
from vigil.images.raw import IMPORT_RECEIPT
from vigil.images.readers import mvtec
from vigil.images.readers.cifar10 import CLASSES

GENERATED = ("baggage", "digits")
_ARCHIVES = ("*.tar.xz", "*.tar.gz", "*.tar", "*.tgz")


class RawData:
    """The data sets below one folder, each imported into `work` when a cell first needs it.

    Raises:
        ConfigError: The folder is not there.
    """

    def __init__(self, source: Path, work: Path) -> None:
        """
        Args:
            source: Holds a folder per data set, each as `vigil data import` left it or as it was published.
            work: Where data sets are imported to.
        """
        if not source.is_dir():
            raise ConfigError(
                f"--data {source}: no such folder; expected one with cifar10/, mvtec/, magnetic_tile/ or sixray/ in "
                f"it, imported (`vigil data import`) or as published"
            )
        self._source, self._work = source.resolve(), work.resolve()

    def missing(self, task: Task) -> str | None:
        """Why a task cannot be run with the data that are there; None where it can."""
        folder = self._source / task.data
        if task.data in GENERATED:
            return None
        if not folder.is_dir():
            return f"{task.data} is not there"
        if task.data == "mvtec" and task.part not in mvtec.categories_in(folder):
            return f"mvtec/{task.part} is not there"
        if task.data == "cifar10" and task.part not in CLASSES:
            return f"cifar10 has no class {task.part}"
        needed = SIXRAY_SETS.get(task.part) if task.data == "sixray" else None
        if needed is not None and (there := self.sixray_negatives()) < needed:
            return f"needs {needed:,} normal scans, {there:,} are there"
        return None

    def sixray_negatives(self) -> int:
        """How many normal scans of SIXray are there."""
        images = self._source / "sixray" / "JPEGImages"
        return sum(path.name[:1].upper() == "N" for path in images.iterdir()) if images.is_dir() else 0

    def mvtec_categories(self) -> list[str]:
        """The categories of MVTec AD that are there, sorted."""
        folder = self._source / "mvtec"
        return mvtec.categories_in(folder) if folder.is_dir() else []

    def folder_of(self, task: Task) -> Path:
        """The raw data set of a task; imported into `work` first where the source is as it was published.

        Raises:
            DataError: It cannot be imported.
        """
        part = task.part if task.data == "mvtec" else ""
        source, target = self._source / task.data, self._work / task.data
        if (source / part / IMPORT_RECEIPT).is_file():
            return source
        with locked(target, wait=True):
            if not (target / part / IMPORT_RECEIPT).is_file():
                if task.data == "cifar10":
                    archives = [path for pattern in _ARCHIVES for path in sorted(source.glob(pattern))]
                    source = archives[0] if archives else source
                import_data(task.data, source, target, task.part if task.data == "mvtec" else None)
        return target
