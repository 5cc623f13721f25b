"""Which accepted image serves for training, calibration or test: whole groups at a time, seeded.

Groups are ordered by a hash of (seed, purpose, group), never by their place in the table, and the first ones are
taken until the count is met. So counts are exact to one group, and a new group moves at most three others (one across
the test boundary, and those that it displaces across the calibration boundary).
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vigil.config import SplitSection
from vigil.errors import DataError
from vigil.records import ANOMALOUS, NORMAL, SPLIT_TABLE
from vigil.seeding import derive_seed

_log = logging.getLogger(__name__)
COLUMNS = ["image_id", "label", "kind", "group", "official_split"]
"""Of the manifest, all that decides a split."""


@dataclass(slots=True)
class _Group:
    name: str
    rows: list[int]
    anomalous: bool = False
    kind: str = ""
    in_official_test: bool = False


def split_images(accepted: pa.Table, split: SplitSection) -> pa.Table:
    """The split of every image that is used (`records.SPLIT_TABLE`), sorted by `image_id`.

    Guarantees: no group is in two splits; `train` holds no anomalous image, nor a normal one of a group with anomalous
    images; calibration normals come out of the training normals.

    Official splits, where the data set has normal test images and `split.official` is true: `test` is made of official
    test images only. Images that are officially for training but share a group with a test image are left out, and so
    are anomalous ones that calibration does not take. Calibration takes its anomalous groups from those officially for
    training where there are any, else from test.

    Without: `test_fraction` of the normal groups is test, and all anomalous groups that calibration does not take.

    Args:
        accepted: records.MANIFEST, or its `COLUMNS`.
        split: How much goes where.

    Raises:
        DataError: A split would lack images of a label that it needs; the message says which setting to change.
    """
    columns = accepted.select(COLUMNS).to_pydict()
    groups = _groups(columns)
    normal = [group for group in groups if not group.anomalous]
    anomalous = [group for group in groups if group.anomalous]
    official = split.official and any(group.in_official_test for group in normal)
    if split.official and not official:
        _log.info("split: the data set names no normal test images, so the fractions decide")

    if official:
        test = {g.name for g in groups if g.in_official_test}
        spare = [g for g in anomalous if not g.in_official_test]
        calibration_anomalous = _first_by_kind(spare or anomalous, split)
        left_out = {g.name for g in spare} - calibration_anomalous
    else:
        test = _first(normal, split.seed, "test", split.test_fraction) | {g.name for g in anomalous}
        calibration_anomalous, left_out = _first_by_kind(anomalous, split), set()
    pool = [group for group in normal if group.name not in test]
    calibration = _first(pool, split.seed, "calibration", split.calibration_fraction) | calibration_anomalous
    test -= calibration

    assigned: dict[int, str] = {}
    for group in groups:
        if group.name in left_out:
            continue
        name = "calibration" if group.name in calibration else "test" if group.name in test else "train"
        for row in group.rows:
            if not (official and name == "test" and columns["official_split"][row] != "test"):
                assigned[row] = name
    _keep_at_most(assigned, columns, split)
    _check_none_is_empty(assigned, columns, split, official)

    rows = sorted(assigned, key=lambda row: columns["image_id"][row])
    chosen = {name: [columns[name][row] for row in rows] for name in ("image_id", "label", "kind", "group")}
    return (
        pa.table({**chosen, "split": [assigned[row] for row in rows]})
        .select(SPLIT_TABLE.schema.names)
        .cast(SPLIT_TABLE.schema)
    )


def _groups(columns: dict[str, list[Any]]) -> list[_Group]:
    found: dict[str, _Group] = {}
    for row, name in enumerate(columns["group"]):
        group = found.setdefault(name, _Group(name, []))
        group.rows.append(row)
        if columns["label"][row] == ANOMALOUS:
            kind = columns["kind"][row]
            group.anomalous, group.kind = True, min(group.kind or kind, kind)
        group.in_official_test |= columns["official_split"][row] == "test"
    return list(found.values())


def _count(share: float) -> int:
    """`share` rounded half up, but at least 1: a fraction above 0 never means nothing."""
    return max(1, int(share + 0.5))


def _by_hash(names: Iterable[str], seed: int, purpose: str) -> list[str]:
    return sorted(names, key=lambda name: (derive_seed(seed, f"split {purpose}\x1f{name}"), name))


def _first(groups: Collection[_Group], seed: int, purpose: str, fraction: float) -> set[str]:
    """The names of a `fraction` of the groups, in hash order."""
    return set(_by_hash((g.name for g in groups), seed, purpose)[: _count(fraction * len(groups))])


def _first_by_kind(groups: Collection[_Group], split: SplitSection) -> set[str]:
    """A `calibration_anomaly_fraction` of the groups, from every kind in proportion (largest remainders)."""
    fraction = split.calibration_anomaly_fraction
    if not fraction or not groups:
        return set()
    by_kind: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        by_kind[group.kind].append(group.name)
    taken = {kind: int(fraction * len(names) + 1e-9) for kind, names in by_kind.items()}
    order = {kind: place for place, kind in enumerate(_by_hash(by_kind, split.seed, "kinds"))}
    by_remainder = sorted(by_kind, key=lambda k: (taken[k] - fraction * len(by_kind[k]), order[k]))
    for kind in by_remainder[: _count(fraction * len(groups)) - sum(taken.values())]:
        taken[kind] += 1
    return {
        name
        for kind, names in by_kind.items()
        for name in _by_hash(names, split.seed, "calibration anomalies")[: taken[kind]]
    }


def _keep_at_most(assigned: dict[int, str], columns: dict[str, list[Any]], split: SplitSection) -> None:
    """Drops images in hash order until no split is larger than its bound."""
    bounds = {
        ("train", NORMAL): split.max_train_images,
        ("calibration", NORMAL): split.max_calibration_images,
        ("test", NORMAL): split.max_test_images,
        ("test", ANOMALOUS): split.max_test_images,
    }
    members: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for row, name in assigned.items():
        members[name, int(columns["label"][row])][columns["image_id"][row]] = row
    for key, bound in bounds.items():
        if bound is not None and len(members[key]) > bound:
            for image_id in _by_hash(members[key], split.seed, "bound")[bound:]:
                del assigned[members[key][image_id]]


def _check_none_is_empty(
    assigned: dict[int, str], columns: dict[str, list[Any]], split: SplitSection, official: bool
) -> None:
    counts = Counter((name, int(columns["label"][row])) for row, name in assigned.items())
    groups = len(set(columns["group"]))
    origin = "the data set's official split" if official else f"split.test_fraction {split.test_fraction}"
    advice = {
        ("train", NORMAL): "add normal images, or lower split.calibration_fraction and split.test_fraction",
        ("calibration", NORMAL): "add normal images of other groups",
        ("test", NORMAL): "add normal images of other groups, or set split.official to false",
        ("test", ANOMALOUS): "add anomalous images, or lower split.calibration_anomaly_fraction"
        + (", or set split.official to false" if official else ""),
    }
    for (name, label), what in advice.items():
        if not counts[name, label]:
            raise DataError(
                f"split: '{name}' would hold no {('normal', 'anomalous')[label]} image, out of {len(columns['group'])} "
                f"images in {groups} groups (with {origin}, calibration_fraction {split.calibration_fraction}, "
                f"calibration_anomaly_fraction {split.calibration_anomaly_fraction}); {what}"
            )
