"""Figures of one epoch's numbers: ROC, precision-recall, and the probabilities by class.

Functions of arrays that return a matplotlib Figure; no pyplot, no display, no file. The title of
each says in words what it shows. What cannot be computed is said in its place.
"""

import math
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lightning_melanoma import metrics
from lightning_melanoma.callbacks.style import (
    ACCENT,
    CONTEXT,
    INK,
    MUTED,
    STYLE,
    add_title,
    percent,
    unit_square,
)

FloatArray = npt.NDArray[np.float64]
Rows = tuple[npt.ArrayLike, npt.ArrayLike]

# Inches of the square figures.
_WIDTH = 6.7
# The axis goes from 0.01 % to 99.99 % at most; what lies beyond is in its outermost bins.
MAX_LOGIT = math.log(9999)
TICK_PROBABILITIES = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
NUM_BINS = 36


@mpl.rc_context(STYLE)
def roc_figure(
    targets: npt.ArrayLike, scores: npt.ArrayLike, *, training: Rows | None = None
) -> Figure:
    """Draw the ROC curve of validation, its AUROC in the title, the 95 % interval below.

    Args:
        targets: (N,) in {0, 1}, of validation.
        scores: (N,) finite, higher means more suspect.
        training: targets and scores of training, drawn behind; None leaves them out.
    """
    figure, axes = unit_square(
        _WIDTH, x="false positive rate (1 - specificity)", y="true positive rate (sensitivity)"
    )
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    axes.text(0.53, 0.5, "a guess: 0.5", color=MUTED, size=9, va="top")
    for rows, color in _behind_first((targets, scores), training):
        if not math.isnan(metrics.auroc(*rows)):
            axes.plot(*metrics.roc_curve(*rows)[:2], color=color)
    area = metrics.auroc(targets, scores)
    low, high = metrics.auroc_interval(targets, scores)
    title = "is undefined: one class only" if math.isnan(area) else f"{area:.3f}"
    interval = "" if math.isnan(low) else f" (95 % interval {low:.3f} to {high:.3f})"
    lines = _split_lines((targets, scores), training, metrics.auroc, detail=interval)
    add_title(figure, f"Validation AUROC {title}", lines=lines)
    return figure


@mpl.rc_context(STYLE)
def precision_recall_figure(
    targets: npt.ArrayLike, scores: npt.ArrayLike, *, training: Rows | None = None
) -> Figure:
    """Draw the precision-recall curve of validation, over the prevalence that a guess has.

    Args:
        targets: (N,) in {0, 1}, of validation.
        scores: (N,) finite, higher means more suspect.
        training: targets and scores of training, drawn behind; None leaves them out.
    """
    figure, axes = unit_square(_WIDTH, x="recall (sensitivity)", y="precision")
    for rows, color in _behind_first((targets, scores), training):
        if np.any(rows[0]):
            precision, recall, _ = metrics.precision_recall_curve(*rows)
            # A step holds the precision at its right end, as average precision counts it. Points
            # of no recall have no width in it.
            heights = precision[recall > 0][::-1]
            axes.step([0, *recall[recall > 0][::-1]], [heights[0], *heights], color=color)
    area = metrics.average_precision(targets, scores)
    prevalence = np.count_nonzero(targets) / max(np.size(targets), 1)
    title = "is undefined: no melanoma"
    if not math.isnan(area):
        title = f"{area:.3f}, where a guess has {prevalence:.3f}"
        axes.axhline(prevalence, color=MUTED, linewidth=1, linestyle="--")
        axes.text(0.01, prevalence + 0.01, "a guess: the prevalence", color=MUTED, size=9)
    lines = _split_lines((targets, scores), training, metrics.average_precision)
    add_title(figure, f"Validation average precision {title}", lines=lines)
    return figure


@mpl.rc_context(STYLE)
def probabilities_figure(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, *, threshold: float
) -> Figure:
    """Draw how the probabilities of each class are spread, on the scale of log-odds.

    Each class is counted as shares of itself, so that a class of 2 % is seen as well as the other.

    Args:
        targets: (N,) in {0, 1}, of validation, N at least 1.
        probabilities: (N,) in [0, 1].
        threshold: the probability from which on melanoma is called, in (0, 1).
    """
    is_melanoma, values = np.asarray(targets) == 1, np.asarray(probabilities)
    called = values >= threshold
    figure = Figure(figsize=(8, 5.6))
    upper, lower = figure.subplots(2, 1, sharex=True, sharey=True)
    figure.subplots_adjust(left=0.11, right=0.97, top=0.83, bottom=0.1, hspace=0.25)
    odds, limit = _log_odds(values), _log_odds(threshold)
    # Half a unit of log-odds beyond the data, so that the outermost bars are seen whole.
    edges = np.linspace(min(odds.min(), limit) - 0.5, max(odds.max(), limit) + 0.5, NUM_BINS + 1)
    _draw_shares(upper, odds[is_melanoma], edges, color=ACCENT)
    _draw_shares(lower, odds[~is_melanoma], edges, color=CONTEXT)
    hits, clear = np.sum(called & is_melanoma), np.sum(~called & ~is_melanoma)
    found = f"{hits:,} of {is_melanoma.sum():,} melanomas at or above the threshold"
    cleared = f"{clear:,} of {np.sum(~is_melanoma):,} benign below the threshold"
    upper.set_title(found, color=ACCENT, size=10, weight="bold")
    lower.set_title(cleared, color=CONTEXT, size=10, weight="bold")
    for axes in (upper, lower):
        axes.axvline(float(limit), color=INK, linewidth=1.2, linestyle="--")
    upper.set_ylabel("share of melanomas")
    lower.set(ylabel="share of benign", xlabel="probability of melanoma, on the scale of log-odds")
    sensitivity = metrics.sensitivity(is_melanoma, called)
    specificity = metrics.specificity(is_melanoma, called)
    title = (
        f"Sensitivity {_number(sensitivity)}, specificity {_number(specificity)} "
        f"from a probability of {percent(threshold)} on"
    )
    line = f"validation, {_counts(targets)}; dashed: the threshold, training's prevalence"
    add_title(figure, title, lines=[(line, MUTED)])
    return figure


def _behind_first(validation: Rows, training: Rows | None) -> list[tuple[Rows, str]]:
    return ([] if training is None else [(training, CONTEXT)]) + [(validation, ACCENT)]


def _split_lines(
    validation: Rows,
    training: Rows | None,
    measure: Callable[[npt.ArrayLike, npt.ArrayLike], float],
    *,
    detail: str = "",
) -> list[tuple[str, str]]:
    """Return a line for each split with its measure and counts, in the colour of its curve."""
    lines = [
        (f"validation {_number(measure(*validation))}{detail}, {_counts(validation[0])}", ACCENT)
    ]
    if training is not None:
        lines += [(f"training {_number(measure(*training))}, {_counts(training[0])}", CONTEXT)]
    return lines


def _draw_shares(axes: Axes, odds: FloatArray, edges: FloatArray, *, color: str) -> None:
    counts, _ = np.histogram(odds, edges)
    axes.stairs(counts / max(len(odds), 1), edges, color=color, fill=True)
    axes.set_xlim(edges[0], edges[-1])
    ticks = {math.log(p / (1 - p)): f"{100 * p:g} %" for p in TICK_PROBABILITIES}
    shown = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    axes.set_xticks(shown, [ticks[tick] for tick in shown])
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))


def _log_odds(probabilities: npt.ArrayLike) -> FloatArray:
    with np.errstate(divide="ignore"):
        odds: FloatArray = np.log(probabilities) - np.log1p(np.negative(probabilities))
    return odds.clip(-MAX_LOGIT, MAX_LOGIT)


def _counts(targets: npt.ArrayLike) -> str:
    num_melanomas = np.count_nonzero(targets)
    return f"{np.size(targets):,} images, {num_melanomas:,} melanoma{'s' * (num_melanomas != 1)}"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
