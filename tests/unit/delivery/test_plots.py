"""The plots: right data, equal bytes for equal data, no number that is not finite."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from vigil.delivery.plots import roc_plot, score_distribution_plot, training_plot
from vigil.errors import DataError

STEPS = [
    {"images_seen": n, "generator_loss": 1.0 / n, "discriminator_loss": 1.4, "contextual_loss": 0.1, "latent_loss": 0.2}
    for n in (1, 2, 3)
]


def plots() -> dict[str, str]:
    return {
        "roc": roc_plot({"pair": ([0, 0.2, 1], [0, 0.8, 1])}, (0.2, 0.8)),
        "scores": score_distribution_plot([0.1, 0.2, 0.3, 0.9], [0, 0, 1, 1], 0.25),
        "training": training_plot({"a": STEPS, "b & c": STEPS}, "a"),
    }


@pytest.mark.parametrize("name", ["roc", "scores", "training"])
def test_plot_is_an_svg_element_with_a_title_and_ids_of_its_own(name: str) -> None:
    root = ElementTree.fromstring(plots()[name])
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.get("role") == "img"
    title = root.find(f"{space}title")
    assert title is not None
    assert title.get("id") == root.get("aria-labelledby") == f"{name}-title"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids
    assert all(str(i).startswith(f"{name}-") for i in ids)
    text = plots()[name]
    references = re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text)
    assert references
    assert set(references) <= set(ids)


def test_equal_data_give_equal_bytes() -> None:
    assert plots() == plots()


def test_plot_carries_no_date_and_no_colour_of_its_own_for_text() -> None:
    for text in plots().values():
        assert "<metadata" not in text
        assert not re.search(r"20\d\d-\d\d-\d\d", text)
        assert "currentColor" in text
        assert "#010203" not in text


def test_roc_line_goes_through_the_given_points() -> None:
    text = roc_plot({"pair": ([0, 0.25, 1], [0, 0.75, 1])}, (0.25, 0.75))
    lines = re.findall(r'<path d="(M [^"]*)"[^>]*stroke: #0072b2', text)
    points = np.array([[float(v) for v in p.split()] for p in re.split(r"[ML]", lines[0]) if p.strip()])
    (x0, y0), (x1, y1), (x2, y2) = points[:3]
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=1e-4)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.75, abs=1e-4)


def test_score_distribution_names_both_groups_and_the_threshold() -> None:
    text = score_distribution_plot([0.1, 0.2, 0.3, 0.9], [0, 0, 0, 1], 0.25)
    assert "normal (3 images)" in text
    assert "anomalous (1 images)" in text
    assert "threshold 0.25" in text
    assert "anomalous (" not in score_distribution_plot([0.5, 0.5], [0, 0], 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_number_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(DataError, match="scores: 1 of 2 values are NaN or infinite"):
        score_distribution_plot([0.1, bad], [0, 1], 0.2)
    with pytest.raises(DataError, match="curve 'pair': 1 of 2"):
        roc_plot({"pair": ([0, bad], [0, 1])})
    with pytest.raises(DataError, match="generator_loss of candidate 'a'"):
        training_plot({"a": [{**STEPS[0], "generator_loss": bad}]})


def test_scores_and_labels_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="equally long"):
        score_distribution_plot([0.1, 0.2], [0], 0.2)
