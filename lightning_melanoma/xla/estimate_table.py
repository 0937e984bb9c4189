"""The estimates of several topologies as one text table."""

from collections.abc import Sequence

from lightning_melanoma.xla.estimate import StepEstimate

_GIB = float(1 << 30)
# Label, key, what it is divided by, digits behind the point.
_LINES: tuple[tuple[str, str, float, int], ...] = (
    ("chips", "chips", 1, 0),
    ("global batch, images", "global_batch", 1, 0),
    ("memory a chip, GiB", "hbm_bytes_per_chip", _GIB, 2),
    ("  arguments, GiB", "argument_bytes_per_chip", _GIB, 2),
    ("  temporaries, GiB", "temp_bytes_per_chip", _GIB, 2),
    ("  fits", "fits", 1, 0),
    ("  largest global batch (interpolated)", "largest_global_batch", 1, 0),
    ("arithmetic a step and chip, TFLOP", "flops_per_chip", 1e12, 3),
    ("  an image, GFLOP", "flops_per_image", 1e9, 2),
    ("traffic a step and chip, GB (estimate)", "bytes_per_chip", 1e9, 2),
    ("  an image, MB", "bytes_per_image", 1e6, 1),
    ("collectives a step and chip, MB", "collective_bytes_per_chip", 1e6, 1),
    ("bound by", "bound_by", 1, 0),
    ("bound of a step, ms (not measured)", "bound_ms", 1, 1),
    ("  images/s at most", "images_per_second", 1, 0),
    ("  images/s a chip at most", "images_per_second_per_chip", 1, 0),
    ("host's tracing of a step, ms (here)", "host_ms", 1, 1),
    ("programs of the training step", "programs", 1, 0),
    ("compilation here, s", "compile_seconds", 1, 0),
)


def format_table(rows: Sequence[StepEstimate]) -> str:
    """Return a text table with a column a topology."""
    lines = [("", [row["topology"] for row in rows])]
    for label, key, scale, digits in _LINES:
        values = [dict(row)[key] for row in rows]
        lines.append((label, [_cell(value, scale, digits) for value in values]))
    width = max(len(label) for label, _ in lines)
    widths = [max(len(cells[n]) for _, cells in lines) for n in range(len(rows))]
    return "\n".join(
        "  ".join([label.ljust(width), *[c.rjust(w) for c, w in zip(cells, widths, strict=True)]])
        for label, cells in lines
    )


def _cell(value: object, scale: float, digits: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value / scale:,.{digits}f}"
    return str(value)
