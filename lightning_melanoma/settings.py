"""Settings of a command: those that come with its checkpoint, and what the trainer's must be.

A checkpoint is named by `--ckpt_path` among the words of the command.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lightning_melanoma.tasks.loading import data_settings, read_checkpoint
from lightning_melanoma.tasks.scratch import ScratchClassifier

_log = logging.getLogger(__name__)


def model_and_data_defaults(words: Sequence[str]) -> dict[str, Any]:
    """Return the defaults of model and data: those of the checkpoint that the words name, if any.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no checkpoint of this program.
    """
    path = named_checkpoint(words)
    if path is None:
        return {"model": {"class_path": _class_path(ScratchClassifier)}}
    checkpoint, model = read_checkpoint(path)
    own = {name: value for name, value in checkpoint["hyper_parameters"].items() if name[0] != "_"}
    return {
        "model": {"class_path": _class_path(model), "init_args": own},
        **{f"data.{name}": value for name, value in data_settings(checkpoint).items()},
    }


def with_config_of_run(words: Sequence[str]) -> list[str]:
    """Put the settings of the run that is to go on behind `fit`, ahead of all others."""
    path = named_checkpoint(words)
    if words[0] != "fit" or path is None or not path.is_file():
        return list(words)
    # Of a checkpoint that a link leads to, the run is where the link is, or where the file is.
    places = [one.parent.parent / "config.yaml" for one in (path.absolute(), path.resolve())]
    config = next((place for place in places if place.is_file()), None)
    if config is None:
        _log.warning(
            "ckpt_path %s: found no settings of its run in %s; those of trainer and callbacks are "
            "the defaults, and what is given.",
            path,
            places[0],
        )
        return list(words)
    return [words[0], "-c", str(config), *words[1:], "--ckpt_path", str(path)]


def named_checkpoint(words: Sequence[str]) -> Path | None:
    """Return the checkpoint that words name, None where they name none."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, sign, value = word.partition("=")
        if name == "--ckpt_path":
            return Path(value if sign else following)
    return None


def check_trainer_settings(trainer: Namespace) -> None:
    """Check what Lightning takes and stumbles over later, or not at all.

    Raises:
        ValueError: a setting is out of its range.
    """
    lowest = {"max_epochs": 1, "max_steps": 1, "accumulate_grad_batches": 1, "gradient_clip_val": 0}
    for name, least in lowest.items():
        value = trainer[name]
        # -1 is Lightning's word for no limit.
        is_unlimited = value is None or (value == -1 and name.startswith("max_"))
        if not is_unlimited and value < least:
            raise ValueError(f"trainer.{name}: expected at least {least}, found {value}")
    if trainer.limit_train_batches == 0:
        raise ValueError("trainer.limit_train_batches: expected batches to train on, found 0")


def _class_path(model: type) -> str:
    return f"{model.__module__}.{model.__qualname__}"
