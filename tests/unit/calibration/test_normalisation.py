import math

import numpy as np
import pytest

from vigil.calibration.normalisation import apply_scale, fit_scale, weighted_score
from vigil.errors import CalibrationError, ScoreNotFinite


def test_eq6_by_hand() -> None:
    assert weighted_score([1.0, 0.2], [3.0, 0.1], 0.75) == pytest.approx([1.5, 0.175])
    assert weighted_score([1.0], [3.0], 1.0).tolist() == [1.0]
    assert weighted_score([1.0], [3.0], 0.0).tolist() == [3.0]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_eq6_refuses_a_component_that_is_no_number_even_with_weight_zero(eta: float) -> None:
    with pytest.raises(ScoreNotFinite, match="contextual component number 0"):
        weighted_score([math.nan], [1.0], eta)
    with pytest.raises(ScoreNotFinite, match="latent component number 0"):
        weighted_score([1.0], [math.inf], eta)


def test_eq7_by_hand_and_beyond_the_calibration_extremes() -> None:
    low, high = fit_scale([4.0, 2.0, 6.0])
    assert (low, high) == (2.0, 6.0)
    assert apply_scale([2.0, 3.0, 6.0, 8.0, 0.0], low, high).tolist() == [0.0, 0.25, 1.0, 1.5, -0.5]


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, 0.5, 0.5]])
def test_scale_refuses_scores_that_say_nothing(scores: list[float]) -> None:
    with pytest.raises(CalibrationError, match="two different calibration scores"):
        fit_scale(np.array(scores))
