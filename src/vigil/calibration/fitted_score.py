"""The fitted score: a weighted sum of standardised components, its weights learned on calibration data.

Beyond arXiv 2211.13808, whose Eq. (6) weighs two components by hand.

Legend: N, M items (images or patches), K components.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from vigil.config import Section
from vigil.errors import CalibrationError
from vigil.scoring.reduction import finite

Scores = NDArray[np.float64]

_PENALTY = 0.01
_QUARTILES = (25, 75)


class WeightedComponent(Section):
    """One component of a fitted score."""

    name: str
    centre: float
    """Median over the normal calibration patches."""
    spread: float = Field(gt=0)
    """Interquartile range over the same."""
    weight: float = Field(ge=0)


def standardised(components: Mapping[str, ArrayLike], fitted: tuple[WeightedComponent, ...]) -> Scores:
    """(component - centre) / spread, [N, K] float64.

    Raises:
        CalibrationError: A component is missing: the pair is not the one that the score was fitted for.
        ScoreNotFinite: A component is NaN or infinite, even one of weight 0.
    """
    missing = [c.name for c in fitted if c.name not in components]
    if missing:
        raise CalibrationError(
            f"the fitted score needs the components {[c.name for c in fitted]}, and {missing} were not computed; "
            f"score and calibrate with one pair"
        )
    columns = [
        (finite(np.asarray(components[c.name], np.float64), f"component '{c.name}'") - c.centre) / c.spread
        for c in fitted
    ]
    return np.stack(columns, axis=1)


def fitted_score(components: Mapping[str, ArrayLike], fitted: tuple[WeightedComponent, ...]) -> Scores:
    """The sum of the standardised components times their weights, [N] float64; higher = more anomalous.

    Added component by component, so that an item's score does not depend on how many there are.

    Raises:
        CalibrationError, ScoreNotFinite: As `standardised`.
    """
    columns = standardised(components, fitted)
    total: Scores = np.zeros(len(columns))
    for column, component in zip(columns.T, fitted, strict=True):
        total = total + component.weight * column
    return total


def scales_of(components: Mapping[str, ArrayLike]) -> tuple[WeightedComponent, ...]:
    """Median and interquartile range of each component over normal patches, the weights still 0.

    A component whose quartiles are equal says nothing of most normal patches and is left out.
    """
    fitted = []
    for name, values in components.items():
        array = finite(np.asarray(values, np.float64), f"component '{name}'")
        low, high = np.percentile(array, _QUARTILES)
        if high > low:
            fitted.append(WeightedComponent(name=name, centre=np.median(array), spread=high - low, weight=0.0))
    return tuple(fitted)


def fit_weights(normal: Scores, anomalous: Scores) -> Scores:
    """Weights [K] >= 0 of a logistic regression of anomalous [M, K] against normal [N, K] items.

    Both labels count as much, whatever their numbers; a small quadratic penalty keeps the weights finite where the two
    separate. No weight is negative: every component grows with anomaly by its definition, and a negative one would
    make an anomaly that shows in it pass for normal. Convex, so that the result depends on no start.

    Raises:
        CalibrationError: No component is higher on anomalous items, so that all weights would be 0.
    """
    # scikit-learn, a core dependency, depends on scipy, so this import works wherever the core is installed.
    from scipy.optimize import minimize

    x = np.concatenate([normal, anomalous])
    sign = np.repeat([-1.0, 1.0], [len(normal), len(anomalous)])
    share = np.repeat([0.5 / len(normal), 0.5 / len(anomalous)], [len(normal), len(anomalous)])

    def loss(parameters: Scores) -> tuple[float, Scores]:
        weights, bias = parameters[:-1], parameters[-1]
        margin = sign * (x @ weights + bias)
        slope = -sign * share * np.exp(-np.logaddexp(0.0, margin))  # of softplus(-margin)
        value = float(share @ np.logaddexp(0.0, -margin)) + _PENALTY / 2 * float(weights @ weights)
        return value, np.append(slope @ x + _PENALTY * weights, slope.sum())

    kinds = x.shape[1]
    bounds = [(0.0, None)] * kinds + [(None, None)]
    found = minimize(loss, np.zeros(kinds + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    weights: Scores = np.asarray(found.x[:-1], np.float64)
    if not np.isfinite(weights).all() or not weights.any():
        raise CalibrationError(
            "calibrate.score is 'fitted', and no component is higher on the anomalous calibration data than on the "
            "normal: there is nothing to weigh. Train longer, or set calibrate.score to another score."
        )
    return weights
