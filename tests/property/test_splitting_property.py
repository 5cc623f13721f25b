"""Splits of random data sets: groups whole, training normal, counts exact, and stable under additions."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from vigil.config import SplitSection
from vigil.images.splitting import split_images
from vigil.records import MANIFEST

SIZES = st.integers(1, 4)


def table(normal: list[int], anomalous: list[int]) -> pa.Table:
    """Groups of the given sizes, normal and anomalous."""
    rows = []
    for label, sizes in ((0, normal), (1, anomalous)):
        for number, size in enumerate(sizes):
            for member in range(size):
                name = f"{label}-{number}-{member}"
                row = dict.fromkeys(MANIFEST.schema.names)
                row |= {"image_id": name, "path": name, "bytes": 1, "sha256": name, "label": label, "boxes": []}
                row |= {"kind": ("normal", f"kind {number % 3}")[label], "group": f"{label}-{number}"}
                rows.append(row)
    return pa.Table.from_pylist(rows, schema=MANIFEST.schema)


def split(normal: list[int], anomalous: list[int], section: SplitSection) -> dict[str, tuple[str, str, int]]:
    """Split, group and label of each image."""
    rows = split_images(table(normal, anomalous), section).to_pylist()
    return {row["image_id"]: (row["split"], row["group"], row["label"]) for row in rows}


def groups(found: dict[str, tuple[str, str, int]], label: int) -> dict[str, str]:
    return {group: name for name, group, of_label in found.values() if of_label == label}


@given(
    normal=st.lists(SIZES, min_size=12, max_size=40),
    anomalous=st.lists(SIZES, min_size=2, max_size=20),
    seed=st.integers(0, 2**31),
    test_fraction=st.floats(0.1, 0.5),
    calibration_fraction=st.floats(0.1, 0.5),
    anomaly_fraction=st.floats(0.0, 0.5),
)
def test_groups_are_whole_training_is_normal_and_counts_are_exact(
    normal: list[int],
    anomalous: list[int],
    seed: int,
    test_fraction: float,
    calibration_fraction: float,
    anomaly_fraction: float,
) -> None:
    section = SplitSection(
        seed=seed,
        test_fraction=test_fraction,
        calibration_fraction=calibration_fraction,
        calibration_anomaly_fraction=anomaly_fraction,
    )
    found = split(normal, anomalous, section)
    assert len(found) == sum(normal) + sum(anomalous)
    assert len({(name, group) for name, group, _ in found.values()}) == len(normal) + len(anomalous)
    assert not any(name == "train" and label for name, _, label in found.values())

    of_normal = list(groups(found, 0).values())
    assert abs(of_normal.count("test") - test_fraction * len(normal)) <= 1
    rest = len(normal) - of_normal.count("test")
    assert abs(of_normal.count("calibration") - calibration_fraction * rest) <= 1
    assert abs(list(groups(found, 1).values()).count("calibration") - anomaly_fraction * len(anomalous)) <= 1


@given(
    normal=st.lists(SIZES, min_size=12, max_size=40),
    anomalous=st.lists(SIZES, min_size=2, max_size=20),
    seed=st.integers(0, 2**31),
)
def test_one_more_image_moves_at_most_three_other_groups(normal: list[int], anomalous: list[int], seed: int) -> None:
    section = SplitSection(seed=seed)
    before, after = groups(split(normal, anomalous, section), 0), groups(split([*normal, 1], anomalous, section), 0)
    assert sum(before[group] != after[group] for group in before) <= 3
