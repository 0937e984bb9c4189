"""The metric that a callback goes by: its name, checked ahead of the run, and its value.

The value is that of the epoch's own row. What Lightning offers to callbacks is what was logged for
the progress bar, rounded to float32, and of an epoch without validation that of the last one.
"""

import difflib
from typing import TYPE_CHECKING, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_melanoma.tasks.judging import ROW_METRICS

if TYPE_CHECKING:
    from lightning_melanoma.tasks.judged import JudgedModule


def check_monitor(monitor: str, *, setting: str) -> None:
    """Stop at a name that no column of metrics has.

    Args:
        monitor: the name.
        setting: whose value it is.

    Raises:
        ValueError: ``metrics.csv`` has no such metric.
    """
    if monitor not in ROW_METRICS:
        # A cutoff of 0 so that there is an answer to every misspelling.
        nearest = ", ".join(difflib.get_close_matches(monitor, ROW_METRICS, n=3, cutoff=0.0))
        raise ValueError(
            f"{setting}: expected a metric of metrics.csv, found {monitor!r}; the nearest are "
            f"{nearest}"
        )


def monitored(task: pl.LightningModule, monitor: str) -> Tensor | None:
    """Return a metric of the epoch that has just ended, () float64 on the CPU.

    Args:
        task: a `JudgedModule`, behind its `on_train_epoch_end`.
        monitor: the name of the metric.

    Returns:
        NaN where it is undefined, None where the epoch has none: it was not validated.
    """
    value = cast("JudgedModule", task).epochs.history[-1].get(monitor)
    return None if value is None else torch.tensor(value, dtype=torch.float64)
