"""Which checkpoints a run keeps, and when it stops by itself."""

import math
import shutil
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the best value of a metric.

    On resume the earlier best counts.

    Args:
        monitor: a metric of ``metrics.csv``.
        mode: whether more (`max`) or less (`min`) of it is better.
    """

    def __init__(self, monitor: str = "val_auroc", mode: Literal["min", "max"] = "max") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            # At the end of the whole epoch, when its row of metrics is complete.
            save_on_train_epoch_end=True,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best checkpoint over from the run that goes on here, in a folder of its own."""
        earlier = Path(state_dict["best_model_path"])
        score = state_dict["best_model_score"]
        if score is None or not earlier.is_file():
            return
        assert self.dirpath is not None
        own = Path(self.dirpath) / earlier.name
        if own != earlier:
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(earlier, own)
        self.best_model_path = self.kth_best_model_path = str(own)
        self.best_model_score = self.kth_value = torch.as_tensor(score)
        self.best_k_models = {str(own): self.kth_value}

    @property
    def is_defined(self) -> bool:
        """Tell whether the metric could be computed in any epoch, so that there is a best one."""
        return self.best_model_score is not None and math.isfinite(self.best_model_score)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: the last epoch, or the last step before Ctrl-C, SIGTERM or an error."""

    def __init__(self) -> None:
        super().__init__(
            filename="last",
            enable_version_counter=False,
            save_on_train_epoch_end=True,
            save_on_exception=True,
        )

    @property
    def state_key(self) -> str:
        """The key of this callback's state, apart from that of `BestCheckpoint`."""
        return "LastCheckpoint"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start afresh: the earlier run's file stays where it is."""


class StopWhenFlat(EarlyStopping):
    """Stops when a metric has not improved for some epochs.

    Epochs where it is undefined do not count.

    Args:
        monitor: a metric of ``metrics.csv``.
        mode: whether more (`max`) or less (`min`) of it is better.
        patience: epochs without improvement.
        min_delta: how much better counts as better.
    """

    def __init__(
        self,
        monitor: str = "val_auroc",
        mode: Literal["min", "max"] = "max",
        patience: int = 10,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(
            monitor,
            mode=mode,
            patience=patience,
            min_delta=min_delta,
            check_finite=False,
            check_on_train_epoch_end=True,
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare, unless the epoch has no value to compare."""
        if math.isfinite(trainer.callback_metrics.get(self.monitor, math.nan)):
            super().on_train_epoch_end(trainer, pl_module)
