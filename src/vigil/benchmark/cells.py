"""Cells of the experiments, and the record that each leaves: one JSON file, written aside and then renamed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vigil.config import Section, explain
from vigil.errors import DataError
from vigil.files import read_json, write_json

BudgetName = Literal["paper", "gpu", "cpu"]
Reading = Literal["one_class_anomalous", "one_class_normal", "as_published"]
"""How a labelled set becomes an anomaly task; `as_published` where the set itself says what is anomalous."""


@dataclass(frozen=True, slots=True, order=True)
class Task:
    """What is to be detected: a part of a data set, read in one way."""

    data: str
    """Name of the data set, as in `data.name`."""
    part: str
    """Class, category or set; `all` where the data set has no parts."""
    reading: Reading = "as_published"

    @property
    def name(self) -> str:
        """Of the task, in file names and for MLflow."""
        short = {"one_class_anomalous": "-anomalous", "one_class_normal": "-normal", "as_published": ""}
        return f"{self.data}-{self.part}{short[self.reading]}"


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One system on one task with one seed and one budget; experiments that share a cell share its record."""

    task: Task
    seed: int
    system: str
    budget: BudgetName

    @property
    def name(self) -> str:
        """Of the cell's folder, its record and its MLflow run."""
        return f"{self.task.name}-{self.system}-seed{self.seed}-{self.budget}"


class Record(Section):
    """What is known of a cell: what it measured and what that cost, or why there is nothing."""

    version: Literal[1] = 1
    cell: dict[str, Any]
    settings: str
    """Digest of the settings; a cell whose settings changed since is made again."""
    status: Literal["finished", "failed"]
    error: str | None = None
    measured: dict[str, Any] = Field(default={})
    """What `measures.collect` found; empty where the cell failed."""
    spent: dict[str, Any] = Field(default={})
    """Images seen, epochs, width, resolution, hardware, seconds by stage."""


def finished(cell: Cell, settings: str, measured: dict[str, Any], spent: dict[str, Any]) -> Record:
    """The record of a cell that was made."""
    return Record(cell=asdict(cell), settings=settings, status="finished", measured=measured, spent=spent)


def failed(cell: Cell, settings: str, error: BaseException) -> Record:
    """The record of a cell that could not be made."""
    text = " ".join(str(error).split())
    return Record(cell=asdict(cell), settings=settings, status="failed", error=f"{type(error).__name__}: {text[:600]}")


def record_path(folder: Path, cell: Cell) -> Path:
    """Where the record of a cell lies below the benchmark's folder."""
    return folder / "records" / f"{cell.name}.json"


def write_record(folder: Path, cell: Cell, record: Record) -> None:
    """Writes the record, aside then renamed; a number that is not finite is refused."""
    write_json(record_path(folder, cell), record.model_dump())  # mode="json" would turn NaN into null


def read_record(folder: Path, cell: Cell) -> Record | None:
    """The record of a cell; None where it was not made yet.

    Raises:
        DataError: The file is damaged or of another version.
    """
    path = record_path(folder, cell)
    if not path.is_file():
        return None
    try:
        record = Record.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{explain(error, str(path))}\nDelete the file to make the cell again.") from error
    if record.cell != asdict(cell):
        raise DataError(f"{path}: is the record of another cell ({record.cell}); delete it to make this one again")
    return record


def read_records(folder: Path, cells: Iterable[Cell]) -> dict[Cell, Record]:
    """The records that there are, by cell."""
    found = {cell: read_record(folder, cell) for cell in cells}
    return {cell: record for cell, record in found.items() if record is not None}
