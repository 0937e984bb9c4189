"""Write what was predicted: the prediction tables, and Kaggle's ``submission.csv``."""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_melanoma.callbacks.calibration import (
    fit_to_validation,
    prior_correction,
    warn_of_doubts,
)
from lightning_melanoma.callbacks.checkpoints import add_to_checkpoint
from lightning_melanoma.csv_tables import write_csv_atomically
from lightning_melanoma.decisions.calibrated import CHECKPOINT_KEY, Calibration
from lightning_melanoma.metrics import auroc, auroc_interval
from lightning_melanoma.predictions import UNCALIBRATED, prediction_table, write_predictions
from lightning_melanoma.submission import check_submission, in_sample_order, submission

_log = logging.getLogger(__name__)

# Of what predict_step returns: rows of the table (-1 for fill) and logits, (B,) each.
_Step = tuple[Tensor, Tensor]
# Of a split: the rows of its table that were predicted, and their logits, (N,).
_Predicted = tuple[pd.DataFrame, NDArray[np.float32]]


class SubmissionWriter(pl.Callback):
    """Writes ``predictions/<split>.csv`` of each predicted split, ``submission.csv`` of the test's.

    Rows come in the order of the records, whatever the order in which they were predicted, and are
    checked before anything is written: one for each record, ids unique, finite, within [0, 1].

    Args:
        sample: a sample_submission.csv whose order the submission takes, and whose ids it must
            have.
        prevalence: share of melanomas in the population that probabilities are to be right for;
            None for the one that the model is calibrated in.

    Raises:
        FileNotFoundError: `sample` is named but is not there.
        ValueError: `prevalence` is not between 0 and 1.
    """

    def __init__(self, sample: str | None = None, prevalence: float | None = None) -> None:
        super().__init__()
        if prevalence is not None and not 0 < prevalence < 1:
            raise ValueError(f"prevalence: expected a share between 0 and 1, found {prevalence}")
        if sample is not None and not Path(sample).is_file():
            raise FileNotFoundError(
                "submission.sample: expected a CSV with an `image_name` column, found no file "
                f"{sample}"
            )
        self.sample = sample
        self.prevalence = prevalence
        self._to_calibrate: Path | None = None
        self._steps: dict[int, list[_Step]] = {}

    def calibrate(self, ckpt_path: Path) -> None:
        """Let the next prediction, of validation and more, calibrate its checkpoint.

        Args:
            ckpt_path: the checkpoint that will be predicted from.
        """
        self._to_calibrate = ckpt_path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the sample with the test records that are to be predicted later.

        Raises:
            ValueError: it has no `image_name` column, an id twice, or other ids.
        """
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # ours
        if self.sample is not None and datamodule.predicts_after_fit and datamodule.has_test():
            in_sample_order(datamodule.table("test"), self.sample)

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the outputs of an earlier prediction."""
        self._steps = defaultdict(list)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the rows and logits of a batch.

        Raises:
            SIGTERMException: the run is to end. Lightning's loop of predictions does not look.
        """
        if trainer.received_sigterm:
            raise SIGTERMException
        self._steps[dataloader_idx].append(outputs[:2])

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the tables of all splits that were predicted."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # ours
        # Read by every rank, since Lightning sends it around.
        folder = trainer.log_dir
        assert folder is not None
        predicted: dict[str, _Predicted] = {}
        for number, split in enumerate(datamodule.predict_splits):
            rows, logits = _gathered(trainer, self._steps[number])
            _check_finite(logits, split)
            predicted[split] = datamodule.table(split).iloc[rows], logits
        if trainer.is_global_zero:
            self._write(trainer, pl_module, predicted, Path(folder))

    def _write(
        self,
        trainer: pl.Trainer,
        task: Any,  # noqa: ANN401 - a MelanomaClassifier
        predicted: Mapping[str, _Predicted],
        folder: Path,
    ) -> None:
        image_size = trainer.datamodule.hparams["image_size"]  # type: ignore[attr-defined]  # ours
        prior = prior_correction(task, image_size=image_size)
        if self._to_calibrate is not None:
            task.calibration = fit_to_validation(prior, *predicted["val"])
            entries = {CHECKPOINT_KEY: task.calibration.to_dict()}
            add_to_checkpoint(self._to_calibrate, entries)
            self._to_calibrate = None
        calibration = task.calibration or prior
        warn_of_doubts(calibration, image_size=image_size, tta=task.hparams["tta"])
        for split, (records, logits) in predicted.items():
            table = self._table(records, logits, calibration)
            if split == "test":
                self._submit(trainer, table, folder / "submission.csv")
            path = folder / "predictions" / f"{split}.csv"
            write_predictions(table, path)
            _log.info("%s: %d rows%s", path, len(table), _verdict(table["target"], logits))

    def _table(
        self, records: pd.DataFrame, logits: NDArray[np.float32], calibration: Calibration
    ) -> pd.DataFrame:
        # -1 says that a record is in no fold.
        records = records.assign(fold=records["fold"].where(records["fold"] >= 0))
        log_odds = calibration.log_odds(logits, prevalence=self.prevalence)
        table = prediction_table(records, logits, log_odds=log_odds)
        return table if calibration.is_fitted else table.assign(**UNCALIBRATED)

    def _submit(self, trainer: pl.Trainer, table: pd.DataFrame, path: Path) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # ours
        expected = datamodule.table("test")["image_name"]
        if datamodule.hparams["on_corrupt"] == "skip":
            expected = table["image_name"]
        rows_to_submit = submission(table)
        check_submission(rows_to_submit, list(expected))
        if self.sample is not None:
            rows_to_submit = in_sample_order(rows_to_submit, self.sample)
        write_csv_atomically(rows_to_submit, path)
        _log.info("%s: %d rows", path, len(rows_to_submit))


def _check_finite(logits: NDArray[np.float32], split: str) -> None:
    num_unusable = (~np.isfinite(logits)).sum()
    if num_unusable:
        raise ValueError(
            f"predictions of {split}: expected finite logits, found {num_unusable} NaN or "
            "infinite; the training diverged: lower the learning rate"
        )


def _gathered(
    trainer: pl.Trainer, steps: Sequence[_Step]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    def gather(parts: list[Tensor]) -> Any:  # noqa: ANN401
        whole = torch.cat(parts).to(trainer.strategy.root_device)
        return trainer.strategy.all_gather(whole).cpu().reshape(-1).numpy()

    rows, logits = (gather([step[column] for step in steps]) for column in (0, 1))
    # Each record once, in the order of the table; the fill of the last batch goes.
    kept, first = np.unique(rows, return_index=True)
    start = np.searchsorted(kept, 0)
    return kept[start:], logits[first[start:]]


def _verdict(targets: Any, logits: Any) -> str:  # noqa: ANN401
    if targets.isna().any() or targets.nunique() < 2:
        return ""
    known = targets.to_numpy(float)
    low, high = auroc_interval(known, logits)
    # A single image of a class has none.
    span = "" if math.isnan(low) else f"95 % interval {low:.3f} to {high:.3f}, "
    return f", AUROC {auroc(known, logits):.3f} ({span}{int(known.sum())} melanomas)"
