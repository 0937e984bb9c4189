"""What a run does when its training has ended."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_melanoma.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_melanoma.callbacks.novelty import LesionGate
from lightning_melanoma.callbacks.submission import SubmissionWriter
from lightning_melanoma.data.datamodule import MelanomaDataModule

_log = logging.getLogger(__name__)


def predict_best(
    trainer: pl.Trainer, task: pl.LightningModule, datamodule: MelanomaDataModule
) -> None:
    """Calibrate the best checkpoint of a training that has ended, and predict from it.

    Writes prediction tables of validation and test shards, and ``submission.csv``.

    Args:
        trainer: has fitted, with `BestCheckpoint`, `LastCheckpoint` and `SubmissionWriter`, and
            with `LesionGate` where the checkpoint is to know lesions.
        task: that it fitted.
        datamodule: that it fitted it to.
    """
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's, undeclared
    best = next(c for c in callbacks if isinstance(c, BestCheckpoint))
    last = next(c for c in callbacks if isinstance(c, LastCheckpoint))
    writer = next(c for c in callbacks if isinstance(c, SubmissionWriter))
    path: str | Path | None = best.best_model_path
    if best.is_defined:
        writer.calibrate(Path(best.best_model_path))
    else:
        _log.warning("No epoch is the best by %s; predicting from the last.", best.monitor)
        # Where nothing was left to train, the last is the one that was to go on.
        path = last.best_model_path or trainer.ckpt_path
    datamodule.predict_splits = ("val", "test") if datamodule.has_test() else ("val",)
    trainer.predict(
        task,
        datamodule=datamodule,
        ckpt_path=path,
        weights_only=True,
        return_predictions=False,
    )
    if best.is_defined and trainer.is_global_zero:
        for gate in (c for c in callbacks if isinstance(c, LesionGate)):
            gate.keep(Path(best.best_model_path))
