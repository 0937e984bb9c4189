"""Averages of the weights by Lightning's callbacks, kept up without waiting for the devices."""

from typing import Any

import pytorch_lightning as pl
from torch.optim.swa_utils import AveragedModel

from lightning_melanoma.xla.sharding import make_whole


def use_lean_averages(trainer: pl.Trainer, mesh: Any) -> None:  # noqa: ANN401 - torch_xla has no types
    """Have the `WeightAveraging` callbacks of a trainer read nothing from the devices in a step.

    torch keeps the count of updates beside the averages and looks at it twice in each of them,
    which would end the program of a step before its time and wait for it. On the host it costs
    nothing.

    Args:
        trainer: whose callbacks have been set up.
        mesh: of all devices.
    """
    # Lightning has no other way to the model that a callback keeps; most callbacks keep none.
    for average in (getattr(callback, "_average_model", None) for callback in trainer.callbacks):  # type: ignore[attr-defined]  # it has
        if isinstance(average, AveragedModel):
            average.n_averaged = average.n_averaged.cpu()
            make_whole([*average.module.parameters(), *average.module.buffers()], mesh)
