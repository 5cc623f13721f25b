"""The choice among candidates, on numbers small enough to check by hand."""

import json

import numpy as np
import pytest

from vigil.errors import DataError, TrainingDiverged
from vigil.training.selection import CandidateScores, rank_candidates

IDS = ["a", "a", "b", "b", "c", "c"]
LABELS = [0, 0, 0, 0, 1, 1]  # image c is anomalous


def scores(name, patch_scores, contextual=None, stamped=None):
    patch_scores = np.asarray(patch_scores, float)
    return CandidateScores(
        name,
        patch_scores,
        patch_scores if contextual is None else np.asarray(contextual, float),
        None if stamped is None else np.asarray(stamped, float),
    )


def test_with_anomalies_the_auroc_of_image_maxima_decides():
    one = scores("one", [0.1, 0.2, 0.1, 0.9, 0.3, 0.4])  # maxima a .2, b .9, c .4: one of two pairs in order
    two = scores("two", [0.5, 0.5, 0.5, 0.5, 0.0, 0.6])  # c's maximum is above both
    selection = rank_candidates([one, two], IDS, LABELS)
    assert selection.chosen == "two"
    assert selection.criterion == "calibration_image_auroc"
    assert selection.values == {"one": 0.5, "two": 1.0}
    assert (selection.images, selection.anomalous_images) == (3, 1)


def test_without_anomalies_pointing_candidates_are_judged_by_pseudo_anomalies():
    blind = scores("blind", [1, 2, 3, 4, 5, 6], contextual=[0] * 6, stamped=[1, 2, 3, 4, 5, 6])
    seeing = scores("seeing", [1, 2, 3, 4, 5, 6], contextual=[9] * 6, stamped=[7] * 6)
    selection = rank_candidates([blind, seeing], IDS, [0] * 6)
    assert selection.criterion == "calibration_pseudo_anomaly_auroc"
    assert selection.values == {"blind": 0.5, "seeing": 1.0}
    assert selection.chosen == "seeing"
    assert selection.higher_is_better


def test_real_anomalies_count_for_more_than_pseudo_anomalies():
    candidate = scores("one", [0, 0, 0, 0, 1, 0], stamped=[0] * 6)
    assert rank_candidates([candidate], IDS, LABELS).criterion == "calibration_image_auroc"


def test_where_one_candidate_does_not_point_all_are_judged_alike():
    pointing, plain = scores("pointing", [1.0] * 6, contextual=[0.2] * 6, stamped=[2.0] * 6), scores("plain", [0.1] * 6)
    selection = rank_candidates([pointing, plain], IDS, [0] * 6)
    assert (selection.criterion, selection.chosen) == ("calibration_mean_contextual_loss", "plain")


def test_without_anomalies_the_lowest_self_supervised_loss_decides_where_all_have_one():
    def turning(name, loss, contextual):
        values = np.full(6, loss)
        return CandidateScores(name, values, np.full(6, contextual), self_supervision=values)

    selection = rank_candidates([turning("one", 0.9, 0.1), turning("two", 0.2, 0.3)], IDS, [0] * 6)
    assert (selection.criterion, selection.chosen) == ("calibration_mean_self_supervised_loss", "two")
    assert not selection.higher_is_better
    mixed = rank_candidates([turning("one", 0.1, 0.2), scores("plain", [0.1] * 6)], IDS, [0] * 6)
    assert mixed.criterion == "calibration_mean_contextual_loss"


def test_without_anomalies_the_lowest_mean_of_its_own_score_decides_among_pairs_of_a_baseline():
    def baseline(name, score, contextual):
        values = np.full(6, score)
        return CandidateScores(name, values, None if contextual is None else np.full(6, contextual), published=values)

    for contextual in (0.1, None):  # Patch-SVDD reconstructs nothing
        candidates = [baseline("one", 0.9, contextual), baseline("two", 0.2, contextual)]
        selection = rank_candidates(candidates, IDS, [0] * 6)
        assert (selection.criterion, selection.chosen) == ("calibration_mean_published_score", "two")
        assert not selection.higher_is_better
        assert rank_candidates(candidates, IDS, LABELS).criterion == "calibration_image_auroc"


def test_without_anomalies_the_lowest_mean_contextual_loss_decides():
    selection = rank_candidates([scores("one", [0.3] * 6), scores("two", [0.1, 0.4] * 3)], IDS, [0] * 6)
    assert selection.chosen == "two"
    assert selection.criterion == "calibration_mean_contextual_loss"
    assert not selection.higher_is_better
    assert selection.values == pytest.approx({"one": 0.3, "two": 0.25})


def test_the_first_of_equals_is_chosen():
    equals = [scores("first", [1.0] * 6), scores("second", [1.0] * 6)]
    assert rank_candidates(equals, IDS, LABELS).chosen == "first"
    assert rank_candidates(equals, IDS, [0] * 6).chosen == "first"


def test_patch_order_does_not_matter():
    contextual = np.array([0.1, 0.2, 0.1, 0.9, 0.3, 0.4])
    order = np.array([5, 3, 0, 2, 4, 1])
    shuffled = rank_candidates([scores("one", contextual[order])], np.array(IDS)[order], np.array(LABELS)[order])
    assert shuffled == rank_candidates([scores("one", contextual)], IDS, LABELS)


def test_the_record_is_json_that_says_how():
    record = rank_candidates([scores("one", [1.0] * 6)], IDS, LABELS).to_record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["reason"] == "calibration holds 1 anomalous images, so the AUROC over its images decides"


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(TrainingDiverged, match="candidate 'two': its calibration scores are not all finite"):
        rank_candidates([scores("one", [1.0] * 6), scores("two", [1.0] * 5 + [np.nan])], IDS, LABELS)


@pytest.mark.parametrize(
    ("candidates", "ids", "labels", "message"),
    [
        ([], IDS, LABELS, "found no candidate"),
        ([scores("one", [1.0] * 5)], IDS, LABELS, r"expected .* 6 \(> 0\) scores .* found \{'one': \(5, 5\)\}"),
        ([scores("one", [])], [], [], r"0 \(> 0\)"),
        ([scores("one", [1.0] * 6)], IDS, [1] * 6, "normal images among them, found none"),
        ([scores("one", [1.0] * 6)], IDS, [0] * 5, "expected one label per patch"),
    ],
)
def test_bad_input_is_refused(candidates, ids, labels, message):
    with pytest.raises(DataError, match=message):
        rank_candidates(candidates, ids, labels)
