"""Checkpoints of this program, read by what they say of themselves."""

import pickle
from pathlib import Path
from typing import Any

import torch

from lightning_melanoma.tasks.classifier import MelanomaClassifier
from lightning_melanoma.tasks.finetune import FinetuneClassifier
from lightning_melanoma.tasks.scratch import ScratchClassifier

_MODELS = {model.__name__: model for model in (ScratchClassifier, FinetuneClassifier)}


def read_checkpoint(path: Path | str) -> tuple[dict[str, Any], type[MelanomaClassifier]]:
    """Return what a checkpoint holds, tensors still in the file, and the class that it is one of.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no checkpoint of this program.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"ckpt_path: expected a checkpoint, found no file {path}")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _foreign(path) from error
    model = content.get("model_class") if isinstance(content, dict) else None
    if model not in _MODELS:
        raise _foreign(path)
    return content, _MODELS[model]


def _foreign(path: Path | str) -> ValueError:
    return ValueError(
        f"ckpt_path: expected a checkpoint of lightning_melanoma, found another file: {path}"
    )


def load_classifier(path: Path | str) -> MelanomaClassifier:
    """Return the classifier of a checkpoint, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no checkpoint of this program.
    """
    _, model = read_checkpoint(path)
    classifier = model.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return classifier.eval()


def data_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the data module that a checkpoint was trained with, by name."""
    settings = checkpoint.get("datamodule_hyper_parameters", {})
    return {name: value for name, value in settings.items() if name[0] != "_"}
