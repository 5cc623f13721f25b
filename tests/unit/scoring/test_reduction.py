import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vigil.config import ReductionSection
from vigil.errors import DataError, ScoreNotFinite
from vigil.records import PATCH_SCORES
from vigil.scoring.reduction import image_scores, images_of

MAX = ReductionSection(name="max")


def top(k: int) -> ReductionSection:
    return ReductionSection(name="top_k_mean", k=k)


def table(rows: list[tuple[str, str, int, str, float]]) -> pa.Table:
    """PATCH_SCORES with (image_id, source, image_label, kind, contextual) given and the rest made up."""
    columns: dict[str, list[object]] = {name: [] for name in PATCH_SCORES.schema.names}
    for number, (image_id, source, image_label, kind, contextual) in enumerate(rows):
        row = {
            "patch_id": f"{image_id}@{number}", "image_id": image_id, "bucket": 0, "row": number, "source": source,
            "y": 0, "x": 0, "image_height": 8, "image_width": 8, "label": image_label, "image_label": image_label,
            "kind": kind, "group": f"group-{image_id}", "contextual": contextual, "latent": 2 * contextual,
            "map_peak": 3 * contextual,
        }  # fmt: skip
        for name, value in row.items():
            columns[name].append(value)
    return pa.table(columns, schema=PATCH_SCORES.schema)


def test_reductions_by_hand() -> None:
    scores, image = np.array([1.0, 5.0, 2.0, 9.0, 4.0, 3.0]), np.array([0, 0, 0, 1, 2, 2])
    assert image_scores(scores, image, MAX).tolist() == [5.0, 9.0, 4.0]
    assert image_scores(scores, image, top(2)).tolist() == [3.5, 9.0, 3.5]
    assert image_scores(scores, image, top(1)).tolist() == [5.0, 9.0, 4.0]


def test_negative_scores_are_reduced_alike() -> None:
    scores, image = np.array([-3.0, -1.0, -2.0]), np.array([0, 0, 0])
    assert image_scores(scores, image, MAX).tolist() == [-1.0]
    assert image_scores(scores, image, top(2)).tolist() == [-1.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_patch_score_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ScoreNotFinite, match="patch score number 1"):
        image_scores(np.array([1.0, bad]), np.array([0, 0]), MAX)


def test_an_image_without_patches_is_refused() -> None:
    with pytest.raises(DataError, match=r"numbers \[1\]"):
        image_scores(np.array([1.0, 2.0]), np.array([0, 2]), MAX)
    with pytest.raises(DataError, match="no grid patch"):
        image_scores(np.array([]), np.array([], dtype=np.intp), MAX)


def test_images_of_leaves_regions_of_interest_out() -> None:
    rows = [("b", "grid", 1, "cut", 1.0), ("a", "grid", 0, "normal", 2.0), ("b", "roi", 1, "cut", 9.0)]
    images = images_of(table([*rows, ("b", "grid", 1, "cut", 3.0)]))
    assert images.ids.tolist() == ["a", "b"]
    assert images.labels.tolist() == [0, 1]
    assert images.kinds.tolist() == ["normal", "cut"]
    assert images.groups.tolist() == ["group-a", "group-b"]
    assert images.patch_image.tolist() == [1, 0, 1]
    assert images.components["contextual"].tolist() == [1.0, 2.0, 3.0]
    assert images.components["map_peak"].tolist() == [3.0, 6.0, 9.0]


def test_images_of_refuses_torn_labels_and_images_without_grid() -> None:
    with pytest.raises(DataError, match="image a carries two labels"):
        images_of(table([("a", "grid", 0, "normal", 1.0), ("a", "grid", 1, "cut", 1.0)]))
    with pytest.raises(DataError, match="such as b"):
        images_of(table([("a", "grid", 0, "normal", 1.0), ("b", "roi", 1, "cut", 1.0)]))
    with pytest.raises(DataError, match="none of the 1 scored patches"):
        images_of(table([("b", "roi", 1, "cut", 1.0)]))


def test_optional_components_are_kept_and_never_hold_a_nan(tmp_path: Path) -> None:
    plain = table([("a", "grid", 0, "normal", 1.0)])
    assert "memory" not in images_of(plain).components
    for value in (2.0, float("nan")):
        longer = plain.append_column(PATCH_SCORES.field("memory"), pa.array([value]))
        assert list(images_of(longer).components) == ["contextual", "latent", "map_peak", "memory"]
        if value == 2.0:
            PATCH_SCORES.write(tmp_path / "s.parquet", longer)
            assert PATCH_SCORES.read(tmp_path / "s.parquet").column("memory").to_pylist() == [2.0]
        else:
            with pytest.raises(DataError, match="column 'memory' of table 'patch_scores' holds a null or a NaN"):
                PATCH_SCORES.write(tmp_path / "s.parquet", longer)
    with pytest.raises(DataError, match="unknown"):
        PATCH_SCORES.write(tmp_path / "s.parquet", plain.append_column("more", pa.array([1.0])))
