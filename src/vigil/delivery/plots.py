"""The plots of the report as SVG text: ROC curve, score distribution, training curves.

Equal data give equal bytes (no date, no random ids), so that DVC sees a changed plot only where the data changed.
Lines and text have the colour of the page around them, so one file serves light and dark pages. matplotlib is
imported when a plot is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from vigil.errors import DataError
from vigil.records import ANOMALOUS, NORMAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart in light and dark, in grey and by colour-blind readers (Okabe and Ito's palette).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_NORMAL_COLOUR, _ANOMALOUS_COLOUR = COLOURS[0], COLOURS[1]
_INK = "#010203"
"""Stands for the page's text colour, and is replaced by `currentColor`."""
_BINS = 40
_DASHES = ("-", "--", "-.", ":")


def roc_plot(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    operating_point: tuple[float, float] | None = None,
    legend: Literal["inside", "beside"] = "inside",
) -> str:
    """Recall over false-positive rate, as in figure 7 of arXiv 2211.13808; one line per entry.

    Args:
        curves: Label -> (false-positive rates, recalls), both [N] in [0, 1] and ascending.
        operating_point: (false-positive rate, recall) at the threshold in use.
        legend: Beside the plot where many curves have long names.
    """
    figure, (axes,) = _figure(1, 5.2 if legend == "inside" else 9.4, 4.6)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":", label="chance (0.5)")
    for number, (label, (fpr, recall)) in enumerate(curves.items()):
        axes.plot(
            _finite(fpr, f"curve '{label}'"),
            _finite(recall, f"curve '{label}'"),
            color=COLOURS[number % len(COLOURS)],
            linestyle=_DASHES[number // len(COLOURS) % len(_DASHES)],
            linewidth=1.8 if number == 0 else 1.2,
            label=label,
        )
    if operating_point is not None:
        axes.plot(*operating_point, "o", color=_INK, markersize=6, label="at the threshold")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="False-positive rate", ylabel="Recall", aspect="equal")
    place: dict[str, Any] = {"loc": "lower right"}
    if legend == "beside":
        place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    axes.legend(**place, frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure, "roc", "ROC curve: recall over false-positive rate, for " + ", ".join(curves))


def score_distribution_plot(scores: ArrayLike, labels: ArrayLike, threshold: float) -> str:
    """Shares of normal and of anomalous images per score, and the threshold: figure 6 of arXiv 2211.13808.

    Where both overlap, no threshold tells them apart.

    Args:
        scores: [N], higher is more anomalous.
        labels: [N], 0 normal, 1 anomalous.
        threshold: In units of the scores; images above it are flagged.
    """
    found, truth = _finite(scores, "scores"), np.asarray(labels)
    if found.shape != truth.shape or found.ndim != 1 or not len(found):
        raise DataError(
            f"scores {found.shape} and labels {truth.shape} must be equally long lists of at least one image"
        )
    edges = np.linspace(min(found.min(), threshold), max(found.max(), threshold), _BINS + 1)
    if edges[0] == edges[-1]:
        edges = np.array([edges[0] - 0.5, edges[0] + 0.5])
    figure, (axes,) = _figure(1, 5.2, 4.6)
    groups = (("normal", NORMAL, _NORMAL_COLOUR, ""), ("anomalous", ANOMALOUS, _ANOMALOUS_COLOUR, "///"))
    for name, label, colour, hatch in groups:
        of_group = found[truth == label]
        if len(of_group):
            share = np.histogram(of_group, edges)[0] / len(of_group)
            axes.stairs(share, edges, fill=True, alpha=0.35, color=colour, hatch=hatch)
            axes.stairs(share, edges, color=colour, linewidth=1.5, label=f"{name} ({len(of_group)} images)")
    axes.axvline(threshold, color=_INK, linewidth=1.4, linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="Image score (higher is more anomalous)", ylabel="Share of the group's images", ylim=(0, None))
    place, columns = (0.5, 1.0), 3  # above the axes, where no bar can be
    axes.legend(loc="lower center", bbox_to_anchor=place, ncols=columns, frameon=False, labelcolor=_INK, fontsize=8.5)
    title = f"Distribution of image scores of normal and anomalous test images, threshold {threshold:.4g}"
    return _svg(figure, "scores", title)


_CURVES = (
    ("generator_loss", "Generator, Eq. (5)"),
    ("discriminator_loss", "Discriminator, Eq. (2)"),
    ("contextual_loss", "Contextual, Eq. (3)"),
    ("latent_loss", "Latent, Eq. (4)"),
    ("pointing_loss", "Pointing"),
    ("self_supervised_loss", "Self-supervised"),
)


def training_plot(candidates: Mapping[str, Sequence[Mapping[str, Any]]], chosen: str | None = None) -> str:
    """The losses over the images seen, one line per candidate; losses that were 0 throughout are left out.

    Args:
        candidates: Name -> its intervals, each with the fields of `training.recorder.StepRecord`.
        chosen: The candidate that was kept; drawn thicker.
    """
    every = [step for steps in candidates.values() for step in steps]
    curves = [curve for curve in _CURVES if any(step.get(curve[0]) for step in every)]
    figure, panels = _figure(max(len(curves), 1), 10.4, 2.8 * max(-(-len(curves) // 2), 1), columns=2)
    for axes, (field, title) in zip(panels, curves, strict=False):
        for number, (name, steps) in enumerate(candidates.items()):
            axes.plot(
                [step["images_seen"] for step in steps],
                _finite([step[field] for step in steps], f"{field} of candidate '{name}'"),
                color=COLOURS[number % len(COLOURS)],
                linestyle=_DASHES[number // len(COLOURS) % len(_DASHES)],
                linewidth=2.0 if name == chosen else 1.1,
                marker="o" if len(steps) < 3 else None,
                label=f"{name} (chosen)" if name == chosen and len(candidates) > 1 else name,
            )
        axes.set_title(title, fontsize=10, color=_INK)
    for axes in panels[-2:]:
        axes.set_xlabel("Images seen")
    if curves:
        panels[0].legend(frameon=False, labelcolor=_INK, fontsize=8)
    return _svg(figure, "training", "Losses over images seen, for " + ", ".join(candidates))


# ------------------------------------------------------------------------------------------------------------- drawing


def _figure(panels: int, width_in: float, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    drawn = [figure.add_subplot(-(-panels // columns), columns, number + 1) for number in range(panels)]
    for axes in drawn:
        axes.patch.set_alpha(0.0)
        axes.tick_params(colors=_INK, labelsize=9)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.grid(alpha=0.18, color=_INK, linewidth=0.6)
        axes.set_axisbelow(True)
    figure.patch.set_alpha(0.0)
    return figure, drawn


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG element with a title for screen readers; its ids begin with `name`."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # Text stays text: smaller, selectable, and independent of the fonts on this machine.
    with mpl.rc_context({"svg.hashsalt": "vigil", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace('<style type="text/css">*{', f'<style type="text/css">#{name}-figure_1 *{{')
    text = text.replace(_INK, "currentColor")
    label = f'role="img" aria-labelledby="{name}-title"'
    return text.replace("<svg ", f"<svg {label} ", 1).replace(
        ">", f'>\n <title id="{name}-title">{escape(title)}</title>', 1
    )


def _finite(values: ArrayLike, what: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise DataError(f"{what}: {int((~np.isfinite(found)).sum())} of {found.size} values are NaN or infinite")
    return found
