from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vigil.calibration.calibration import (
    Calibration,
    fit_calibration,
    read_calibration,
    recalibrated,
    write_calibration,
)
from vigil.calibration.threshold import is_anomalous, lower_bound
from vigil.config import CalibrateSection, ReductionSection
from vigil.errors import CalibrationError, DataError, ScoreNotFinite
from vigil.records import PATCH_SCORES
from vigil.seeding import numpy_generator


def patches(
    normal: np.ndarray, anomalous: np.ndarray, *, latent: np.ndarray | None = None, per_image: int = 1
) -> pa.Table:
    """PATCH_SCORES with these contextual components, `per_image` grid patches per image; peak = 10 contextual."""
    contextual = np.concatenate([normal, anomalous]).astype(np.float64)
    count = len(contextual)
    label = [0] * len(normal) + [1] * len(anomalous)
    return pa.table(
        {
            "patch_id": [f"p{i}" for i in range(count)],
            "image_id": [f"{label[i]}-{i // per_image:05d}" for i in range(count)],
            "bucket": [0] * count, "row": range(count), "source": ["grid"] * count, "y": [0] * count, "x": [0] * count,
            "image_height": [8] * count, "image_width": [8] * count, "label": label, "image_label": label,
            "kind": ["knife" if one else "normal" for one in label], "group": [f"g{i}" for i in range(count)],
            "contextual": contextual, "latent": contextual if latent is None else latent, "map_peak": 10 * contextual,
        },
        schema=PATCH_SCORES.schema,
    )  # fmt: skip


NONE = np.array([])


def test_normals_only_gives_a_conformal_threshold_and_promises_no_recall() -> None:
    fitted = fit_calibration(patches(np.arange(39.0), NONE), CalibrateSection(target_fpr=0.05))
    assert (fitted.method, fitted.target, fitted.threshold) == ("fpr", 0.05, 37.0)
    assert (fitted.promise_kept, fitted.images_needed) == (True, 19)
    assert (fitted.recall, fitted.recall_lower_bound, fitted.n_normal, fitted.n_anomalous) == (None, None, 39, 0)
    assert (fitted.fpr.count, fitted.fpr.of, fitted.achieved) == (1, 39, fitted.fpr)
    assert (fitted.scale_min, fitted.scale_max) == (0.0, 38.0)
    assert "nothing is promised about the recall" in " ".join(fitted.notes)


def test_too_few_normals_is_said_and_not_hidden() -> None:
    fitted = fit_calibration(patches(np.arange(10.0), NONE), CalibrateSection(target_fpr=0.05))
    assert not fitted.promise_kept
    assert fitted.threshold == 9.0
    assert fitted.notes[0].startswith("NOT a promise")
    assert "needs at least 19 normal calibration images, and there are 10" in fitted.notes[0]


def test_anomalies_give_a_recall_promise_and_its_cost() -> None:
    random = numpy_generator(3, "calibration test")
    table = patches(random.normal(0, 1, 200), random.normal(3, 1, 120))
    fitted = fit_calibration(table, CalibrateSection(target_recall=0.9, confidence=0.95))
    assert (fitted.method, fitted.promise_kept, fitted.n_anomalous) == ("recall", True, 120)
    assert fitted.recall is not None
    assert fitted.achieved == fitted.recall
    assert fitted.recall_lower_bound == lower_bound(fitted.recall.count, 120, 0.95)
    assert fitted.recall_lower_bound >= 0.9
    scores = table.column("contextual").to_numpy()
    assert fitted.fpr.count == is_anomalous(scores[:200], fitted.threshold).sum() > 0
    assert f"{fitted.fpr.count} of 200 normal" in fitted.notes[1]


def test_too_few_anomalies_is_said_and_not_hidden() -> None:
    fitted = fit_calibration(patches(np.arange(5.0), np.array([7.0, 8.0, 9.0])), CalibrateSection())
    assert (fitted.method, fitted.promise_kept, fitted.images_needed) == ("recall", False, 59)
    assert "needs at least 59 anomalous calibration images, and there are 3" in fitted.notes[0]
    assert fitted.recall is not None
    assert (fitted.recall.count, fitted.fpr.count) == (3, 0)


@pytest.mark.parametrize("anomalous", [0, 3, 120])
def test_calibrated_anew_on_the_same_images_it_is_the_same(anomalous: int) -> None:
    random = numpy_generator(4, "calibrated anew")
    table = patches(random.normal(0, 1, 50), random.normal(2, 1, anomalous))
    section = CalibrateSection(score="map_peak")
    fitted = fit_calibration(table, section)
    labels, scores = table.column("image_label").to_numpy(), table.column("map_peak").to_numpy()
    again = recalibrated(fitted, table.column("image_id").to_pylist(), labels, scores, section)
    assert again == fitted.model_copy(update={"inputs_digest": again.inputs_digest})


def test_calibrated_anew_it_keeps_its_score_and_takes_the_rest_of_the_other_images() -> None:
    section = CalibrateSection(score="eq6", eta="fit")
    fitted = fit_calibration(patches(np.arange(30.0), np.arange(20.0, 40.0)), section)
    scores, labels = np.arange(100.0), np.zeros(100, np.int64)
    again = recalibrated(fitted, [str(i) for i in range(100)], labels, scores, section)
    assert (again.score, again.eta, again.eta_fitted) == ("eq6", fitted.eta, True)
    assert (again.method, again.threshold, again.n_normal, again.n_anomalous) == ("fpr", 95.0, 100, 0)
    assert (again.scale_min, again.scale_max) == (0.0, 99.0)
    assert not any("eta" in note for note in again.notes)
    with pytest.raises(CalibrationError, match="no normal image"):
        recalibrated(fitted, ["a"], np.ones(1, np.int64), np.ones(1), section)
    with pytest.raises(ScoreNotFinite):
        recalibrated(fitted, ["a", "b"], np.zeros(2, np.int64), np.array([1.0, np.nan]), section)


def in_groups(table: pa.Table, size: int) -> pa.Table:
    """The same with the images of each label in groups of `size`."""
    labels = table.column("image_label").to_pylist()
    groups = [f"g{label}-{i // size}" for i, label in enumerate(labels)]
    return table.set_column(table.schema.get_field_index("group"), PATCH_SCORES.schema.field("group"), pa.array(groups))


def test_whole_groups_are_counted_where_images_come_in_groups() -> None:
    random = numpy_generator(4, "grouped calibration test")
    table = patches(random.normal(0, 1, 200), random.normal(4, 1, 120))
    single = fit_calibration(table, CalibrateSection(target_recall=0.9))
    assert (single.anomalous_groups, "anomalous_groups" in single.model_dump()) == (None, False)
    grouped = fit_calibration(in_groups(table, 4), CalibrateSection(target_recall=0.9))
    assert (grouped.promise_kept, grouped.anomalous_groups, grouped.n_anomalous) == (True, 30, 120)
    assert (grouped.images_needed, single.images_needed) == (29, 29)
    assert grouped.recall_lower_bound == lower_bound(30, 30, 0.95)  # 29 of 30 groups would promise .85 alone
    assert grouped.threshold < single.threshold
    assert "every anomaly of at least 90% of further groups" in grouped.notes[0]
    assert "120 of 120 anomalous calibration images, which come in 30 groups: 30 of these" in grouped.notes[0]
    assert "200 normal images come in 50 groups" in grouped.notes[2]
    assert not any("groups" in note for note in single.notes)


def test_too_few_groups_are_said_and_not_hidden() -> None:
    random = numpy_generator(4, "grouped calibration test")
    table = in_groups(patches(random.normal(0, 1, 200), random.normal(4, 1, 120)), 8)
    fitted = fit_calibration(table, CalibrateSection(target_recall=0.9))
    assert (fitted.promise_kept, fitted.anomalous_groups, fitted.images_needed) == (False, 15, 29)
    assert "needs at least 29 groups of anomalous calibration images, and there are 15" in fitted.notes[0]
    assert fitted.recall_lower_bound == lower_bound(14, 15, 0.95)  # 14 groups are the share that was asked for


def test_eta_is_fitted_where_only_one_component_tells_the_labels_apart() -> None:
    random = numpy_generator(4, "calibration test")
    noise = 100 * random.normal(size=60)
    latent = np.concatenate([np.zeros(30), np.ones(30)]) + 0.1 * random.normal(size=60)
    table = patches(noise[:30], noise[30:], latent=latent)
    fitted = fit_calibration(table, CalibrateSection(eta="fit"))
    assert (fitted.eta, fitted.eta_fitted) == (0.0, True)
    assert "slightly optimistic" in fitted.notes[-1]
    turned = fit_calibration(patches(latent[:30], latent[30:], latent=noise), CalibrateSection(eta="fit"))
    assert turned.eta == 1.0


def test_equal_etas_leave_the_usual_one() -> None:
    fitted = fit_calibration(patches(np.arange(5.0), np.arange(7.0, 9.0)), CalibrateSection(eta="fit"))
    assert fitted.eta == 0.9


def test_eta_cannot_be_fitted_without_anomalies() -> None:
    with pytest.raises(CalibrationError, match="eta is 'fit'"):
        fit_calibration(patches(np.arange(30.0), NONE), CalibrateSection(eta="fit"))


def test_anomalies_alone_cannot_be_calibrated() -> None:
    with pytest.raises(CalibrationError, match="no normal image"):
        fit_calibration(patches(NONE, np.arange(5.0)), CalibrateSection())


def test_map_peak_ignores_eta_and_reduces_per_image() -> None:
    section = CalibrateSection(score="map_peak", eta="fit", reduction=ReductionSection(name="top_k_mean", k=2))
    fitted = fit_calibration(patches(np.arange(60.0), NONE, per_image=3), section)
    assert (fitted.eta, fitted.eta_fitted, fitted.n_normal) == (None, False, 20)
    assert fitted.patch_scores({"contextual": [1.0], "latent": [1.0], "map_peak": [7.0]}).tolist() == [7.0]
    assert (fitted.scale_min, fitted.scale_max) == (15.0, 585.0)  # images 0, 1, 2 and 57, 58, 59, times 10


def test_one_component_that_is_no_number_stops_the_fit() -> None:
    table = patches(np.arange(3.0), NONE, latent=np.array([1.0, 2.0, np.nan]))
    with pytest.raises(ScoreNotFinite, match="latent component number 2"):
        fit_calibration(table, CalibrateSection())


def test_record_survives_json_to_the_last_bit(tmp_path: Path) -> None:
    random = numpy_generator(5, "calibration test")
    fitted = fit_calibration(patches(random.normal(0, 1, 50), random.normal(1, 1, 70)), CalibrateSection(eta="fit"))
    write_calibration(tmp_path / "calibration.json", fitted)
    read = read_calibration(tmp_path / "calibration.json")
    assert read == fitted
    assert read.threshold.hex() == fitted.threshold.hex()
    assert Calibration.model_validate(fitted.model_dump()) == fitted


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [('"version": 1', '"version": 2', "version"), ('"scale_min"', '"scala_min"', "scala_min"), ("{", "", "JSON"),
     ('"eta": 0.9', '"eta": null', "eta belongs to")],
)  # fmt: skip
def test_damaged_records_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, fit_calibration(patches(np.arange(30.0), NONE), CalibrateSection()))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_calibration(path)


def test_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        read_calibration(tmp_path / "calibration.json")
