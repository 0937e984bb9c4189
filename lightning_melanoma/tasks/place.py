"""The exact place of a training in its checkpoint: what Lightning's loops alone do not keep.

Three things are mended here, in Lightning 2.6. A batch counts as handed over although its step
failed. A training that ended within a validation goes on behind it. And the loaders' state is not
restored once `Trainer.estimated_stepping_batches` has been asked for, nor at the end of an epoch.
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from lightning_melanoma.data.datamodule import MelanomaDataModule

_NONE = {"ready": 0, "started": 0, "processed": 0, "completed": 0}


def keep_place(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Correct the place that a checkpoint is about to keep.

    Args:
        trainer: whose training it is.
        checkpoint: with the state of Lightning's loops, which is changed.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches = loops["epoch_loop.batch_progress"]["current"]
    for place in _places(checkpoint):
        # A batch whose step was not taken comes again.
        place["delivered"] -= batches["ready"] - batches["processed"]
    if trainer.validating:
        # Lightning's own sign of a validation that broke off: it is then run anew.
        loops["epoch_loop.val_loop.batch_progress"] = {
            "total": {**_NONE, "ready": 1, "started": 1},
            "current": dict(_NONE),
            "is_last_batch": False,
        }


def take_place(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Take the training loader to the place that a checkpoint kept, when a training goes on.

    Args:
        trainer: that has been given the checkpoint.
        checkpoint: whole.

    Raises:
        ValueError: the place is one in other data, or in batches of another size.
    """
    # Lightning's annotation leaves out that there may be none.
    data: object = trainer.datamodule  # type: ignore[attr-defined]
    if trainer.state.fn == TrainerFn.FITTING and isinstance(data, MelanomaDataModule):
        for place in _places(checkpoint):
            data.loader("train").load_state_dict(place)


def _places(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    return [place for place in loaders if "delivered" in place]
