"""Figures made of images: what the model saw in training, and what it got wrong.

Functions of arrays that return a matplotlib Figure; no pyplot, no display, no file.
"""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_melanoma.callbacks.style import (
    ACCENT,
    CONTEXT,
    MARGIN,
    MUTED,
    STYLE,
    add_title,
    percent,
)

NUM_MISTAKES = 6
# As many images side by side as stay recognisable on a figure of this width, in inches.
MAX_COLUMNS, FIGURE_WIDTH = 8, 9.0
# Between two images, as a part of their width.
GAP = 0.05


@mpl.rc_context(STYLE)
def augmentations_figure(
    before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]
) -> Figure:
    """Draw images of a training batch as they were read, and below each what the model saw.

    Args:
        before: (N, 3, S, S) in [0, 1], RGB, N at least 1.
        after: (N, 3, S, S) in [0, 1], the same images augmented.
    """
    num_blocks = math.ceil(len(before) / MAX_COLUMNS)
    num_columns = math.ceil(len(before) / num_blocks)
    # Beside the margins there is a column of 0.25 inches for the words; one image is not blown up.
    size = (FIGURE_WIDTH - 2 * MARGIN - 0.25) / max(num_columns, 4) / (1 + GAP)
    # 0.75 inches hold the title.
    height = 0.75 + 2 * num_blocks * size * (1 + GAP) + MARGIN
    figure = Figure(figsize=(FIGURE_WIDTH, height))
    for block in range(num_blocks):
        chosen = slice(block * num_columns, (block + 1) * num_columns)
        for row, (images, name) in enumerate(((before, "as read"), (after, "as seen"))):
            pixels = np.moveaxis(images[chosen] * 255, 1, -1).round().clip(0, 255).astype(np.uint8)
            top = 0.75 + (2 * block + row) * size * (1 + GAP)
            axes = _draw_row(figure, pixels, size=size, left=MARGIN + 0.25, top=top)
            axes.text(-0.03, 0.5, name, rotation=90, ha="right", va="center", color=MUTED)
    line = "rows in pairs: images as they were read, and the same after augmentation"
    add_title(figure, "What the model saw in training", lines=[(line, MUTED)])
    return figure


def confident_mistakes(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, *, threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the row numbers of the most confident mistakes, the worst first.

    Args:
        targets: (N,) in {0, 1}.
        probabilities: (N,) in [0, 1].
        threshold: the probability from which on melanoma is called.

    Returns:
        `(missed, false_alarms)`, up to `NUM_MISTAKES` each: melanomas below the threshold, the
        least probable first, and benign rows at or above it, the most probable first.
    """
    labels, values = np.asarray(targets), np.asarray(probabilities)
    missed = np.flatnonzero((labels == 1) & (values < threshold))
    false_alarms = np.flatnonzero((labels == 0) & (values >= threshold))
    # Stable, so that ties come in the order of the rows.
    by_probability = np.argsort(values[missed], kind="stable")
    by_falling = np.argsort(-values[false_alarms], kind="stable")
    return missed[by_probability][:NUM_MISTAKES], false_alarms[by_falling][:NUM_MISTAKES]


@mpl.rc_context(STYLE)
def mistakes_figure(
    images: npt.NDArray[np.uint8],
    names: Sequence[str],
    *,
    targets: npt.ArrayLike,
    probabilities: npt.ArrayLike,
) -> Figure:
    """Draw the most confident mistakes: missed melanomas above, false alarms below.

    Args:
        images: (N, S, S, 3) uint8, RGB, in the order in which each row is filled.
        names: N ids.
        targets: (N,) in {0, 1}: 1 is a missed melanoma, 0 a false alarm.
        probabilities: (N,) in [0, 1].
    """
    labels, values = np.asarray(targets), np.asarray(probabilities)
    size = (FIGURE_WIDTH - 2 * MARGIN) / NUM_MISTAKES / (1 + GAP)
    # Inches: 0.75 for the title, and for each row 0.3 for its name and 0.5 for the captions.
    figure = Figure(figsize=(FIGURE_WIDTH, 0.75 + 2 * (0.3 + size + 0.5)))
    titles = ("Missed melanomas, the least probable first", "False alarms, the most probable first")
    kinds = zip((1, 0), titles, (ACCENT, CONTEXT), strict=True)
    for row, (label, title, color) in enumerate(kinds):
        places = np.flatnonzero(labels == label)[:NUM_MISTAKES]
        top = 1.05 + row * (0.3 + size + 0.5)
        axes = _draw_row(figure, images[places], size=size, left=MARGIN, top=top)
        axes.set_title(title if len(places) else f"{title.split(',')[0]}: none", color=color)
        for column, place in enumerate(places):
            caption = f"{names[place]}\n{percent(values[place])}"
            middle = column + 0.5 / (1 + GAP)
            axes.text(middle, -0.04, caption, ha="center", va="top", size=8.5)
    line = "below each image its id and the predicted probability of melanoma"
    add_title(figure, "The most confident mistakes in validation", lines=[(line, MUTED)])
    return figure


def _draw_row(
    figure: Figure, images: npt.NDArray[np.uint8], *, size: float, left: float, top: float
) -> Axes:
    """Draw images side by side in axes of their own, as one picture: axes are what takes time.

    Args:
        figure: the figure to draw on.
        images: (N, S, S, 3) uint8.
        size: of each image, in inches.
        left: of the row, in inches from the left edge of the figure.
        top: of the row, in inches from its upper edge.

    Returns:
        Axes in which image n goes from n to n + 1 / (1 + GAP), and from 0 below to 1 above.
    """
    width, height = figure.get_size_inches()
    # An empty row has the width of one image, for what is written over it.
    num_cells = max(len(images), 1)
    place = (left, height - top - size, num_cells * size * (1 + GAP), size)
    axes = figure.add_axes(tuple(np.divide(place, (width, height, width, height))))
    axes.set_axis_off()
    axes.set(xlim=(0, num_cells), ylim=(0, 1))
    if len(images):
        gap = round(GAP * images.shape[2])
        spaced = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
        axes.imshow(np.hstack(list(spaced)), extent=(0, num_cells, 0, 1), aspect="auto")
    return axes
