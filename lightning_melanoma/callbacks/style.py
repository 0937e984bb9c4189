"""What all figures share: colours, type, titles in words, and the file they end in.

Grey-blue is training or context, vermilion is validation or melanoma: two colours that every kind
of colour vision tells apart (Okabe and Ito, "Color Universal Design", 2008). Fonts are those that
matplotlib brings along, so a figure looks the same on every machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_melanoma.records.files import atomic_file

INK, MUTED, FAINT = "#22303c", "#5c6b78", "#b8c2ca"
# Inches between the edge of a figure and its title.
MARGIN = 0.15
CONTEXT, ACCENT = "#6f889d", "#c75000"
# For `matplotlib.rc_context`, which sets it for the time of drawing only. Sizes are in points: 9 of
# them still read well when a figure 9 inches (1080 pixels) wide is shown 800 pixels wide.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e3e8ec",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.dpi": 120,
    # An id may hold two dollar signs.
    "text.parse_math": False,
}


def unit_square(width: float, *, x: str, y: str) -> tuple[Figure, Axes]:
    """Return a figure, `width` inches wide, of one pair of axes from 0 to 1.

    Args:
        width: in inches; the height is 0.2 more, for a title of two lines above.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
    """
    height = width + 0.2
    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    # Inches for the labels on the left and below, for the title, and for the last number.
    figure.subplots_adjust(
        left=0.73 / width, right=1 - 0.19 / width, top=1 - 0.89 / height, bottom=0.56 / height
    )
    # A little beyond 0 and 1, so that a line along the edge is seen whole.
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    return figure, axes


def add_title(figure: Figure, title: str, *, lines: Sequence[tuple[str, str]]) -> None:
    """Write what a figure shows over it, left-aligned: the title, below it smaller lines.

    Args:
        figure: has 0.45 inches free above, and 0.2 more for each line.
        title: one line.
        lines: of text and its colour.
    """
    width, height = figure.get_size_inches()
    # Distances from the edges are in inches, the same on figures of any size.
    left = MARGIN / width
    figure.text(left, 1 - 0.14 / height, title, size=13, weight="bold", va="top")
    for number, (text, color) in enumerate(lines):
        figure.text(left, 1 - (0.42 + 0.2 * number) / height, text, color=color, va="top")


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage of one decimal, without a false 0 or 100."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        OSError: `path` cannot be written.
    """
    with atomic_file(Path(path)) as stream:
        figure.savefig(stream, format="png")
