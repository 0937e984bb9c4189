"""The plots of a running training, redrawn after each epoch so that a person can watch.

``plots/{curves,roc,precision_recall,probabilities,augmentations,mistakes}.png`` in the run's folder
show the last finished epoch, the augmentations what the first one sees. The overfitting check
speaks here too, in the log. A split that has nothing to draw leaves its plots out, with the reason
said once; it never ends a training.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info

from lightning_melanoma.augment.color import unit_range
from lightning_melanoma.callbacks.checkpoints import BestCheckpoint
from lightning_melanoma.callbacks.curves import curves_figure
from lightning_melanoma.callbacks.figures import (
    precision_recall_figure,
    probabilities_figure,
    roc_figure,
)
from lightning_melanoma.callbacks.overfitting import History, overfitting_sentence, rising_since
from lightning_melanoma.callbacks.pictures import (
    augmentations_figure,
    confident_mistakes,
    mistakes_figure,
)
from lightning_melanoma.callbacks.style import save_figure

if TYPE_CHECKING:
    from lightning_melanoma.data.datamodule import MelanomaDataModule
    from lightning_melanoma.tasks.classifier import MelanomaClassifier
    from lightning_melanoma.tasks.outputs import EpochOutputs

# Images shown before and after augmentation.
_NUM_VIEWS = 12


class TrainingPlots(Callback):
    """Draws the plots and says since when a run overfits.

    Args:
        every_n_epochs: how many epochs lie between two drawings; the last epoch is always drawn.

    Raises:
        ValueError: `every_n_epochs` is below 1.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"plots.every_n_epochs: expected 1 or more, found {every_n_epochs}")
        self.every_n_epochs = every_n_epochs
        self._num_seen = 0
        self._num_drawn = 0
        self._overfit_since: int | None = None
        self._said: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the model will see, and count the epochs of an earlier run as drawn.

        Their outputs are not in its checkpoint.
        """
        task = cast("MelanomaClassifier", pl_module)
        self._num_seen = self._num_drawn = len(task.epochs.history)
        folder = _folder(trainer)
        if folder is not None:
            _draw_augmentations(task, trainer.datamodule, folder)  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the epoch before, whose row of metrics is complete by now."""
        self._show(trainer, cast("MelanomaClassifier", pl_module), every=self.every_n_epochs)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last epoch."""
        self._show(trainer, cast("MelanomaClassifier", pl_module), every=1)

    def _show(self, trainer: pl.Trainer, task: "MelanomaClassifier", *, every: int) -> None:
        folder = _folder(trainer)
        if folder is None:
            return
        num_epochs = len(task.epochs.history)
        if num_epochs > self._num_seen:
            self._num_seen = num_epochs
            self._warn_of_overfitting(task.epochs.history)
        if num_epochs - self._num_drawn >= every:
            self._num_drawn = num_epochs
            self._draw(task, trainer, folder)

    def _warn_of_overfitting(self, history: History) -> None:
        since, before = rising_since(history), self._overfit_since
        self._overfit_since = since
        if since is not None and since != before:
            rank_zero_info(overfitting_sentence(history))

    def _draw(self, task: "MelanomaClassifier", trainer: pl.Trainer, folder: Path) -> None:
        history = task.epochs.history
        monitor, epoch = _best(trainer, history)
        curves = curves_figure(history, epoch, rising_since(history), monitor=monitor)
        save_figure(curves, folder / "curves.png")
        outputs = task.epochs.outputs.get("val")
        if outputs is None or not len(outputs.rows):
            self._say_once("plots: curves and augmentations only, nothing was validated")
        elif not np.isfinite(outputs.logits).all():
            self._say_once("plots: curves and augmentations only, some logits are not finite")
        elif "val_log_loss" in history[-1]:
            # Else they stay those of the last epoch that was validated, and of its training.
            _draw_rankings(task, outputs, folder)
            _draw_probabilities(task, outputs, trainer.datamodule, folder)  # type: ignore[attr-defined]

    def _say_once(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            rank_zero_info(reason)


def best_epoch(history: History) -> int | None:
    """Return the first epoch with the highest `val_auroc`, or None when it is never defined.

    It is for runs that keep no best checkpoint.
    """
    known = [row for row in history if math.isfinite(row.get("val_auroc", math.nan))]
    return int(max(known, key=lambda row: row["val_auroc"])["epoch"]) if known else None


def _best(trainer: pl.Trainer, history: History) -> tuple[str, int | None]:
    """Return the metric that the best checkpoint goes by, and the epoch that it is of."""
    callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # undeclared
    for callback in callbacks:
        if isinstance(callback, BestCheckpoint) and callback.monitor is not None:
            return callback.monitor, callback.epoch
    return "val_auroc", best_epoch(history)


def _folder(trainer: pl.Trainer) -> Path | None:
    """Return the plots' folder, None where this process draws none; to be called by all of them."""
    # Lightning agrees on the folder by a broadcast.
    log_dir = trainer.log_dir
    return None if not trainer.is_global_zero or log_dir is None else Path(log_dir) / "plots"


def _draw_augmentations(
    task: "MelanomaClassifier", datamodule: "MelanomaDataModule", folder: Path
) -> None:
    # Apart from the steps: one that returned its images would be another program on XLA.
    batch = datamodule.sample_batch(_NUM_VIEWS)
    with torch.no_grad():
        after, _ = task.augment(batch.images, batch.targets, batch.valid, batch.draws)
    before = unit_range(batch.images)
    save_figure(augmentations_figure(before.numpy(), after.numpy()), folder / "augmentations.png")


def _draw_rankings(task: "MelanomaClassifier", outputs: "EpochOutputs", folder: Path) -> None:
    validation = outputs.targets, outputs.logits
    training: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
    # Undefined where images are mixed: then the logits do not belong to the targets.
    if math.isfinite(task.epochs.history[-1].get("train_auroc", math.nan)):
        training = task.epochs.outputs["train"].targets, task.epochs.outputs["train"].logits
    save_figure(roc_figure(*validation, training=training), folder / "roc.png")
    figure = precision_recall_figure(*validation, training=training)
    save_figure(figure, folder / "precision_recall.png")


def _draw_probabilities(
    task: "MelanomaClassifier",
    outputs: "EpochOutputs",
    datamodule: "MelanomaDataModule",
    folder: Path,
) -> None:
    targets, threshold = outputs.targets, task.prior.prevalence
    probabilities = task.probabilities(outputs.logits)
    figure = probabilities_figure(targets, probabilities, threshold=threshold)
    save_figure(figure, folder / "probabilities.png")
    shown = np.concatenate(confident_mistakes(targets, probabilities, threshold=threshold))
    rows = outputs.rows[shown].tolist()
    figure = mistakes_figure(
        datamodule.images("val", rows),
        datamodule.table("val")["image_name"].iloc[rows].tolist(),
        targets=targets[shown],
        probabilities=probabilities[shown],
    )
    save_figure(figure, folder / "mistakes.png")
