"""Averages of the weights by Lightning's callbacks, kept up at little cost for host and devices."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lightning_melanoma.xla.sharding import make_whole

# Holds the registration, which ends with the object.
_library: list[torch.library.Library] = []


def use_lean_averages(trainer: pl.Trainer, mesh: Any) -> None:  # noqa: ANN401 - torch_xla has no types
    """Have the `WeightAveraging` callbacks of a trainer read nothing from the devices in a step.

    torch keeps the count of updates beside the averages and looks at it twice in each of them,
    which would end the program of a step before its time and wait for it. On the host it costs
    nothing. May be called again.

    Args:
        trainer: whose callbacks have been set up.
        mesh: of all devices.
    """
    use_lean_lerp()
    # Lightning has no other way to the model that a callback keeps; most callbacks keep none.
    for average in (getattr(callback, "_average_model", None) for callback in trainer.callbacks):  # type: ignore[attr-defined]  # it has
        if isinstance(average, AveragedModel):
            average.n_averaged = average.n_averaged.cpu()
            make_whole([*average.module.parameters(), *average.module.buffers()], mesh)


def use_lean_lerp() -> None:
    """Let the exponential average of many tensors on XLA be recorded in a sixth of the time.

    torch's in-place form goes through functionalization tensor by tensor: 17 ms of the host for the
    236 of Xception. For this process. May be called again.
    """
    if not _library:
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch's
        library.impl("_foreach_lerp_.Scalar", _lerp_all, "AutogradXLA")  # type: ignore[no-untyped-call]  # torch's
        _library.append(library)


def _lerp_all(averages: Sequence[Tensor], values: Sequence[Tensor], weight: float) -> None:
    for average, value in zip(averages, values, strict=True):
        average.copy_(torch.lerp(average, value, weight))
