"""The fitted score: weights that are never negative, found on calibration data, and what is refused."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from tests.unit.calibration.test_calibration import patches
from vigil.calibration.calibration import fit_calibration, read_calibration, write_calibration
from vigil.calibration.fitted_score import WeightedComponent, fit_weights, fitted_score
from vigil.calibration.ranking import auroc
from vigil.config import CalibrateSection
from vigil.errors import CalibrationError, DataError, ScoreNotFinite
from vigil.records import PATCH_SCORES
from vigil.seeding import numpy_generator


def random(count: int, shift: float = 0.0, number: int = 0) -> np.ndarray:
    return numpy_generator(number, "fitted score test").normal(shift, 1, count)


def stamped(table: pa.Table, shift: float) -> pa.Table:
    """The table, followed by copies of its patches, `shift` higher in the peak of the map."""

    def replaced(name: str, values: pa.Array, of: pa.Table) -> pa.Table:
        return of.set_column(of.column_names.index(name), PATCH_SCORES.field(name), values)

    copies = replaced("source", pa.array(["stamped"] * len(table)), table)
    peaks = pa.array(table.column("map_peak").to_numpy() + shift)
    return pa.concat_tables([table, replaced("map_peak", peaks, copies)])


def table_of(normal: dict[str, np.ndarray], anomalous: dict[str, np.ndarray]) -> pa.Table:
    """PATCH_SCORES with these components, one patch per image."""
    counts = [len(next(iter(v.values()))) if v else 0 for v in (normal, anomalous)]
    table = patches(np.zeros(counts[0]), np.zeros(counts[1]))
    for name in normal:
        values = pa.array(np.concatenate([normal[name], anomalous.get(name, np.empty(0))]))
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), PATCH_SCORES.field(name), values)
        else:
            table = table.append_column(PATCH_SCORES.field(name), values)
    return table


def test_a_hand_computed_score() -> None:
    fitted = (
        WeightedComponent(name="map_peak", centre=1.0, spread=2.0, weight=3.0),
        WeightedComponent(name="memory", centre=0.0, spread=1.0, weight=0.5),
    )
    found = fitted_score({"map_peak": [1.0, 5.0], "memory": [2.0, 0.0], "latent": [9.0, 9.0]}, fitted)
    assert found.tolist() == [1.0, 6.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_component_that_is_no_number_never_scores(value: float, weight: float) -> None:
    fitted = (WeightedComponent(name="memory", centre=0.0, spread=1.0, weight=weight),)
    with pytest.raises(ScoreNotFinite, match="component 'memory' number 1"):
        fitted_score({"memory": [1.0, value]}, fitted)


def test_the_weights_are_those_of_scikit_learns_logistic_regression_where_none_would_be_negative() -> None:
    normal = np.stack([random(300, number=1), random(300, number=2)], axis=1)
    anomalous = np.stack([random(100, 1.5, 3), random(100, 0.7, 4)], axis=1)
    x, y = np.concatenate([normal, anomalous]), np.repeat([0, 1], [300, 100])
    # Its penalty is 1/(2C) |w|^2 beside the sum of the losses; ours 0.01/2 beside their mean per label.
    reference = LogisticRegression(C=1 / 0.01, class_weight={0: 0.5 / 300, 1: 0.5 / 100}, tol=1e-10, max_iter=1000)
    np.testing.assert_allclose(fit_weights(normal, anomalous), reference.fit(x, y).coef_[0], rtol=1e-3)


def test_a_component_that_is_lower_on_anomalies_gets_no_weight() -> None:
    normal = np.stack([random(200, number=1), random(200, number=2)], axis=1)
    weights = fit_weights(normal, np.stack([random(80, 2.0, 3), random(80, -2.0, 4)], axis=1))
    assert weights[0] > 0
    assert weights[1] == 0


def test_labelled_anomalies_decide_the_weights_and_two_components_beat_each_alone() -> None:
    normal = {name: random(400, number=n) for n, name in enumerate(("map_peak", "memory", "contextual", "latent"))}
    anomalous = {"map_peak": random(150, 1.5, 5), "memory": random(150, 1.5, 6)}
    anomalous |= {"contextual": random(150, number=7), "latent": random(150, number=8)}
    table = table_of(normal, anomalous)
    fitted = fit_calibration(table, CalibrateSection(score="fitted"))
    assert fitted.weights_fitted_on == "calibration anomalies"
    weights = {c.name: c.weight for c in fitted.weighted}
    assert min(weights["map_peak"], weights["memory"]) > 5 * max(weights["contextual"], weights["latent"])
    labels, components = table.column("label").to_numpy(), {n: table.column(n).to_numpy() for n in normal}
    alone = max(auroc(labels, components[name]) for name in components)
    assert auroc(labels, fitted.patch_scores(components)) > alone + 0.03
    assert any("fitted on these same images" in note for note in fitted.notes)


def test_pseudo_anomalies_decide_where_there_are_no_others_and_change_nothing_else() -> None:
    normal = {name: random(200, number=n) for n, name in enumerate(("map_peak", "contextual", "latent"))}
    table = stamped(table_of(normal, {}), 4.0)
    fitted = fit_calibration(table, CalibrateSection(score="fitted"))
    assert fitted.weights_fitted_on == "pseudo-anomalies"
    weights = {c.name: c.weight for c in fitted.weighted}
    assert weights.pop("map_peak") > 5 * max(weights.values())
    assert (fitted.n_normal, fitted.n_anomalous, fitted.method) == (200, 0, "fpr")
    plain = CalibrateSection(score="map_peak")
    with_stamped, without = (fit_calibration(t, plain).model_dump() for t in (table, table.slice(0, 200)))
    assert with_stamped.pop("inputs_digest") != without.pop("inputs_digest")
    assert with_stamped == without


def test_only_the_named_components_are_weighed() -> None:
    normal = {name: random(200, number=n) for n, name in enumerate(("map_peak", "contextual", "latent"))}
    table = stamped(table_of(normal, {}), 4.0)
    section = CalibrateSection(score="fitted", components=("map_peak", "latent"))
    assert [c.name for c in fit_calibration(table, section).weighted] == ["latent", "map_peak"]
    with pytest.raises(CalibrationError, match=r"names \['memory'\], which cannot be weighed here"):
        fit_calibration(table, CalibrateSection(score="fitted", components=("memory",)))


def test_stitched_peaks_are_weighed_on_images_and_not_on_stamped_patches() -> None:
    names = ("map_peak", "stitched_peak", "contextual", "latent")
    normal = {name: random(200, number=n) for n, name in enumerate(names)}
    anomalous = {name: values[:60] + 3.0 * (name == "stitched_peak") for name, values in normal.items()}
    by_images = fit_calibration(table_of(normal, anomalous), CalibrateSection(score="fitted"))
    weights = {c.name: c.weight for c in by_images.weighted}
    assert weights["stitched_peak"] > 5 * max(w for n, w in weights.items() if n != "stitched_peak")

    alone = stamped(table_of(normal, {}), 4.0)
    by_patches = fit_calibration(alone, CalibrateSection(score="fitted"))
    assert "stitched_peak" not in [c.name for c in by_patches.weighted]
    with pytest.raises(CalibrationError, match="stitched_peak needs anomalous calibration images"):
        fit_calibration(alone, CalibrateSection(score="fitted", components=("stitched_peak",)))


def test_nothing_to_fit_on_and_nothing_to_weigh_are_refused() -> None:
    normal = {name: random(50, number=n) for n, name in enumerate(("map_peak", "contextual", "latent"))}
    table = table_of(normal, {})
    with pytest.raises(CalibrationError, match=r"set score\.stamped_patches"):
        fit_calibration(table, CalibrateSection(score="fitted"))
    with pytest.raises(CalibrationError, match="no component is higher"):
        fit_calibration(stamped(table, -4.0), CalibrateSection(score="fitted", components=("map_peak",)))


@pytest.mark.parametrize("score", ["memory", "self_supervision"])
def test_a_score_of_one_component_is_that_component_and_needs_it(score: str) -> None:
    normal = {score: np.arange(39.0)}
    fitted = fit_calibration(table_of(normal, {}), CalibrateSection(score=score))  # type: ignore[arg-type]
    assert fitted.threshold == 37.0
    assert fitted.patch_scores({score: [4.0]}).tolist() == [4.0]
    with pytest.raises(CalibrationError, match="the pair has no such component"):
        fitted.patch_scores({"map_peak": [4.0]})


def test_the_record_survives_the_disk_and_refuses_halves(tmp_path) -> None:  # type: ignore[no-untyped-def]
    normal = {name: random(200, number=n) for n, name in enumerate(("map_peak", "contextual", "latent"))}
    fitted = fit_calibration(stamped(table_of(normal, {}), 4.0), CalibrateSection(score="fitted"))
    write_calibration(tmp_path / "calibration.json", fitted)
    assert read_calibration(tmp_path / "calibration.json") == fitted
    write_calibration(tmp_path / "half.json", fitted.model_copy(update={"weighted": ()}))
    with pytest.raises(DataError, match="weighted components belong to the score 'fitted'"):
        read_calibration(tmp_path / "half.json")
