"""The exact place of a training in its checkpoint: what Lightning's loops alone do not keep.

These things are mended here, in Lightning 2.6. A batch counts as handed over although its step
failed. An epoch that `limit_train_batches` ended is taken for one under way. A training that ended
within a validation goes on behind it. Gradients that are being accumulated are lost. And the
loaders' state is not restored once `Trainer.estimated_stepping_batches` has been asked for, nor at
the end of an epoch.
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.draws import run_seed
from lightning_melanoma.data.loader import MelanomaLoader

#: Where a checkpoint keeps gradients that are being accumulated, (parameter's shape) by its name.
GRADIENTS = "accumulated_gradients"
_NONE = {"ready": 0, "started": 0, "processed": 0, "completed": 0}


def keep_place(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Correct the place that a checkpoint is about to keep.

    Args:
        trainer: whose training it is.
        checkpoint: with the state of Lightning's loops, which is changed.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches = loops["epoch_loop.batch_progress"]["current"]
    num_untaken = batches["ready"] - batches["processed"]
    is_over = batches["processed"] >= trainer.num_training_batches

    def corrected(state: dict[str, Any]) -> dict[str, Any]:
        # A batch whose step was not taken comes again, those that the limit left out never come.
        whole = -(-state["num_records"] // state["batch_size"])
        return {**state, "delivered": whole if is_over else state["delivered"] - num_untaken}

    # What a loader gave is left as it is: it may be the loader's own.
    loops["state_dict"]["combined_loader"] = [
        corrected(state) if _is_ours(state) else state for state in _loader_states(checkpoint)
    ]
    is_amid = batches["processed"] % trainer.accumulate_grad_batches and not is_over
    # Those of several processes differ, and those of a step that failed may have a part of it.
    if is_amid and trainer.world_size == 1 and batches["started"] == batches["processed"]:
        parameters = trainer.lightning_module.named_parameters()
        gradients = {name: each.grad.cpu() for name, each in parameters if each.grad is not None}
        checkpoint[GRADIENTS] = gradients
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
    # Else no training data is wanted, nor may be there.
    if trainer.state.fn == TrainerFn.FITTING and (loader := _loader_of(trainer)) is not None:
        for state in filter(_is_ours, _loader_states(checkpoint)):
            loader.load_state_dict(state)


def seed_of(trainer: pl.Trainer) -> int:
    """Return the seed of a training: of one that goes on, that of the run that was stopped."""
    loader = _loader_of(trainer)
    return run_seed() if loader is None else loader.source.seed


def _loader_of(trainer: pl.Trainer) -> MelanomaLoader | None:
    # Lightning's annotation leaves out that there may be none.
    data: object = trainer.datamodule  # type: ignore[attr-defined]
    return data.loader("train") if isinstance(data, MelanomaDataModule) else None


def _loader_states(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    states: list[dict[str, Any]]
    states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    return states


def _is_ours(state: dict[str, Any]) -> bool:
    return "delivered" in state
