"""What a LightningModule knows besides its network: classes, epochs, calibration.

It keeps what its steps return, judges epochs and logs their rows. Its checkpoints have all of it.
"""

import math
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_melanoma.data.sample import Batch
from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.predictions import probabilities_of
from lightning_melanoma.tasks.class_prior import ClassPrior
from lightning_melanoma.tasks.judging import EpochJudge, JudgedSplit
from lightning_melanoma.tasks.kept import keep_entries, take_entries
from lightning_melanoma.tasks.outputs import StepOutputs, TrainingOutputs
from lightning_melanoma.tasks.place import GRADIENTS


class JudgedModule(pl.LightningModule):
    """Judges each epoch of its splits as a whole; subclasses bring the steps.

    A training step is to return `TrainingOutputs`, the others `StepOutputs`.

    Attributes:
        prior: counts and weights of the classes, and probabilities by them.
        epochs: the metrics of every finished epoch, and the outputs of the last.
        calibration: of the checkpoint that was loaded; None where it has none, and while fitting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prior = ClassPrior()
        self.epochs = EpochJudge()
        self.calibration: Calibration | None = None
        self._gradients: dict[str, Tensor] = {}

    @property
    def mixes_targets(self) -> bool:
        """Whether training mixes images, so that their targets are soft."""
        return False

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (N,) float64, the probabilities behind the logits, (N,).

        Calibrated where the checkpoint is; else they have the prior correction and no more.
        """
        if self.calibration is None:
            return self.prior.probabilities(logits)
        return probabilities_of(logits, self.calibration.log_odds(logits))

    def on_fit_start(self) -> None:
        """Forget the calibration of the weights that are about to change.

        Raises:
            ValueError: epochs would end without a validation.
        """
        self.calibration = None
        # The number of batches is known by now, and nothing has been written yet.
        self._check_validations()

    def on_train_start(self) -> None:
        """Take up the gradients that were being accumulated; Lightning has cleared all by now."""
        for name, gradient in self._gradients.items():
            parameter = self.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self._gradients = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the curves, the class that this is a checkpoint of, and the place."""
        keep_entries(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the curves, the calibration and the place.

        Raises:
            ValueError: the checkpoint is one of another model, or its place one in other data.
        """
        take_entries(self, checkpoint)
        self._gradients = checkpoint.get(GRADIENTS, {})

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401
        """Keep what the step returned until the end of the epoch."""
        self.epochs.keep("train", cast("TrainingOutputs", outputs)["outputs"])

    def on_validation_epoch_start(self) -> None:
        """Forget the outputs of a validation that was broken off."""
        self.epochs.forget("val")

    def on_validation_batch_end(
        self,
        outputs: Any,  # noqa: ANN401 - what the step returned
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the step returned until the end of the epoch."""
        self.epochs.keep("val", cast("StepOutputs", outputs))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self) -> None:
        """Judge the validation split."""
        if self.trainer.sanity_checking:
            self.epochs.forget("val")
            return
        metrics = self._judge("val")
        # While fitting, the loggers get one row an epoch, from on_train_epoch_end.
        # Every rank has the same numbers, of the whole split.
        fitting = self.trainer.state.fn == "fit"
        self.log_dict(self._on_host(metrics), logger=not fitting, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Judge the labelled test split."""
        metrics = self._judge("val")
        renamed = {name.replace("val_", "test_"): value for name, value in metrics.items()}
        self.log_dict(self._on_host(renamed), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Judge the training split and log one row for the epoch."""
        row = self.epochs.close_epoch(
            self._judge("train"),
            epoch=self.current_epoch,
            step=self.global_step,
        )
        # Past self.log, which rounds to float32.
        for logger in self.loggers:
            logger.log_metrics(row, self.global_step)
            # An epoch is long: a person who watches wants its row now.
            logger.save()
        names = ("train_loss", "val_auroc")
        shown: dict[str, float] = {name: row[name] for name in names if name in row}
        self.log_dict(self._on_host(shown), logger=False, prog_bar=True, sync_dist=True)

    def _check_validations(self) -> None:
        """Check that epochs end with a validation, since that is what they are judged by.

        Raises:
            ValueError: one that is validated would not.
        """
        trainer = self.trainer
        num_batches, interval = trainer.num_training_batches, trainer.val_check_batch
        # Infinite: at the end of an epoch that nobody knows yet.
        if not trainer.enable_validation or interval == math.inf:
            return
        # Several epochs may have one validation.
        if interval is None or (num_batches % interval and interval % num_batches):
            found = "a time" if interval is None else f"{interval:g}"
            raise ValueError(
                "trainer.val_check_interval: expected batches that divide the "
                f"{num_batches:g} of an epoch, whose last validation it is judged by, found "
                f"{found}; give a number that does"
            )

    def _on_host(self, values: dict[str, float]) -> dict[str, Tensor]:
        """Return values as Lightning's log takes them without bringing them to the device."""
        # Only ranks on CUDA cards must: they have no other way to each other.
        device = self.device if self.device.type == "cuda" else torch.device("cpu")
        return {name: torch.tensor(value, device=device) for name, value in values.items()}

    def _gathered(self, values: Tensor) -> Tensor:
        """Return values from all ranks, with a new first axis where there are several."""
        if self.trainer.world_size == 1:
            return values
        return cast("Tensor", self.all_gather(values.to(self.device)))

    def _judge(self, split: JudgedSplit) -> dict[str, float]:
        trained = split == "train"
        return self.epochs.judge(
            split,
            self._gathered,
            # What an epoch of training shows is a population of its own.
            shift=self.prior.weights_shift if trained else self.prior.shift,
            prevalence=self.prior.shown_prevalence if trained else self.prior.prevalence,
            mixes_targets=trained and self.mixes_targets,
        )
