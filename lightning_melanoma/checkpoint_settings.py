"""The settings that come with the checkpoint that the words of a command name by `--ckpt_path`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_melanoma.tasks.loading import data_settings, read_checkpoint
from lightning_melanoma.tasks.scratch import ScratchClassifier


def model_and_data_defaults(words: Sequence[str]) -> dict[str, Any]:
    """Return the defaults of model and data: those of the checkpoint that the words name, if any.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no checkpoint of this program.
    """
    path = _named_checkpoint(words)
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
    path = _named_checkpoint(words)
    config = path.parent.parent / "config.yaml" if path else None
    if words[0] != "fit" or config is None or not config.is_file():
        return list(words)
    return [words[0], "-c", str(config), *words[1:], "--ckpt_path", str(path)]


def _named_checkpoint(words: Sequence[str]) -> Path | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, sign, value = word.partition("=")
        if name == "--ckpt_path":
            return Path(value if sign else following)
    return None


def _class_path(model: type) -> str:
    return f"{model.__module__}.{model.__qualname__}"
