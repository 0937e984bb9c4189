"""What happens at the operating point, drawn: who is on which side of it, and how many.

Functions of a judged table that return a matplotlib Figure; no pyplot, no display, no file.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lightning_melanoma import metrics
from lightning_melanoma.callbacks.style import (
    ACCENT,
    CONTEXT,
    INK,
    MUTED,
    STYLE,
    add_title,
    percent,
)
from lightning_melanoma.metrics.rows import FloatArray
from lightning_melanoma.report.judgement import Judgement
from lightning_melanoma.report.words import probability

_NUM_BINS = 40
# Where the axis is too short for three of the first, of the second.
_TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
_FINE_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@mpl.rc_context(STYLE)
def histograms_figure(judgement: Judgement) -> Figure:
    """Draw how the probabilities of each class are spread, on the scale of log-odds."""
    table = judgement.table
    figure = Figure(figsize=(5, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.15, right=0.97, top=0.8, bottom=0.115, hspace=0.3)
    odds = metrics.log_odds(table.probabilities)
    limit = float(metrics.log_odds([judgement.threshold])[0])
    edges = np.linspace(odds.min() - 0.3, odds.max() + 0.3, _NUM_BINS + 1)
    parts = ((upper, table.is_melanoma, ACCENT), (lower, ~table.is_melanoma, CONTEXT))
    for axes, rows, color in parts:
        counts, _ = np.histogram(odds[rows], edges)
        axes.stairs(counts / counts.sum(), edges, color=color, fill=True)
        axes.axvline(limit, color=INK, linewidth=1.2, linestyle="--")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    upper.set_title(f"{table.is_melanoma.sum():,} melanomas", color=ACCENT)
    lower.set_title(f"{(~table.is_melanoma).sum():,} benign", color=CONTEXT)
    lower.set_xlabel("predicted probability, on the scale of log-odds")
    _set_probability_ticks(lower, edges)
    title = f"Called melanoma from {probability(judgement.threshold)} on"
    add_title(figure, title, lines=[(f"{table.name}; dashed: the operating point", MUTED)])
    return figure


@mpl.rc_context(STYLE)
def confusion_figure(judgement: Judgement) -> Figure:
    """Draw the four counts at the operating point, each shaded by its share of the row."""
    counts = confusion_counts(judgement)
    shares = counts / counts.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(5, 4.6))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.2, right=0.97, top=0.83, bottom=0.12)
    axes.grid(visible=False)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=2.2, aspect="auto")
    words = (("found", "missed"), ("called by mistake", "left alone"))
    for row in range(2):
        for column in range(2):
            text = f"{counts[row, column]:,}"
            axes.text(column, row - 0.04, text, size=19, weight="bold", ha="center", color=INK)
            detail = f"{words[row][column]}\n{percent(shares[row, column])} of the row"
            axes.text(column, row + 0.06, detail, ha="center", va="top", color=INK)
    axes.set_xticks([0, 1], ["called melanoma", "called benign"])
    axes.set_yticks([0, 1], ["melanoma", "benign"])
    axes.tick_params(length=0, labelsize=10)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = "No melanoma is found"
    if counts[0, 0]:
        title = f"{counts[:, 0].sum() / counts[0, 0]:.1f} excised for each melanoma"
    line = f"{judgement.table.name}; called melanoma from {probability(judgement.threshold)} on"
    add_title(figure, title, lines=[(line, MUTED)])
    return figure


def confusion_counts(judgement: Judgement) -> npt.NDArray[np.int64]:
    """Return the counts at the operating point, (2, 2): melanoma and benign by called or not."""
    is_melanoma = judgement.table.is_melanoma
    is_called = judgement.table.probabilities >= judgement.threshold
    rows = [[rows & is_called, rows & ~is_called] for rows in (is_melanoma, ~is_melanoma)]
    return np.array([[cell.sum() for cell in row] for row in rows], dtype=np.int64)


def _set_probability_ticks(axes: Axes, edges: FloatArray) -> None:
    shown = _spaced(_TICKS, edges)
    if len(shown) < 3:
        shown = _spaced(_FINE_TICKS, edges)
    axes.set_xticks(metrics.log_odds(shown), [f"{100 * chance:g} %" for chance in shown])
    axes.set_xlim(edges[0], edges[-1])


def _spaced(chances: Sequence[float], edges: FloatArray) -> list[float]:
    """Return those on the axis that are a label's width, a ninth of it, behind the one before."""
    gap, last, shown = (edges[-1] - edges[0]) / 9, -np.inf, []
    for place, chance in zip(metrics.log_odds(chances), chances, strict=True):
        if max(edges[0], last + gap) <= place <= edges[-1]:
            shown.append(chance)
            last = place
    return shown
