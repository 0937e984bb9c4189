"""The figure of a run: every metric by epoch, training against validation.

A function of history rows that returns a matplotlib Figure; no pyplot, no display, no file.
"""

import math

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lightning_melanoma.callbacks.overfitting import History
from lightning_melanoma.callbacks.style import ACCENT, CONTEXT, INK, MUTED, STYLE, add_title

# Keeps a number readable where a line crosses it.
HALO = withStroke(linewidth=3, foreground="white")
METRIC_NAMES = {
    "loss": "Loss, as optimised",
    "log_loss": "Log loss, unweighted",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}
_SPLITS = {"train": "Training", "val": "Validation"}


@mpl.rc_context(STYLE)
def curves_figure(
    history: History,
    best_epoch: int | None,
    overfit_since: int | None,
    *,
    monitor: str = "val_auroc",
) -> Figure:
    """Draw every metric by epoch, training against validation.

    Args:
        history: one row an epoch, at least one: `epoch`, `train_*` and `val_*` of `METRIC_NAMES`,
            and `lr`; where a value is missing or NaN the line has a gap.
        best_epoch: the epoch to mark, None for none.
        overfit_since: the epoch from which on the panels are shaded, None for none.
        monitor: the metric that the best epoch is the best by.
    """
    figure = Figure(figsize=(9, 6.6))
    grid = figure.add_gridspec(
        3, 3, height_ratios=(1, 1, 0.4), left=0.072, right=0.98, top=0.855, bottom=0.075,
        hspace=0.5, wspace=0.24,
    )  # fmt: skip
    for place, (metric, name) in enumerate(METRIC_NAMES.items()):
        axes = figure.add_subplot(grid[place // 3, place % 3])
        axes.set_title(name)
        _draw_series(axes, history, f"train_{metric}", color=CONTEXT)
        _draw_series(axes, history, f"val_{metric}", color=ACCENT)
        _mark_epochs(axes, history, best_epoch, overfit_since)
        _mark_value(axes, history, f"val_{metric}", best_epoch)
    axes = figure.add_subplot(grid[2, :], xlabel="epoch")
    _draw_rate(axes, history)
    _mark_epochs(axes, history, best_epoch, overfit_since)
    lines = [_finding(overfit_since)]
    add_title(figure, _title(history, best_epoch, monitor), lines=lines)
    _add_legend(figure, has_best=best_epoch is not None)
    return figure


def _draw_rate(axes: Axes, history: History) -> None:
    axes.set_title("Learning rate")
    _draw_series(axes, history, "lr", color=MUTED)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.yaxis.set_major_formatter("{x:g}")


def _finding(overfit_since: int | None) -> tuple[str, str]:
    """Return what the curves tell, and its color."""
    if overfit_since is None:
        return "validation log loss does not rise beyond noise", MUTED
    rising = f"validation log loss rising since epoch {overfit_since}"
    return f"shaded: {rising}, training's falling", ACCENT


def _draw_series(axes: Axes, history: History, key: str, *, color: str) -> None:
    # A point between two gaps, or a single epoch, is seen by its marker only.
    axes.plot(
        [row["epoch"] for row in history],
        [row.get(key, math.nan) for row in history],
        color=color,
        marker="o",
        markersize=3.5,
    )
    # Room above the uppermost point for the number that is written there.
    axes.margins(y=0.18)


def _mark_epochs(
    axes: Axes,
    history: History,
    best_epoch: int | None,
    overfit_since: int | None,
) -> None:
    first, last = history[0]["epoch"], history[-1]["epoch"]
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    if best_epoch is not None:
        axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=":")
    if overfit_since is not None:
        axes.axvspan(overfit_since - 0.5, last + 0.5, color=ACCENT, alpha=0.08, linewidth=0)


def _mark_value(axes: Axes, history: History, key: str, best_epoch: int | None) -> None:
    for row in history:
        value = row.get(key, math.nan)
        if row["epoch"] == best_epoch and math.isfinite(value):
            axes.plot(best_epoch, value, color=ACCENT, marker="o", markersize=6)
            axes.annotate(
                f"{value:.3f}", (best_epoch, value), xytext=(0, 7), textcoords="offset points",
                color=ACCENT, size=9, weight="bold", ha="center", path_effects=[HALO],
            )  # fmt: skip


def _title(history: History, best_epoch: int | None, monitor: str) -> str:
    split, _, metric = monitor.partition("_")
    name = METRIC_NAMES[metric].partition(",")[0]
    # "AUROC" stays as it is.
    subject = f"{_SPLITS[split]} {name if name.isupper() else name.lower()}"
    # An epoch that was broken off by `max_steps` has a row of its own, without all of the metrics.
    best = [row[monitor] for row in history if row["epoch"] == best_epoch and monitor in row]
    if not best:
        return f"{subject} is undefined"
    return f"{subject} {best[-1]:.3f}, best at epoch {best_epoch}"


def _add_legend(figure: Figure, *, has_best: bool) -> None:
    handles = [
        Line2D([], [], color=CONTEXT, label="training"),
        Line2D([], [], color=ACCENT, label="validation"),
        Line2D([], [], color=INK, linewidth=1, linestyle=":", label="best epoch"),
    ]
    # Level with the line below the title.
    figure.legend(
        handles=handles if has_best else handles[:2],
        loc="upper right",
        bbox_to_anchor=(1, 0.957),
        ncols=3,
        labelcolor="linecolor",
    )
