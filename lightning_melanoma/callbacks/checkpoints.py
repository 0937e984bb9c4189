"""Which checkpoints a run keeps, and when it stops by itself."""

import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_melanoma.callbacks.earlier_best import find_earlier_best
from lightning_melanoma.callbacks.monitoring import check_monitor, monitored
from lightning_melanoma.records.files import atomic_file

_log = logging.getLogger(__name__)

_NOT_THERE = (
    "checkpoint: expected the best of the epochs so far, %s %.4f, beside %s or as %s, found it in "
    "neither place; the best of the epochs to come will be kept."
)


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the best value of a metric.

    On resume the earlier best counts. Epochs that do not have the metric do not.

    Args:
        monitor: a metric of ``metrics.csv``.
        mode: whether more (`max`) or less (`min`) of it is better.

    Raises:
        ValueError: ``metrics.csv`` has no such metric.
    """

    def __init__(self, monitor: str = "val_auroc", mode: Literal["min", "max"] = "max") -> None:
        check_monitor(monitor, setting="checkpoint.monitor")
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            # At the end of the whole epoch, when its row of metrics is complete.
            save_on_train_epoch_end=True,
        )
        self._epoch: int | None = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the best checkpoint over from the run that goes on here, in a folder of its own."""
        state = checkpoint["callbacks"].get(self.state_key)
        # `validate`, `test` and `predict` come here as well, and keep no checkpoints.
        if trainer.state.fn != TrainerFn.FITTING or not state:
            return
        if not _is_defined(state["best_model_score"]):
            return
        assert self.dirpath is not None
        assert trainer.ckpt_path is not None
        score, kept = state["best_model_score"], Path(state["best_model_path"])
        found = find_earlier_best(Path(trainer.ckpt_path), checkpoint, state_key=self.state_key)
        if found is None:
            if trainer.is_global_zero:
                _log.warning(_NOT_THERE, self.monitor, score, trainer.ckpt_path, kept)
            return
        earlier, epoch = found
        # As Lightning spells it, "./" included: what has another name it removes later.
        own = os.path.join(self.dirpath, kept.name)  # noqa: PTH118
        if Path(own).resolve() != earlier.resolve() and trainer.is_global_zero:
            with earlier.open("rb") as source, atomic_file(Path(own)) as stream:
                shutil.copyfileobj(source, stream)
        self.best_model_path = self.kth_best_model_path = own
        self.best_model_score = self.kth_value = torch.as_tensor(score)
        self.best_k_models = {own: self.kth_value}
        self._epoch = epoch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing more than `on_load_checkpoint`, which sees the whole checkpoint."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare, unless the epoch has no value to compare."""
        assert self.monitor is not None
        if monitored(pl_module, self.monitor) is not None:
            super().on_train_epoch_end(trainer, pl_module)
            if self._last_global_step_saved == trainer.global_step:
                self._epoch = trainer.current_epoch

    def _monitor_candidates(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        assert self.monitor is not None
        candidates = super()._monitor_candidates(trainer)
        value = monitored(trainer.lightning_module, self.monitor)
        return candidates if value is None else {**candidates, self.monitor: value}

    @property
    def epoch(self) -> int | None:
        """The epoch that ``best.ckpt`` is of, None where there is no best one."""
        return self._epoch if self.is_defined else None

    @property
    def is_defined(self) -> bool:
        """Tell whether the metric could be computed in any epoch, so that there is a best one."""
        return _is_defined(self.best_model_score)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, from which `fit --ckpt_path` goes on as if it had never stopped.

    It is the last epoch, the last step ahead of a validation that has not ended, or the last step
    before Ctrl-C, SIGTERM or an error.

    Args:
        every_n_steps: keep one every so many steps, too, for a process that may be killed without
            a word; 0 for none.

    Raises:
        ValueError: `every_n_steps` is negative.
    """

    def __init__(self, every_n_steps: int = 0) -> None:
        if every_n_steps < 0:
            raise ValueError(
                f"last_checkpoint.every_n_steps: expected 0 or more, found {every_n_steps}"
            )
        super().__init__(
            filename="last",
            enable_version_counter=False,
            save_on_train_epoch_end=True,
            save_on_exception=True,
        )
        self._every_n_steps = every_n_steps
        self._last_step_kept = 0

    @property
    def state_key(self) -> str:
        """The key of this callback's state, apart from that of `BestCheckpoint`."""
        return "LastCheckpoint"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start afresh: the earlier run's file stays where it is."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Keep a step when it is due.

        Ahead of the next one, when the outputs of the last have been taken by everybody.
        """
        step = trainer.global_step
        # With accumulated gradients, only the first batch behind a step has none to lose.
        is_due = self._every_n_steps and batch_idx and step % self._every_n_steps == 0
        if is_due and step != self._last_step_kept:
            self._keep(trainer)
            self._last_step_kept = step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's last step: within a validation, averaged weights stand in the model."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._keep(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the last step, unless a validation has begun since: then it has been kept.

        A prediction at the end of `fit` has other weights in the model.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.validating:
            super().on_exception(trainer, pl_module, exception)

    def _keep(self, trainer: pl.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            # The end of the epoch, at the same step, is to be kept as well.
            self._last_global_step_saved = -1


class StopWhenFlat(EarlyStopping):
    """Stops when a metric has not improved for some epochs.

    Epochs where it is undefined, or that were not validated, do not count.

    Args:
        monitor: a metric of ``metrics.csv``.
        mode: whether more (`max`) or less (`min`) of it is better.
        patience: epochs without improvement.
        min_delta: how much better counts as better.

    Raises:
        ValueError: ``metrics.csv`` has no such metric, or `patience` is negative.
    """

    def __init__(
        self,
        monitor: str = "val_auroc",
        mode: Literal["min", "max"] = "max",
        patience: int = 10,
        min_delta: float = 0.0,
    ) -> None:
        check_monitor(monitor, setting="early_stopping.monitor")
        if patience < 0:
            raise ValueError(f"early_stopping.patience: expected 0 or more, found {patience}")
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
        value = monitored(pl_module, self.monitor)
        if value is None or not math.isfinite(value):
            return
        should_stop, reason = self._evaluate_stopping_criteria(value)
        # One process that is to stop stops all.
        if trainer.strategy.reduce_boolean_decision(should_stop, all=False):
            trainer.should_stop = True
            self.stopped_epoch, self.stopping_reason_message = trainer.current_epoch, reason


def _is_defined(score: Tensor | None) -> bool:
    # Lightning has an infinite one for NaN.
    return score is not None and math.isfinite(score)


def add_to_checkpoint(path: Path, entries: Mapping[str, Any]) -> None:
    """Put entries into a checkpoint, which is replaced whole or not at all.

    Args:
        path: of the checkpoint.
        entries: by their keys; of what `torch.load` takes with ``weights_only``.

    Raises:
        OSError: the checkpoint cannot be read or written.
    """
    checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    with atomic_file(path) as stream:
        torch.save({**checkpoint, **entries}, stream)
