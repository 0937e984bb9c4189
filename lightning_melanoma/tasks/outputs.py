"""What a model said of each row of an epoch, collected on the device and judged on the host.

Exact ranking metrics need the logits of the whole split, so steps only keep their tensors; they
cross to the host once an epoch. Rows that fill up a batch are dropped here and count in nothing.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_melanoma import metrics
from lightning_melanoma.data.sample import Batch
from lightning_melanoma.tasks.views import Embedding


class EpochOutputs(NamedTuple):
    """The rows of one epoch of a split, in the order of its table.

    Attributes:
        rows: (N,) int64, row in the split's table.
        logits: (N,) float32, as the network gave them.
        targets: (N,) float32 in {0, 1}.
        mixed_targets: (N,) float32 in [0, 1], what the loss was taken against.
        losses: (N,) float32, weight times loss.
    """

    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    targets: NDArray[np.float32]
    mixed_targets: NDArray[np.float32]
    losses: NDArray[np.float32]


class StepOutputs(NamedTuple):
    """What one step says of its rows, on the device: what the module returns beside its loss.

    Attributes:
        rows: (B,) int64, row in the split's table, -1 for fill.
        columns: (4, B) float32: logits, targets, mixed targets, losses.
    """

    rows: Tensor
    columns: Tensor


class Prediction(NamedTuple):
    """What a prediction step returns.

    Attributes:
        rows: (B,) int64, row in the split's table, -1 for fill.
        logits: (B,) float32.
        embedding: of the images.
    """

    rows: Tensor
    logits: Tensor
    embedding: Embedding


class TrainingOutputs(TypedDict):
    """What a training step returns: the loss, and what to keep of its rows.

    Nothing of it is kept within the step, since a strategy may have to bring it together first.

    Attributes:
        loss: () float32.
        outputs: of the rows.
    """

    loss: Tensor
    outputs: StepOutputs


def step_outputs(
    batch: Batch, logits: Tensor, mixed_targets: Tensor, losses: Tensor
) -> StepOutputs:
    """Return what is to be kept of a step; (B,) each."""
    columns = (logits, batch.targets, mixed_targets, losses)
    return StepOutputs(
        torch.where(batch.valid, batch.rows, -1),
        torch.stack([column.detach().float() for column in columns]),
    )


class OutputCollector:
    """Keeps the outputs of an epoch's steps until they are asked for."""

    def __init__(self) -> None:
        self._integers: list[Tensor] = []
        self._floats: list[Tensor] = []

    def keep(self, outputs: StepOutputs) -> None:
        """Keep what a step returned, where it is."""
        self._integers.append(outputs.rows)
        self._floats.append(outputs.columns)

    def take(self, gather: Callable[[Tensor], Tensor]) -> EpochOutputs:
        """Return all rows since the last call and forget them.

        Args:
            gather: brings a tensor of the CPU together from all ranks, with a new first axis where
                there are several.
        """
        if not self._integers:
            return EpochOutputs(np.empty(0, np.int64), *[np.empty(0, np.float32)] * 4)
        integers, parts = self._on_host()
        self._integers, self._floats = [], []
        rows = gather(integers).cpu().reshape(-1).numpy()
        floats = gather(parts).cpu()
        # (ranks, 4, N) or (4, N) to (4, ranks x N).
        columns = floats.reshape(-1, *floats.shape[-2:]).transpose(0, 1).reshape(4, -1).numpy()
        order = np.argsort(rows, kind="stable")
        order = order[np.searchsorted(rows[order], 0) :]
        return EpochOutputs(rows[order], *columns[:, order])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was kept so far, on the CPU."""
        if not self._integers:
            return {}
        rows, columns = self._on_host()
        return {"rows": rows, "columns": columns}

    def load_state_dict(self, state: dict[str, Tensor], *, rank: int) -> None:
        """Go on from what `state_dict` returned, in the process of rank 0.

        Args:
            state: what rank 0 had kept.
            rank: of this process. The others get as many rows of fill: what is gathered must have
                one length everywhere.
        """
        self._integers, self._floats = [], []
        if state:
            rows = state["rows"] if rank == 0 else torch.full_like(state["rows"], -1)
            self._integers, self._floats = [rows], [state["columns"]]

    def _on_host(self) -> tuple[Tensor, Tensor]:
        # Joined on the host: on a device that compiles, each number of steps would be one program.
        rows = torch.cat([part.cpu() for part in self._integers])
        return rows, torch.cat([part.cpu() for part in self._floats], dim=1)


def epoch_metrics(
    outputs: EpochOutputs, *, shift: float, prevalence: float, mixes_targets: bool
) -> dict[str, float]:
    """Return the metrics of one epoch of a split.

    Args:
        outputs: of the epoch.
        shift: what class weights added to the logits, to be undone.
        prevalence: of the training split; at or above it the corrected probability calls melanoma.
        mixes_targets: images were mixed, so that ranking by the original targets means nothing.

    Returns:
        ``loss`` (weighted), ``log_loss`` (unweighted, of the corrected probability), ``auroc``,
        ``average_precision``, ``sensitivity``, ``specificity``; NaN where undefined.
    """
    if not len(outputs.rows):
        return {}
    corrected = outputs.logits.astype(np.float64) - shift
    targets = outputs.mixed_targets.astype(np.float64)
    # The NaN of a run that diverged stays one, without a warning.
    with np.errstate(invalid="ignore"):
        log_losses = np.logaddexp(0, corrected) - targets * corrected
    found = {
        "loss": float(outputs.losses.astype(np.float64).mean()),
        "log_loss": float(log_losses.mean()),
    }
    ranking = dict.fromkeys(RANKING_METRICS, math.nan)
    if not mixes_targets and np.isfinite(outputs.logits).all():
        calls = corrected >= math.log(prevalence / (1 - prevalence))
        ranking = {
            "auroc": metrics.auroc(outputs.targets, outputs.logits),
            "average_precision": metrics.average_precision(outputs.targets, outputs.logits),
            "sensitivity": metrics.sensitivity(outputs.targets, calls),
            "specificity": metrics.specificity(outputs.targets, calls),
        }
    return found | ranking


#: The metrics that need hard targets.
RANKING_METRICS = ("auroc", "average_precision", "sensitivity", "specificity")
#: All that `epoch_metrics` returns, in its order.
METRICS = ("loss", "log_loss", *RANKING_METRICS)
