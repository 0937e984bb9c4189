"""Lightning's CLI with this project's model, data, callbacks and defaults.

Settings come, later over earlier, from: the defaults, the checkpoint (`--ckpt_path`; for `fit` also
the ``config.yaml`` of the run that it belongs to), `-c` files, flags.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_melanoma.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, StopWhenFlat
from lightning_melanoma.callbacks.compilation import CompilationWatch
from lightning_melanoma.callbacks.novelty import LesionGate
from lightning_melanoma.callbacks.plots import TrainingPlots
from lightning_melanoma.callbacks.prediction import predict_best
from lightning_melanoma.callbacks.progress import ImagesPerSecondBar
from lightning_melanoma.callbacks.submission import SubmissionWriter
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.devices import check_precision, choose_device, keep_freed_memory
from lightning_melanoma.interrupts import interrupts_end_the_step
from lightning_melanoma.settings import (
    check_trainer_settings,
    model_and_data_defaults,
    named_checkpoint,
    with_config_of_run,
)
from lightning_melanoma.tasks.classifier import MelanomaClassifier

_log = logging.getLogger(__name__)


class MelanomaCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict`.

    Args:
        words: the command and its flags.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._defaults = model_and_data_defaults(words)
        self._named_checkpoint = named_checkpoint(words)
        commands = LightningCLI.subcommands()
        super().__init__(
            MelanomaClassifier,
            MelanomaDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"max_epochs": 12, "log_every_n_steps": 1},
            parser_kwargs={
                "prog": "lightning-melanoma",
                "exit_on_error": False,
                **{command: {"exit_on_error": False} for command in commands},
            },
            args=list(words),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's commands; checkpoints are always loaded with ``weights_only``."""
        return {
            name: {*hidden, "weights_only"} for name, hidden in LightningCLI.subcommands().items()
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and the callbacks that every run has."""
        parser.add_argument(
            "--experiment",
            type=str,
            default="melanoma",
            help="Names the run's folder below `runs`.",
        )
        parser.add_argument(
            "--predict_after_fit",
            type=bool,
            default=True,
            help="Calibrate the best checkpoint, and predict validation and test shards from it, "
            "when `fit` ends.",
        )
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(StopWhenFlat, "early_stopping")
        parser.add_lightning_class_args(TrainingPlots, "plots")
        parser.add_lightning_class_args(SubmissionWriter, "submission")
        parser.add_lightning_class_args(CompilationWatch, "compilation")
        parser.add_argument(
            "--prevalence",
            type=float | None,
            default=None,
            help="Share of melanomas in the population that predicted probabilities are for; null "
            "for that of the validation split.",
        )
        parser.link_arguments("prevalence", "submission.prevalence")
        parser.set_defaults(self._defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401
        """Parse the words, which need not be the process's own: no warning about that."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the checkpoint beat the command line; here it gives the defaults.
        pass

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; a model with a checkpoint is built without weights.

        The checkpoint has the whole network, and what the run began with may be out of reach by
        now. That is still what the config says that is saved.
        """
        ckpt_path = self.config[self.subcommand].ckpt_path
        if ckpt_path and self._named_checkpoint is None:
            raise ValueError(
                "ckpt_path: expected it on the command line, since the settings of model and data "
                f"come from it, found it in a config file; give --ckpt_path {ckpt_path}"
            )
        self.build_model(with_weights=not ckpt_path)
        self.trainer = self.instantiate_trainer()

    def build_model(self, *, with_weights: bool) -> None:
        """Build data and model, which fetches no weights unless it is to have them."""
        config = self.config.clone()
        model = config[self.subcommand].model
        if not with_weights and "weights" in model.init_args:
            model.init_args.weights = "none"
        self.config_init = self.parser.instantiate_classes(config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:  # noqa: ANN401 - Lightning's own
        """Return the trainer with the gate of `fit`, and our progress bar unless another is named.

        It logs into ``runs/<experiment>/version_<n>`` unless another logger is named. Logger and
        device are chosen here, past the config that is saved: a run may go on elsewhere.
        """
        settings = self.config_init[self.subcommand]
        config = settings.trainer
        if self.subcommand == "fit":
            check_trainer_settings(config)
        if config.logger in (None, True):
            config.logger = CSVLogger(config.default_root_dir or "runs", settings.experiment)
        choose_device(config)
        check_precision(config, trains=self.subcommand == "fit")
        if config.accelerator == "cpu":
            keep_freed_memory()
        own: list[Callback] = [LesionGate()] if self.subcommand == "fit" else []
        named = config.callbacks or []
        if config.enable_progress_bar is not False and not any(
            isinstance(callback, ProgressBar) for callback in named
        ):
            own.append(ImagesPerSecondBar())
        config.callbacks = [*named, *own]
        return super().instantiate_trainer(**kwargs)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand != "fit" and kwargs["ckpt_path"] is None:
            raise ValueError(
                f"ckpt_path: expected the checkpoint to {subcommand} with, found none; "
                "give --ckpt_path runs/.../checkpoints/best.ckpt"
            )
        return {**kwargs, "weights_only": True}

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except BaseException as error:
            _remove_if_empty(getattr(self.trainer.logger, "log_dir", None))
            if isinstance(error, SIGTERMException):
                _log.warning("Stopped%s", self._what_is_left())
            raise

    def _what_is_left(self) -> str:
        if self.subcommand != "fit":
            return "."
        if self.trainer.state.fn == TrainerFn.FITTING:
            return "; fit --ckpt_path .../checkpoints/last.ckpt goes on from here."
        return " ahead of the predictions; .../checkpoints/best.ckpt is there."

    def before_fit(self) -> None:
        """Have the test shards looked at before hours of training, not after them."""
        self.datamodule.predicts_after_fit = self._predicts_after_fit

    def after_fit(self) -> None:
        """Calibrate the best checkpoint, and predict from it."""
        if self._predicts_after_fit:
            predict_best(self.trainer, self.model, self.datamodule)

    @property
    def _predicts_after_fit(self) -> bool:
        trainer: Any = self.trainer
        return self.config[self.subcommand].predict_after_fit and not trainer.fast_dev_run


def run_trainer_command(words: Sequence[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        words: the command and its flags.

    Raises:
        SystemExit: as `interrupts_end_the_step` does.
        ValueError: a setting is wrong.
    """
    with interrupts_end_the_step():
        MelanomaCLI(with_config_of_run(words))


def _remove_if_empty(folder: str | None) -> None:
    """Remove the folder of a run that ended before it had anything to keep but its settings."""
    if folder is None or not Path(folder).is_dir():
        return
    if {path.name for path in Path(folder).rglob("*") if path.is_file()} <= {"config.yaml"}:
        shutil.rmtree(folder)
        if not any(Path(folder).parent.iterdir()):
            Path(folder).parent.rmdir()
