import math

import pytest

from vigil.calibration.ranking import auroc
from vigil.errors import ScoreNotFinite


def test_auroc_by_hand() -> None:
    assert auroc([0, 0, 1, 1], [1, 2, 3, 4]) == 1.0
    assert auroc([1, 1, 0, 0], [1, 2, 3, 4]) == 0.0
    assert auroc([0, 1, 0, 1], [1, 2, 3, 4]) == 0.75
    assert auroc([0, 1, 0, 1], [5, 5, 5, 5]) == 0.5
    assert auroc([0, 0, 1], [1, 3, 3]) == 0.75  # one pair won, one tied


def test_auroc_needs_both_labels_and_numbers() -> None:
    with pytest.raises(ValueError, match="both labels"):
        auroc([1, 1], [0.1, 0.2])
    with pytest.raises(ScoreNotFinite):
        auroc([0, 1], [0.1, math.nan])
