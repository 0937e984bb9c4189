"""Watch that XLA compiles nothing once a run is under way.

A program is compiled anew for each shape, operation or constant that a step changes: seconds to
minutes in which the devices wait. The program of a step is there behind the second one of its kind,
what runs between steps when the second epoch begins. On other devices nothing is watched.
"""

import logging
from collections import Counter
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_melanoma.xla.compilation import StepRecord, StepRecorder, difference, num_programs

_log = logging.getLogger(__name__)

# Steps in which all programs of a stage are met.
_NUM_FIRST = 2
_NOTHING = StepRecord({}, {}, ())


class CompilationWatch(pl.Callback):
    """Counts the programs that XLA compiles; warns of those that come in steady state, and why.

    One more is taken for granted each time that other parameters are to be trained.

    Args:
        strict: end the run instead of warning.

    Raises:
        ValueError: with `strict`, at the first program that is compiled in steady state.
    """

    def __init__(self, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict
        self._is_on = False
        self._num_at_start = self._num_seen = self._num_late = 0
        self._num_trained = self._num_allowed = 0
        self._was_alone = False
        self._recorder = StepRecorder()
        # What is being recorded: its kind, and where that is, in words.
        self._stage, self._place = "", ""
        # Of the last one of each stage that compiled nothing.
        self._usual: dict[str, StepRecord] = {}
        self._num_steps: Counter[str] = Counter()
        self._steady: set[str] = set()
        self._said: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start counting, if the run is on XLA."""
        self._is_on = trainer.strategy.root_device.type == "xla"
        self._num_at_start = self._num_seen = num_programs()
        self._num_late = self._num_trained = 0
        self._was_alone = False
        self._stage = ""
        # This run may be of another model than the last.
        self._num_steps.clear()
        self._steady.clear()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take all programs to be there once an epoch is over."""
        self._begin(trainer, "between epochs", "between the epochs")
        if "train" in self._steady:
            self._steady.update(self._num_steps)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401 - any tree of tensors
        batch_idx: int,
    ) -> None:
        """Judge the step before, which has been dispatched, and begin with the next."""
        place = f"in batch {batch_idx} of training, epoch {trainer.current_epoch}"
        self._begin(trainer, "train", place, batch)
        if self._num_steps["train"] > _NUM_FIRST * trainer.accumulate_grad_batches:
            self._steady.add("train")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - what the step returned
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Look at what was recorded while it is there."""
        if not self._is_on:
            return
        if isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor):
            self._recorder.look_at(outputs["loss"])
        num_trained = sum(parameter.requires_grad for parameter in pl_module.parameters())
        is_new = num_trained != self._num_trained
        # An epoch's last batch has no other to accumulate with: it steps with its gradients alone.
        num_accumulated = trainer.accumulate_grad_batches
        is_last = batch_idx + 1 == trainer.num_training_batches
        is_alone = is_last and num_accumulated > 1 and batch_idx % num_accumulated == 0
        self._num_allowed = int(is_new or (is_alone and not self._was_alone))
        self._was_alone = is_alone or (self._was_alone and not is_new)
        self._num_trained = num_trained

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the last step of training."""
        self._begin(trainer, "around validation", "ahead of validation")

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin with a step that is dispatched in itself."""
        assert trainer.state.stage is not None
        stage = str(trainer.state.stage.value)
        self._begin(trainer, stage, f"in batch {batch_idx} of {stage}", batch)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Judge it."""
        stage = self._stage
        self._begin(trainer, f"around {stage}", f"behind batch {batch_idx} of {stage}")
        if trainer.state.fn != "fit" and self._num_steps[stage] >= _NUM_FIRST:
            self._steady.add(stage)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Say how many programs there were."""
        if self._is_on and trainer.is_global_zero:
            num_all = num_programs() - self._num_at_start
            late = f", {self._num_late} of them in steady state" if self._num_late else ""
            command = TrainerFn(stage).value
            plural = "" if num_all == 1 else "s"
            _log.info("%s: XLA compiled %d program%s%s", command, num_all, plural, late)

    def _begin(self, trainer: pl.Trainer, stage: str, place: str, batch: Any = None) -> None:  # noqa: ANN401
        """Begin with a step, or with what is between steps, and judge what ends with this."""
        if not self._is_on:
            return
        record = self._recorder.begin(batch)
        ended, ended_place = self._stage, self._place
        self._stage, self._place = stage, place
        self._num_steps[stage] += 1
        num_new = num_programs() - self._num_seen
        self._num_seen += num_new
        num_allowed, self._num_allowed = self._num_allowed, 0
        if not num_new:
            self._usual[ended] = record
        elif ended in self._steady and num_new > num_allowed:
            self._num_late += num_new
            why = difference(self._usual.get(ended, _NOTHING), record)
            self._tell(trainer, f"found {num_new} {ended_place}: {why}")

    def _tell(self, trainer: pl.Trainer, found: str) -> None:
        message = f"compilation: expected no program of XLA to be compiled in steady state, {found}"
        if self.strict:
            raise ValueError(f"{message}; keep shapes and operations of all steps the same")
        if trainer.is_global_zero:
            _log.warning("%s; the devices wait meanwhile", message)
