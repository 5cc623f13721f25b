"""What each experiment of the paper consists of: its tasks, its systems, and the columns of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from vigil.benchmark import published
from vigil.benchmark.cells import BudgetName, Cell, Reading, Record, Task
from vigil.benchmark.raw_data import RawData
from vigil.benchmark.settings import SIXRAY_SETS
from vigil.benchmark.systems import ABLATIONS, BEYOND_PARTS, BEYOND_SCANS, BEYOND_SMALL, PAIR, SYSTEMS, System
from vigil.errors import ConfigError
from vigil.images.readers import cifar10, sixray

ExperimentName = Literal[
    "table1", "table2", "table3", "ablations", "threats", "figures", "beyond-scans", "beyond-parts", "beyond-small"
]
NAMES: tuple[ExperimentName, ...] = get_args(ExperimentName)

MVTEC_CATEGORIES = (
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile"),
    *("toothbrush", "transistor", "wood", "zipper"),
)
_FEWEST_NORMAL_SCANS = 10_000
_SIMULATOR = Task("baggage", "all")
_TILE = Task("magnetic_tile", "all")

Value = float | None
Getter = Callable[[Record], Value]
Baseline = Literal["trivial", "laplacian", "untrained"]
BASELINES: Mapping[Baseline, str] = {
    "trivial": "*best trivial image feature*",
    "laplacian": "*Laplacian energy*",
    "untrained": "*untrained discriminator, Mahalanobis*",
}
"""Rows that learned nothing, in every table."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A column of what was measured here."""

    title: str
    measure: str
    """What it is called in the CSV."""
    protocol: str
    value: Getter
    of_baseline: Callable[[Record, Baseline], Value] | None
    """None where the column says nothing of baseline rows, which have no threshold and no training."""
    reading: Reading = "as_published"
    digits: int = 3
    not_for: Callable[[System], bool] = lambda _system: False
    """Whether the column says nothing of a system, and is left empty."""
    undefined: str = "not defined on this task"
    """Why the value may be None although the cell is there."""


@dataclass(frozen=True, slots=True)
class Published:
    """A column of what others published."""

    title: str
    measures: tuple[str, ...]
    """The measures that it stands beside."""
    value: Callable[[str, str, str], float | str | None]
    """From data set, part and system."""


Column = Measured | Published


@dataclass(frozen=True, slots=True)
class Section:
    """One table of an experiment: a class, a category or a set, in all the ways it is read."""

    heading: str
    tasks: tuple[Task, ...]
    columns: tuple[Column, ...]

    def task(self, reading: Reading) -> Task | None:
        """The task that is read this way."""
        return next((task for task in self.tasks if task.reading == reading), None)


@dataclass(frozen=True, slots=True)
class Average:
    """A table of means over sections."""

    heading: str
    over: tuple[Section, ...]
    data: str
    """For the published mean, of the part `average`."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A table of the paper, as it is rebuilt here."""

    name: ExperimentName
    title: str
    about: tuple[str, ...]
    """Paragraphs: what stands in the columns."""
    systems: tuple[System, ...]
    sections: tuple[Section, ...]
    averages: tuple[Average, ...] = ()

    def cells(self, seeds: int, budget: BudgetName) -> list[Cell]:
        """All cells, those first that fill a row of every system: seed by seed, task by task."""
        tasks = [task for section in self.sections for task in section.tasks]
        return [
            Cell(task, seed, system.name, budget) for seed in range(seeds) for task in tasks for system in self.systems
        ]


# ------------------------------------------------------------------------------------------------------------- columns


def _nested(record: Record, *keys: str) -> Value:
    value: object = record.measured
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _getter(*keys: str) -> Getter:
    return lambda record: _nested(record, *keys)


def _baseline_auroc(record: Record, baseline: Baseline) -> Value:
    if baseline == "untrained":
        return _nested(record, "untrained")
    return _of_trivial(record.measured.get("trivial") or {}, baseline)


def _baseline_patches(record: Record, baseline: Baseline) -> Value:
    return (
        None
        if baseline == "untrained"
        else _of_trivial((record.measured["mask_cropped"] or {}).get("trivial", {}), baseline)
    )


def _baseline_inside(record: Record, baseline: Baseline) -> Value:
    inside = record.measured["patch_auroc_inside"]
    return None if baseline == "untrained" or inside is None else _of_trivial(inside["trivial"], baseline)


def _of_trivial(values: Mapping[str, float | None], baseline: Baseline) -> Value:
    if baseline == "laplacian":
        return values.get("laplacian_energy")
    return max((value for value in values.values() if value is not None), default=None)


def _cost(name: str) -> Getter:
    return lambda record: record.spent["seconds"].get(name)


def _image_auroc(title: str, reading: Reading = "as_published") -> Measured:
    return Measured(title, "image_auroc", "strict", _getter("auroc", "value"), _baseline_auroc, reading)


def _released(title: str, reading: Reading = "as_published") -> Measured:
    return Measured(
        title,
        "image_auroc",
        "released (a leak)",
        _getter("released", "auroc"),
        None,
        reading,
        not_for=lambda system: not system.released,
    )


_NO_MASK = "no test image has a mask or a box"
_MASK_CROPPED = Measured(
    "patch AUROC, mask-cropped",
    "patch_auroc_mask_cropped",
    "paper's patches, one position rule",
    _getter("mask_cropped", "auroc"),
    _baseline_patches,
    undefined=_NO_MASK,
)
_PAPER_PATCHES = Measured(
    "patch AUROC, normal patches on the grid",
    "patch_auroc_paper",
    "paper",
    _getter("patch_auroc_paper"),
    None,
    undefined=_NO_MASK,
)
_RECALL = Measured("recall", "recall", "strict", _getter("recall", "value"), None)
_FPR = Measured("false-positive rate", "fpr", "strict", _getter("fpr", "value"), None)
_CONVERGED = Measured(
    "epochs to converge",
    "epochs_to_converge",
    "strict",
    _getter("epochs_to_converge"),
    None,
    digits=1,
    undefined="the loss was still falling when the budget was used up, or is adversarial alone and never settles",
)


def _kind_recall(kind: str) -> Measured:
    return Measured(
        kind,
        f"recall_{kind}",
        "strict",
        _getter("per_kind", kind, "recall", "value"),
        None,
        undefined="no test image holds this threat",
    )


# --------------------------------------------------------------------------------------------------------- experiments


def experiment(
    name: ExperimentName, data: RawData, parts: Sequence[str] | None = None, systems: Sequence[str] | None = None
) -> Experiment:
    """An experiment, or a part of it.

    Args:
        name: Which.
        data: The data sets that are there; they decide whether SIXray's sets or a slice of it stands in table 3.
        parts: Classes, categories or sets; None takes the paper's own.
        systems: Names of systems; None takes all.

    Raises:
        ConfigError: A part or a system is none of this experiment.
    """
    made = {
        "table1": _table1,
        "table2": _table2,
        "table3": _table3,
        "ablations": _ablations,
        "threats": _threats,
        "figures": _figures,
        "beyond-scans": _beyond_scans,
        "beyond-parts": _beyond_parts,
        "beyond-small": _beyond_small,
    }[name](data)
    if systems is not None:
        known = {system.name: system for system in made.systems}
        _check("--systems", systems, known)
        made = _replaced(made, systems=tuple(known[system] for system in known if system in systems))
    if parts is not None:
        known_parts = {part for section in made.sections for part in _names(section)}
        _check("--classes", parts, known_parts)
        sections = tuple(section for section in made.sections if _names(section) & set(parts))
        averages = tuple(
            Average(average.heading, tuple(s for s in average.over if s in sections), average.data)
            for average in made.averages
        )
        made = _replaced(made, sections=sections, averages=averages)
    return made


def _replaced(made: Experiment, **changes: object) -> Experiment:
    return replace(made, **changes)  # type: ignore[arg-type]


def _names(section: Section) -> set[str]:
    return {task.data if task.part == "all" else task.part for task in section.tasks}


def _check(option: str, given: Sequence[str], known: Mapping[str, object] | set[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise ConfigError(
            f"{option}: unknown {', '.join(unknown) or '(nothing)'}; this experiment has {', '.join(sorted(known))}"
        )


def _table1(_data: RawData) -> Experiment:
    columns: tuple[Column, ...] = (
        _image_auroc("this class anomalous", "one_class_anomalous"),
        _image_auroc("this class normal", "one_class_normal"),
        _released("this class anomalous, `released` (a leak)", "one_class_anomalous"),
        _released("this class normal, `released` (a leak)", "one_class_normal"),
        Published("published", ("image_auroc",), published.auc),
    )
    sections = tuple(
        Section(
            name, (Task("cifar10", name, "one_class_anomalous"), Task("cifar10", name, "one_class_normal")), columns
        )
        for name in cifar10.CLASSES
    )
    about = (
        'The paper says "1 vs all" and not which way round. The public code of the family holds one class out as the '
        "anomaly; most other work on CIFAR-10 takes one class as normal. Both stand here, in columns of their own.",
    )
    mean = Average("Mean of the classes above", sections, "cifar10")
    return Experiment("table1", "Table 1: CIFAR-10, AUROC", about, tuple(SYSTEMS.values()), sections, (mean,))


def _table2(data: RawData) -> Experiment:
    columns: tuple[Column, ...] = (
        _image_auroc("image AUROC"),
        _MASK_CROPPED,
        _PAPER_PATCHES,
        _released("image AUROC, `released` (a leak)"),
        Published("published (patches)", ("patch_auroc_mask_cropped", "patch_auroc_paper"), published.auc),
    )
    present = data.mvtec_categories() or list(MVTEC_CATEGORIES)
    categories = tuple(Section(name, (Task("mvtec", name),), columns) for name in present)
    tile = Section("magnetic tile (not in the paper)", (_TILE,), columns)
    about = (
        "An image's score is the highest of all its patches. The paper cuts defective patches out with the masks and "
        "normal ones from defect-free images, which takes the hard part away: to find a small defect in a large "
        "image. Its measure stands here twice: with normal patches cut in the same places as the defects (*mask-"
        "cropped*), and with normal patches of the whole grid, scaled by the extremes of the test set, as the paper "
        "says.",
    )
    mean = Average("Average of the MVTec AD categories above", categories, "mvtec")
    return Experiment(
        "table2", "Table 2: MVTec AD, AUROC", about, tuple(SYSTEMS.values()), (*categories, tile), (mean,)
    )


def _table3(data: RawData) -> Experiment:
    columns: tuple[Column, ...] = (
        _image_auroc("AUROC"),
        _RECALL,
        _FPR,
        _CONVERGED,
        _MASK_CROPPED,
        _released("AUROC, `released` (a leak)"),
        Published("published AUC", ("image_auroc",), published.auc),
        Published("published recall", ("recall",), published.recall),
    )
    sections = tuple(
        Section(_sixray_heading(task, data), (task,), columns) for task in _sixray_tasks(data, all_sets=True)
    )
    about = (
        "Recall and false-positive rate are those at the calibrated threshold, which asks for 5 % false positives on "
        "normal calibration images; the paper does not say at which threshold its recall stands. Bags with and "
        "without threats were often recorded differently, so that the rows that learned nothing say how much an "
        "image's AUROC is worth here.",
    )
    return Experiment("table3", "Table 3: SIXray, AUROC and recall", about, tuple(SYSTEMS.values()), sections)


def _ablations(data: RawData) -> Experiment:
    columns: tuple[Column, ...] = (
        _image_auroc("AUROC"),
        _RECALL,
        _FPR,
        _MASK_CROPPED,
        Published("published effect", ("image_auroc",), lambda _data, _part, system: published.ABLATIONS.get(system)),
    )
    sections = tuple(
        Section("simulated baggage" if task == _SIMULATOR else _sixray_heading(task, data), (task,), columns)
        for task in (*_sixray_tasks(data), _SIMULATOR)
    )
    about = (
        "The paper's pair, one switch at a time, all else equal. The paper's effects are those on SIXray's set A.",
    )
    return Experiment("ablations", "Ablations of the paper's pair", about, tuple(ABLATIONS.values()), sections)


def _threats(data: RawData) -> Experiment:
    sections = []
    for task in (*_sixray_tasks(data), _SIMULATOR):
        of_paper = task.data == "sixray"
        columns: list[Column] = []
        for kind in sixray.CLASSES:
            columns.append(_kind_recall(kind))
            if of_paper:
                columns.append(Published(f"{kind}, published", (f"recall_{kind}",), _published_threat(kind)))
        columns.append(_FPR)
        heading = _sixray_heading(task, data) if of_paper else "simulated baggage"
        sections.append(Section(heading, (task,), tuple(columns)))
    about = (
        "Recall per kind of threat at the calibrated threshold (5 % false positives asked for), over whole images; a "
        "bag with several threats counts for each. The paper's recalls are over patches cut out with the boxes.",
    )
    return Experiment("threats", "Recall per kind of threat", about, tuple(SYSTEMS.values()), tuple(sections))


def _published_threat(kind: str) -> Callable[[str, str, str], float | None]:
    return lambda data, _part, system: published.threat_recall(data, kind, system)


def _figures(data: RawData) -> Experiment:
    sections = tuple(
        Section(
            "simulated baggage" if task == _SIMULATOR else _sixray_heading(task, data),
            (task,),
            (_image_auroc("AUROC"),),
        )
        for task in (*_sixray_tasks(data, all_sets=True), _SIMULATOR)
    )
    about = (
        "The paper's pair. Figure 6 shows the scores of normal and of anomalous test images, figure 7 the ROC curves.",
    )
    return Experiment("figures", "Figures 6 and 7", about, (SYSTEMS[PAIR],), sections)


_AT_5_PERCENT = Measured(
    "recall at 5 % false positives, read off the ROC",
    "recall_at_5_percent_fpr",
    "strict",
    _getter("recall_at_5_percent_fpr"),
    None,
)
_WHERE = (
    Measured("pixel AUROC", "pixel_auroc", "strict", _getter("pixel_auroc"), None, undefined=_NO_MASK),
    Measured("AUPRO", "aupro", "strict", _getter("aupro"), None, undefined=_NO_MASK),
    Measured("hit rate", "box_hit_rate", "strict", _getter("box_hit_rate", "value"), None, undefined=_NO_MASK),
    Measured(
        "patch AUROC inside anomalous images",
        "patch_auroc_inside",
        "strict",
        _getter("patch_auroc_inside", "value"),
        _baseline_inside,
        undefined="no test image with a mask or a box has patches both on and off its anomaly",
    ),
)
_COST = (
    Measured("training, s", "train_s", "wall time", _cost("train"), None, digits=0),
    Measured("scoring, ms per patch", "score_ms", "wall time", _cost("score_ms_per_patch"), None, digits=1),
)
_BEYOND_ABOUT = (
    "Each row is the preset of the data set with one thing changed; the first row is the preset itself. The epochs "
    "stand above each table; with `--budget cpu` they are a third of the preset's own on X-ray scans, a ninth on "
    "objects and surfaces, all of them on CIFAR-10. Rows that differ in the score alone share one training, and each "
    "names its seconds. The seed decides the split, too. Times are wall times of a machine that other work may have "
    "shared.",
)


def _beyond_scans(data: RawData) -> Experiment:
    return _beyond(
        "beyond-scans",
        "Beyond the paper: X-ray scans, one switch at a time",
        BEYOND_SCANS,
        [
            ("simulated baggage" if task == _SIMULATOR else _sixray_heading(task, data), task)
            for task in (_SIMULATOR, *_sixray_tasks(data))
        ],
        (_RECALL, _FPR, *_WHERE),
    )


def _beyond_parts(data: RawData) -> Experiment:
    categories = data.mvtec_categories() or list(MVTEC_CATEGORIES)
    tasks = [*((f"MVTec AD, {name}", Task("mvtec", name)) for name in categories), ("magnetic tile", _TILE)]
    return _beyond(
        "beyond-parts",
        "Beyond the paper: objects and surfaces, one switch at a time",
        BEYOND_PARTS,
        tasks,
        (_RECALL, _FPR, *_WHERE),
    )


def _beyond_small(_data: RawData) -> Experiment:
    made = _beyond(
        "beyond-small",
        "Beyond the paper: CIFAR-10, one class normal, one switch at a time",
        BEYOND_SMALL,
        [(name, Task("cifar10", name, "one_class_normal")) for name in cifar10.CLASSES],
        (),
        "one_class_normal",
    )
    return _replaced(made, averages=(Average("Mean of the classes above", made.sections, "cifar10"),))


def _beyond(
    name: ExperimentName,
    title: str,
    switches: Mapping[str, System],
    tasks: Sequence[tuple[str, Task]],
    more: tuple[Column, ...],
    reading: Reading = "as_published",
) -> Experiment:
    five = replace(_AT_5_PERCENT, reading=reading)
    columns = (
        _image_auroc("image AUROC", reading),
        five,
        *more,
        *(replace(column, reading=reading) for column in _COST),
    )
    sections = tuple(Section(heading, (task,), columns) for heading, task in tasks)
    return Experiment(name, title, _BEYOND_ABOUT, tuple(switches.values()), sections)


def _sixray_tasks(data: RawData, all_sets: bool = False) -> tuple[Task, ...]:
    """Set A, or A, B and C; a slice of all that is there where it is too small for set A."""
    sets = tuple(Task("sixray", name) for name in SIXRAY_SETS)
    slice_of_it = (Task("sixray", "slice"),) if 0 < data.sixray_negatives() < _FEWEST_NORMAL_SCANS else ()
    return (*slice_of_it, *sets) if all_sets else slice_of_it or sets[:1]


def _sixray_heading(task: Task, data: RawData) -> str:
    if task.part == "slice":
        return f"SIXray, a slice with {data.sixray_negatives():,} normal scans"
    return f"SIXray, set {task.part} ({SIXRAY_SETS[task.part]:,} normal scans)"
