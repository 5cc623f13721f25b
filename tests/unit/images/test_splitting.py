"""Which image serves for what: whole groups, no anomaly in training, official test images stay test images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vigil.config import SplitSection
from vigil.errors import DataError
from vigil.images.splitting import split_images
from vigil.records import MANIFEST, SPLIT_TABLE

Image = tuple[str, str, str, str | None]
"""image_id, kind, group, official split."""


def accepted(*images: Image) -> pa.Table:
    rows = [
        {
            **dict.fromkeys(MANIFEST.schema.names),
            "image_id": image_id,
            "path": image_id,
            "bytes": 1,
            "sha256": image_id,
            "label": int(kind != "normal"),
            "kind": kind,
            "group": group,
            "official_split": official,
            "boxes": [],
        }
        for image_id, kind, group, official in images
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST.schema)


def many(count: int, kind: str = "normal", official: str | None = None, per_group: int = 1) -> list[Image]:
    name = f"{kind}-{official}"
    return [(f"{name}-{i:04d}", kind, f"{name}-group-{i // per_group}", official) for i in range(count)]


def split(images: list[Image], **settings: Any) -> dict[str, str]:
    table = split_images(accepted(*images), SplitSection(**settings))
    return dict(zip(table["image_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def counted(images: list[Image], **settings: Any) -> dict[tuple[str, str], int]:
    table = split_images(accepted(*images), SplitSection(**settings))
    return dict(Counter(zip(table["split"].to_pylist(), table["kind"].to_pylist(), strict=True)))


def test_fractions_decide_where_there_is_no_official_split(tmp_path: Path) -> None:
    images = many(200) + many(40, "dent") + many(20, "hole")
    assert counted(images, test_fraction=0.25, calibration_fraction=0.2, calibration_anomaly_fraction=0.3) == {
        ("test", "normal"): 50,
        ("calibration", "normal"): 30,
        ("train", "normal"): 120,
        ("calibration", "dent"): 12,
        ("calibration", "hole"): 6,
        ("test", "dent"): 28,
        ("test", "hole"): 14,
    }
    table = split_images(accepted(*reversed(images)), SplitSection())
    SPLIT_TABLE.write(tmp_path / "splits.parquet", table)
    assert table["image_id"].to_pylist() == sorted(table["image_id"].to_pylist())
    assert not any(name == "calibration" and kind != "normal" for name, kind in counted(images))


def test_official_test_images_stay_test_images() -> None:
    images = many(100, official="train") + many(20, official="test") + many(30, "dent", "test")
    assert counted(images, calibration_fraction=0.1) == {
        ("train", "normal"): 90,
        ("calibration", "normal"): 10,
        ("test", "normal"): 20,
        ("test", "dent"): 30,
    }
    assert counted(images, calibration_anomaly_fraction=0.5)["test", "dent"] == 15
    assert counted(images, official=False, test_fraction=0.5)["test", "normal"] == 60


def test_anomalies_officially_for_training_serve_calibration_or_nothing() -> None:
    images = many(100, official="train") + many(20, official="test")
    images += many(50, "cat", "train") + many(10, "cat", "test")
    assert ("calibration", "cat") not in counted(images)
    assert counted(images)["test", "cat"] == 10
    with_some = counted(images, calibration_anomaly_fraction=0.2)
    assert (with_some["calibration", "cat"], with_some["test", "cat"]) == (10, 10)


def test_an_official_split_of_training_images_alone_decides_nothing() -> None:
    images = many(100, official="train") + many(10, "cat", "train")
    assert counted(images, test_fraction=0.3)["test", "normal"] == 30


def test_groups_stay_whole_and_no_training_image_shares_one_with_a_test_image() -> None:
    images = many(120, per_group=4) + many(30, "dent", per_group=3)
    images += [("with-a-dent", "normal", "dent-None-group-0", None)]
    found = split(images, calibration_anomaly_fraction=0.4)
    for group in {g for _, _, g, _ in images}:
        assert len({found[i] for i, _, g, _ in images if g == group}) == 1
    assert found["with-a-dent"] != "train"

    official = many(40, official="train") + many(10, official="test") + many(5, "dent", "test")
    straddling = (*official[0][:2], official[40][2], *official[0][3:])
    assert official[0][0] in split(official)
    found = split([straddling, *official[1:]])
    assert straddling[0] not in found
    assert found[official[40][0]] == "test"


def test_another_seed_splits_otherwise_and_the_same_seed_alike() -> None:
    images = many(100) + many(20, "dent")
    assert split(images, seed=1) == split(images, seed=1) != split(images, seed=2)


def test_bounds_take_a_seeded_subset_and_move_nothing() -> None:
    images = many(200) + many(60, "dent")
    everything = split(images)
    bounded = split(images, max_train_images=50, max_calibration_images=5, max_test_images=20)
    assert Counter(bounded.values()) == {"train": 50, "calibration": 5, "test": 40}
    assert all(everything[image] == name for image, name in bounded.items())
    fewer = split(images, max_train_images=30, max_calibration_images=5, max_test_images=20)
    assert set(fewer) < set(bounded)


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (many(20), {}, "'test' would hold no anomalous image, .*; add anomalous images, or lower"),
        (many(5, "dent"), {}, "'train' would hold no normal image, out of 5 images in 5 groups .*; add normal images"),
        (many(1) + many(5, "dent"), {}, "'train' would hold no normal image"),
        (many(2) + many(5, "dent"), {}, "'train' would hold no normal image"),
        (many(30, per_group=30) + many(5, "dent"), {}, "out of 35 images in 6 groups"),
        (many(20) + many(5, "dent"), {"calibration_anomaly_fraction": 1.0}, "'test' would hold no anomalous image"),
        (
            many(20, official="train") + many(5, official="test") + many(5, "dent", "train"),
            {},
            "'test' would hold no anomalous image, .*official split.*or set split.official to false",
        ),
        (many(9, official="test") + many(5, "dent", "test"), {}, "'train' would hold no normal image"),
    ],
)
def test_an_empty_split_is_named_with_what_to_change(
    images: list[Image], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split(images, **settings)


def test_three_normal_groups_are_enough() -> None:
    assert Counter(split(many(3) + many(1, "dent")).values()) == {"train": 1, "calibration": 1, "test": 2}
