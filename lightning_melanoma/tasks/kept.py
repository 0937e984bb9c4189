"""What a checkpoint keeps of a classifier beside its weights: curves, class, calibration, place."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_melanoma.decisions.calibrated import CHECKPOINT_KEY, Calibration
from lightning_melanoma.tasks.place import keep_place, take_place

if TYPE_CHECKING:
    from lightning_melanoma.tasks.judged import JudgedModule


def keep_entries(task: "JudgedModule", checkpoint: dict[str, Any]) -> None:
    """Add to a checkpoint the curves, the class that it is of, and the place of its training.

    Args:
        task: that it is of.
        checkpoint: Lightning's, which is changed.
    """
    # Averages of weights are of whole numbers as well, and may lose one.
    checkpoint["state_dict"].update(task.prior.state_dict(prefix="prior."))
    checkpoint["epochs"] = task.epochs.state_dict()
    checkpoint["model_class"] = type(task).__name__
    if task._trainer is not None and "loops" in checkpoint:
        keep_place(task.trainer, checkpoint)


def take_entries(task: "JudgedModule", checkpoint: dict[str, Any]) -> None:
    """Take the curves, the calibration and the place of a training from a checkpoint.

    Args:
        task: that is changed.
        checkpoint: Lightning's, ahead of the weights being loaded; it may be changed.

    Raises:
        ValueError: the checkpoint is one of another model, or of one with other settings, or its
            place is one in other data.
    """
    found = checkpoint.get("model_class", "another program's model")
    if found != type(task).__name__:
        raise ValueError(
            f"checkpoint: expected one of {type(task).__name__}, found {found}; "
            "give the --model that it was trained as, or none"
        )
    _check_weights(task, checkpoint)
    entry = checkpoint.get(CHECKPOINT_KEY)
    task.calibration = None if entry is None else Calibration.from_dict(entry)
    task.epochs.load_state_dict(checkpoint["epochs"], rank=task.global_rank)
    if task._trainer is None:
        return
    if task.trainer.state.fn != TrainerFn.FITTING:
        # Where averages were kept, `state_dict` has them. Lightning's callback, if it is still
        # there from a training, would load the weights that they are the averages of instead.
        checkpoint["current_model_state"] = checkpoint["state_dict"]
    elif (began_with := checkpoint["hyper_parameters"]["optimizer"]) != task.hparams["optimizer"]:
        raise ValueError(
            f"checkpoint: expected model.optimizer {began_with}, whose state it holds, found "
            f"{task.hparams['optimizer']}; give that of the run that is to go on"
        )
    if "loops" in checkpoint:
        take_place(task.trainer, checkpoint)


def _check_weights(task: "JudgedModule", checkpoint: dict[str, Any]) -> None:
    # torch's own message names every weight.
    own, found = _shapes(task.state_dict()), _shapes(checkpoint["state_dict"])
    differing = [name for name in {**own, **found} if own.get(name) != found.get(name)]
    if not differing:
        return
    name, given, of_run = differing[0], task.hparams, checkpoint["hyper_parameters"]
    # Not Lightning's own notes; nor the first weights, of which a checkpoint does not know where
    # they came from.
    settings = [
        f"{setting} {of_run[setting]}" if setting in of_run else f"no {setting}"
        for setting in {**of_run, **given}
        if setting != "weights" and not setting.startswith("_")
        if setting not in of_run or given.get(setting) != of_run[setting]
    ]
    rest = f" and {len(differing) - 1} more that differ" if len(differing) > 1 else ""
    raise ValueError(
        f"checkpoint: expected {name} of shape {own.get(name, 'none')}, found "
        f"{found.get(name, 'none')}{rest}; give the model settings of the run that it is of: "
        f"{', '.join(settings)}"
    )


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}
