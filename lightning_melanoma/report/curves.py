"""The curves of a report: ROC, precision-recall, reliability and net benefit.

Functions of the judged tables that return a matplotlib Figure; no pyplot, no display, no file. The
title of each says in words what it shows. They are drawn to be read at the width of a phone.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from lightning_melanoma import metrics
from lightning_melanoma.callbacks.style import (
    ACCENT,
    CONTEXT,
    FAINT,
    INK,
    MUTED,
    STYLE,
    add_title,
    unit_square,
)
from lightning_melanoma.metrics.rows import FloatArray
from lightning_melanoma.report.estimates import Estimate
from lightning_melanoma.report.judgement import Judgement
from lightning_melanoma.report.words import interval, number, probability

# Colours that every kind of colour vision tells apart (Okabe and Ito, 2008), for tables in order.
_COLORS = (ACCENT, "#0072b2", "#009e73", "#aa4499", "#8a6d00", CONTEXT)
# Of a reliability diagram: so many, if that leaves as many melanomas a bin on average.
_MAX_RELIABILITY_BINS, _MELANOMAS_A_BIN = 10, 10
_NUM_THRESHOLDS = 200
# Inches of a figure: two stand side by side on a page.
_WIDTH = 5


@mpl.rc_context(STYLE)
def roc_figure(judgements: Sequence[Judgement]) -> Figure:
    """Draw the ROC curve of each table and its operating point."""
    figure, axes = unit_square(_WIDTH, x="1 - specificity", y="sensitivity")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    for judgement, color in zip(judgements, _colors(judgements), strict=False):
        table = judgement.table
        false, true, _ = metrics.roc_curve(table.is_melanoma, table.probabilities)
        axes.plot(false, true, color=color)
        point = judgement.estimates
        axes.plot(1 - point["specificity"].value, point["sensitivity"].value, "o", color=color)
    title = f"AUROC {_span(judgements[0].estimates['auroc'])}"
    _add_head(figure, judgements, title, "auroc", note="dot: the operating point; dashed: a guess")
    return figure


@mpl.rc_context(STYLE)
def precision_recall_figure(judgements: Sequence[Judgement]) -> Figure:
    """Draw the precision-recall curve of each table, over the prevalence that a guess has."""
    figure, axes = unit_square(_WIDTH, x="sensitivity (recall)", y="precision (PPV)")
    for judgement, color in zip(judgements, _colors(judgements), strict=False):
        table = judgement.table
        axes.axhline(table.is_melanoma.mean(), color=MUTED, linewidth=1, linestyle="--")
        precision, recall, _ = metrics.precision_recall_curve(
            table.is_melanoma, table.probabilities
        )
        # A step holds the precision at its right end, as average precision counts it. Points of no
        # recall have no width in it.
        heights = precision[recall > 0][::-1]
        axes.step([0, *recall[recall > 0][::-1]], [heights[0], *heights], color=color)
    title = f"Average precision {_span(judgements[0].estimates['average_precision'])}"
    _add_head(figure, judgements, title, "average_precision", note="dashed: a guess")
    return figure


@mpl.rc_context(STYLE)
def reliability_figure(judgements: Sequence[Judgement]) -> Figure:
    """Draw the share of melanomas over the mean probability, in bins of equal count, log-log.

    Each bin has a 95 % interval of its share by Wilson's formula (1927), images counted singly. A
    bin without a melanoma has only the upper end of it.
    """
    figure, axes = unit_square(_WIDTH, x="mean predicted probability", y="share of melanomas")
    seen = []
    for place, (judgement, color) in enumerate(zip(judgements, _colors(judgements), strict=False)):
        mean, share, low, high = _bins(judgement)
        # Side by side, so that the intervals of several tables can be told apart; the points stay.
        beside = mean * 1.02**place
        axes.vlines(beside, np.maximum(low, 1e-9), high, color=color, linewidth=1.2, alpha=0.6)
        axes.plot(mean[share > 0], share[share > 0], "o-", color=color, markersize=4.5)
        seen += [beside, share[share > 0], high]
    values = np.concatenate(seen)
    limits = max(values[values > 0].min() / 1.6, 1e-5), min(values.max() * 1.6, 1.1)
    axes.plot(limits, limits, color=MUTED, linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    # Over less than two decades, powers of ten alone would be a label or two.
    subs = (1.0,) if limits[1] > 100 * limits[0] else (1.0, 2.0, 5.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    ratio = judgements[0].estimates["observed_to_expected"]
    title = f"Observed / expected {_span(ratio, digits=2)}"
    note = "dashed: the probability means what it says"
    _add_head(figure, judgements, title, "observed_to_expected", note=note, digits=2)
    return figure


@mpl.rc_context(STYLE)
def decision_curve_figure(judgements: Sequence[Judgement]) -> Figure:
    """Draw the net benefit of each table over the threshold, beside excising all or none."""
    figure, axes = unit_square(_WIDTH, x="threshold probability", y="net benefit per 1,000 images")
    prevalence = max(float(j.table.is_melanoma.mean()) for j in judgements)
    highest = max(max(judgement.threshold for judgement in judgements) * 1.5, 5 * prevalence)
    thresholds: FloatArray = np.arange(_NUM_THRESHOLDS) / _NUM_THRESHOLDS * min(highest, 0.99)
    odds = thresholds / (1 - thresholds)
    for judgement, color in zip(judgements, _colors(judgements), strict=False):
        axes.plot(thresholds, 1000 * _net_benefits(judgement, thresholds), color=color)
        everyone = judgement.table.is_melanoma.mean()
        all_excised = 1000 * (everyone - (1 - everyone) * odds)
        axes.plot(thresholds, all_excised, color=MUTED, linewidth=1, linestyle="--")
    axes.axhline(0, color=INK, linewidth=1)
    axes.set(ylim=(-120 * prevalence, 1080 * prevalence), xlim=(0, thresholds[-1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    benefit = 1000 * judgements[0].estimates["net_benefit"].value
    title = f"{benefit:.1f} per 1,000 at {probability(judgements[0].threshold)}"
    title = "Net benefit " + title if len(judgements) == 1 else "Net benefit"
    note = "dashed: all are excised; 0: none is"
    _add_head(figure, judgements, title, None, note=note)
    return figure


def _colors(judgements: Sequence[Judgement]) -> list[str]:
    return [_COLORS[place % len(_COLORS)] for place in range(len(judgements))]


def _add_head(
    figure: Figure,
    judgements: Sequence[Judgement],
    title: str,
    metric: str | None,
    *,
    note: str,
    digits: int = 3,
) -> None:
    """Write the title, the note, and for several tables which colour is whose."""
    if len(judgements) > 1:
        title = title.partition(" (")[0] if metric is None else _metric_name(title)
        axes = figure.axes[0]
        for judgement, color in zip(judgements, _colors(judgements), strict=False):
            label = judgement.table.name
            if metric is not None:
                label += f" {judgement.estimates[metric].value:.{digits}f}"
            axes.plot([], [], color=color, label=label)
        axes.legend(
            labelcolor="linecolor", fontsize=9, framealpha=0.85, frameon=True, edgecolor=FAINT
        )
    add_title(figure, title, lines=[(note, MUTED)])


def _metric_name(title: str) -> str:
    return " ".join(word for word in title.partition(" (")[0].split() if not word[:1].isdigit())


def _span(estimate: Estimate, *, digits: int = 3) -> str:
    span = interval(estimate, digits)
    return number(estimate.value, digits) + (f" ({span})" if span else "")


def _bins(judgement: Judgement) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return mean probability, share of melanomas and its Wilson interval of each bin."""
    table = judgement.table
    wanted = int(table.is_melanoma.sum()) // _MELANOMAS_A_BIN
    num_bins = min(max(wanted, 3), _MAX_RELIABILITY_BINS)
    bins = metrics.equal_count_bins(table.probabilities, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    kept = counts > 0
    mean = np.bincount(bins, table.probabilities, num_bins)[kept] / counts[kept]
    share = np.bincount(bins, table.is_melanoma, num_bins)[kept] / counts[kept]
    # 1.96: the standard deviations that hold 95 % of a normal distribution.
    squared = 1.96**2 / counts[kept]
    middle = (share + squared / 2) / (1 + squared)
    margin = np.sqrt(share * (1 - share) * squared + squared**2 / 4) / (1 + squared)
    return mean, share, np.maximum(middle - margin, 0), middle + margin


def _net_benefits(judgement: Judgement, thresholds: FloatArray) -> FloatArray:
    table = judgement.table
    positives = np.sort(table.probabilities[table.is_melanoma])
    negatives = np.sort(table.probabilities[~table.is_melanoma])
    hits = len(positives) - np.searchsorted(positives, thresholds, "left")
    false_alarms = len(negatives) - np.searchsorted(negatives, thresholds, "left")
    benefits: FloatArray = hits - thresholds / (1 - thresholds) * false_alarms
    return benefits / len(table.is_melanoma)
