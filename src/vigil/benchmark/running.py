"""One cell: the pipeline's own stages, in a folder of its own, resumed where a killed run left it.

<out>/raw/<data set>/                     imported or generated images
      prepared/<digest>/                  raw to start: what all systems of a task and seed share
      cells/<cell>/                       a project folder: params.json, data/ (links), models/, reports/
      trained/<digest>/                   the last checkpoint of a training, for the rows that share it; gone when an
                                          experiment has no cell left to make
      records/<cell>.json                 the cell's record; where it lies, the cell is done
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vigil.benchmark import measures
from vigil.benchmark.cells import Cell, Record, failed, finished, read_record, write_record
from vigil.benchmark.locks import locked
from vigil.benchmark.raw_data import GENERATED, RawData
from vigil.benchmark.settings import BUDGETS, RAW, Budget, Budgets, budget_of, params_of, settings_of
from vigil.benchmark.systems import is_beyond
from vigil.config import Params, candidate_sections
from vigil.errors import RegistryError
from vigil.files import digest_json, read_json, write_json
from vigil.images.shards import PatchShards
from vigil.networks.pair import PairSpec
from vigil.stages import layout
from vigil.training.plan import make_plan

_log = logging.getLogger(__name__)

PREPARING = ("raw", "manifest", "validate", "split", "patch", "start")
MEASURING = ("train", "score", "calibrate", "evaluate", "audit")
_ATTRIBUTES = {"validate": "validation", "register": "registration"}
_BY_DATA = (layout.MANIFEST, layout.ACCEPTED)
_SHARED = (layout.ACCEPTED, layout.SPLITS, Path("data/patches"), Path("data/rehearsal"), layout.START)
_DONE = "done.json"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where cells are made."""

    out: Path
    """Of everything that the benchmark keeps."""
    data: RawData
    presets: Path
    register: dict[str, Any]
    """The section that says where MLflow is, the same from every folder."""
    keep: bool = False
    """True: weights, scores and maps stay when a cell is done."""
    budgets: Budgets = field(default_factory=lambda: BUDGETS)

    def budget(self, cell: Cell) -> Budget:
        """What the cell may spend."""
        return budget_of(cell, self.budgets, self.presets)

    def settings(self, cell: Cell) -> dict[str, Any]:
        """The sections of the cell's params file; see `settings_of`."""
        return settings_of(cell, self.budget(cell), self.presets)


Announce = Callable[[Cell, Params], "contextlib.AbstractContextManager[Announced]"]


class Announced:
    """What a cell tells whoever keeps runs; does nothing itself."""

    def trained(self) -> None:
        """The pair lies in the working directory."""

    def done(self, record: Record) -> None:
        """The cell is done."""


@contextlib.contextmanager
def announced_to_nobody(_cell: Cell, _params: Params) -> Iterator[Announced]:
    """For cells that no one tracks."""
    yield Announced()


def settings_digest(place: Workplace, cell: Cell) -> str:
    """Digest of everything that decides what the cell measures, but for the code."""
    budget = place.budget(cell)
    return digest_json([place.settings(cell), [budget.images_seen, budget.epochs, budget.looks]])


def needs_making(place: Workplace, cell: Cell) -> bool:
    """Whether the cell has no record of a finished run with the settings of now."""
    record = read_record(place.out, cell)
    return record is None or record.status == "failed" or is_outdated(place, cell, record)


def is_outdated(place: Workplace, cell: Cell, record: Record) -> bool:
    """Whether the cell's record is of other settings than those of now."""
    return record.settings != settings_digest(place, cell)


def make_cell(place: Workplace, cell: Cell, announce: Announce = announced_to_nobody) -> Record | None:
    """The cell's record; made now if it is not there, resumed if a killed run began it.

    A failure becomes a record, too, and is tried again by the next run. None where another process is making the cell,
    or trains what the cell shares with another.

    Raises:
        RegistryError: The MLflow store does not answer; then no cell can be recorded.
    """
    with locked(place.out / "cells" / cell.name) as free:
        if not free:
            return None
        if not needs_making(place, cell):
            return read_record(place.out, cell)
        identity = settings_digest(place, cell)
        try:
            record = _made(place, cell, identity, announce)
            if record is None:
                return None
            write_record(place.out, cell, record)
            if not place.keep:
                _tidy(place.out / "cells" / cell.name)
        except RegistryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other cells go on, and the table says so
            _log.exception("%s failed", cell.name)
            record = failed(cell, identity, error)
            write_record(place.out, cell, record)
        return record


def _made(place: Workplace, cell: Cell, identity: str, announce: Announce) -> Record | None:
    settings, budget = place.settings(cell), place.budget(cell)
    prepared = prepare(place, cell, settings)
    train_patches = len(PatchShards.open(prepared / layout.PATCHES["train"]))
    params = params_of(settings, budget, train_patches, place.register)
    folder = place.out / "cells" / cell.name
    done = _begin(folder, params, prepared)
    with contextlib.ExitStack() as until_trained, contextlib.chdir(folder):
        shared = _shared_training(place, params) if is_beyond(cell.system) and "train" not in done else None
        if shared is not None and not until_trained.enter_context(locked(shared)):
            return None
        with announce(cell, params) as announced:
            looks = measures.Looks(Path("looks")) if measures.is_released(cell) else None
            for name in MEASURING:
                if name in done:
                    continue
                start = time.monotonic()
                if name == "train" and looks is not None:
                    looks.train(params)
                run_stage(name, params)
                done[name] = round(time.monotonic() - start, 2)
                if name == "train":
                    announced.trained()
                    if shared is not None:
                        done[name] = _seconds_of(shared, done[name])
                    until_trained.close()
                write_json(Path(_DONE), done)
            start = time.monotonic()
            measured = measures.collect(params, looks)
            done["further_measures"] = round(time.monotonic() - start, 2)
            spent = measures.spent(params, done)
            record = finished(cell, identity, measured, spent)
            announced.done(record)
            return record


def _shared_training(place: Workplace, params: Params) -> Path:
    """The folder of the training of the cell in the working directory, where rows with the same training find it; the
    train stage, which looks for checkpoints below its own folder, is led there by a link."""
    (candidate,) = params.train.candidates
    model, train = candidate_sections(params.model, params.train, candidate)
    spec = PairSpec(channels=params.patch.channels, patch_size_px=params.patch.patch_size_px, model=model)
    trained = place.out / "trained"
    trained.mkdir(parents=True, exist_ok=True)
    _link(layout.WORK / "train" / candidate.name, trained)
    return make_plan(spec, train, candidate.seed, PatchShards.open(layout.PATCHES["train"]), trained).folder


def _seconds_of(shared: Path, seconds: float) -> float:
    """What the stage took the row that trained, which is this one where no other did; `seconds` are this row's own."""
    known = shared / "seconds.json"
    if not known.is_file():
        write_json(known, {"train": seconds})
    return float(read_json(known)["train"])


def remove_trainings(place: Workplace) -> None:
    """Removes the checkpoints that rows shared, but for those that another process is at."""
    for folder in (place.out / "trained").glob("*/"):
        with locked(folder) as free:
            if free:
                shutil.rmtree(folder)


def _begin(folder: Path, params: Params, prepared: Path) -> dict[str, float]:
    """The seconds of the stages that a killed run finished; nothing is left of a run with other settings."""
    values = params.model_dump(mode="json", by_alias=True)
    params_file = folder / "params.json"
    if params_file.is_file() and read_json(params_file) != values:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in _SHARED:
        _link(folder / path, prepared / path)
    _link(folder / RAW / params.data.name, (prepared / RAW / params.data.name).resolve())
    write_json(params_file, values)
    done: dict[str, float] = read_json(folder / _DONE) if (folder / _DONE).is_file() else {}
    return done


def _link(path: Path, target: Path) -> None:
    if path.is_symlink():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target.resolve(), target_is_directory=target.is_dir())


def _tidy(folder: Path) -> None:
    """Removes what a table does not show; the reports and the calibration stay."""
    for path in ("data", "looks", layout.PAIR, layout.START, layout.WORK):
        if (folder / path).is_symlink():
            (folder / path).unlink()
        else:
            shutil.rmtree(folder / path, ignore_errors=True)
    (folder / _DONE).unlink()


# ---------------------------------------------------------------------------------------------------------- preparing


def prepare(place: Workplace, cell: Cell, settings: dict[str, Any]) -> Path:
    """The folder in which the stages `raw` to `start` have run for this task and seed; run now if they have not.

    The manifest, which decodes every image, is shared by all seeds of a task.
    """
    name, raw = cell.task.name, RAW / cell.task.data
    by_data = place.out / "prepared" / f"{name}-{digest_json([settings['data'], settings['validate']])[:12]}"
    shared = digest_json([settings[section] for section in ("data", "validate", "split", "patch", "start")])
    by_seed = place.out / "prepared" / f"{name}-seed{cell.seed}-{shared[:12]}"
    params = params_of(settings, place.budget(cell), 1, place.register)  # the budget decides nothing here
    imported = {} if cell.task.data in GENERATED else {raw: lambda: place.data.folder_of(cell.task)}
    _prepared(by_data, PREPARING[:3], params, imported)
    _prepared(by_seed, PREPARING[3:], params, {path: partial(Path, by_data / path) for path in (raw, *_BY_DATA)})
    return by_seed


def _prepared(folder: Path, stages: tuple[str, ...], params: Params, links: dict[Path, Callable[[], Path]]) -> None:
    """Runs the stages in the folder, which gets these links first, unless they have run there."""
    with locked(folder, wait=True):
        if (folder / _DONE).is_file():
            return
        for path, target in links.items():
            _link(folder / path, target())
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):
            for name in stages:
                run_stage(name, params)
            write_json(Path(_DONE), list(stages))


def run_stage(name: str, params: Params) -> None:
    """Runs one stage of the pipeline in the working directory, as `vigil stage NAME` does."""
    run = importlib.import_module(f"vigil.stages.{name}").run
    run(
        **{section: getattr(params, _ATTRIBUTES.get(section, section)) for section in inspect.signature(run).parameters}
    )
