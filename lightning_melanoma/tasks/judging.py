"""What a run knows of its epochs: steps hand in their rows, each epoch is judged once, on the host.

The state of an epoch that is under way goes into the checkpoint, so that a run that was stopped in
the middle of it reports the metrics that it would have reported.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

from lightning_melanoma.tasks.outputs import (
    METRICS,
    EpochOutputs,
    OutputCollector,
    StepOutputs,
    epoch_metrics,
)

#: The splits that are judged; labelled test batches go by `val`.
JudgedSplit = Literal["train", "val"]
#: The columns of ``metrics.csv`` that are metrics. The row of an epoch has those of its splits.
ROW_METRICS = tuple(f"{split}_{name}" for split in get_args(JudgedSplit) for name in METRICS)


class EpochJudge:
    """Collects the outputs of steps, judges epochs and keeps the curves.

    Attributes:
        history: one row of metrics a finished epoch.
        learning_rate: of the last step.
        outputs: of the last finished epoch, by split.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.learning_rate = 0.0
        self.outputs: dict[str, EpochOutputs] = {}
        self._collectors = {"train": OutputCollector(), "val": OutputCollector()}
        self._val_metrics: dict[str, float] = {}

    def keep(self, split: JudgedSplit, outputs: StepOutputs) -> None:
        """Keep what a step returned until the split is judged."""
        self._collectors[split].keep(outputs)

    def forget(self, split: JudgedSplit) -> None:
        """Forget what was kept: it was no whole epoch."""
        self._collectors[split] = OutputCollector()

    def judge(
        self,
        split: JudgedSplit,
        gather: Callable[[Tensor], Tensor],
        *,
        shift: float,
        prevalence: float,
        mixes_targets: bool = False,
    ) -> dict[str, float]:
        """Return the metrics of what was kept, each under the name of its split.

        Args:
            split: which.
            gather: as in `OutputCollector.take`.
            shift: as in `epoch_metrics`, like the rest.
            prevalence: likewise.
            mixes_targets: likewise.
        """
        outputs = self._collectors[split].take(gather)
        self.outputs[split] = outputs
        found = epoch_metrics(
            outputs, shift=shift, prevalence=prevalence, mixes_targets=mixes_targets
        )
        metrics = {f"{split}_{name}": value for name, value in found.items()}
        if split == "val":
            self._val_metrics = metrics
        return metrics

    def close_epoch(
        self, train_metrics: dict[str, float], *, epoch: int, step: int
    ) -> dict[str, float]:
        """Return the row of a finished epoch, training and validation, and add it to the curves."""
        row = {
            "epoch": epoch,
            "step": step,
            **train_metrics,
            **self._val_metrics,
            "lr": self.learning_rate,
        }
        self.history.append(row)
        self._val_metrics = {}
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the curves, and what the epoch under way has brought so far."""
        return {
            "history": self.history,
            "learning_rate": self.learning_rate,
            "val_metrics": self._val_metrics,
            "train": self._collectors["train"].state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, rank: int) -> None:
        """Go on from what `state_dict` returned; `rank` is this process's."""
        self.history = list(state["history"])
        self.learning_rate = state["learning_rate"]
        self._val_metrics = dict(state["val_metrics"])
        self._collectors["train"].load_state_dict(state["train"], rank=rank)
