"""Optimizers and learning-rate schedules, from plain arguments."""

import math
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

#: The schedules by name.
Schedule = Literal["cosine", "constant", "step"]

# `step`: the factor, and the share of the training after which it applies each time.
_STEP_FACTOR, _STEP_SHARE = 0.1, 1 / 3


def decayed_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return every parameter once: weights with decay, biases and norms (one axis) without."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay, "name": "weights"},
        {"params": others, "weight_decay": 0.0, "name": "biases and norms"},
    ]


def check_optimizer_settings(
    *, learning_rate: float, weight_decay: float, warmup_epochs: float
) -> None:
    """Check the settings of the optimizer before anything is built.

    Raises:
        ValueError: one is out of its range.
    """
    settings = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup_epochs": warmup_epochs,
    }
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"model.{name}: expected 0 or more, found {value}")


def training_steps(trainer: pl.Trainer) -> tuple[float, float]:
    """Return the optimizer steps of a whole training, infinite without an end, and of one epoch."""
    num_steps = trainer.estimated_stepping_batches
    if math.isfinite(num_steps) and math.isinf(trainer.num_training_batches):
        # Of a training that is counted in steps Lightning has not asked for the loader yet.
        trainer.fit_loop.setup_data()
    return num_steps, trainer.num_training_batches / trainer.accumulate_grad_batches


def scheduled_optimizer(
    groups: list[dict[str, Any]],
    *,
    optimizer: Literal["adamw", "sgd"],
    learning_rate: float,
    schedule: Schedule,
    warmup_epochs: float,
    num_steps: float,
    steps_per_epoch: float,
) -> OptimizerLRSchedulerConfig:
    """Return an optimizer, and the schedule that takes every group's rate times `rate_factor`.

    Args:
        groups: of parameters, for torch's optimizers.
        optimizer: AdamW (Loshchilov & Hutter 2019), or SGD with Nesterov momentum 0.9.
        learning_rate: of the groups that have none of their own, behind the warm-up.
        schedule: of the rates, a factor a step.
        warmup_epochs: of the linear rise; may be a fraction.
        num_steps: optimizer steps of the whole training.
        steps_per_epoch: optimizer steps of one epoch; a part of one is one more.

    Raises:
        ValueError: the training has no end that the schedule could be laid over.
    """
    if math.isinf(num_steps):
        raise ValueError(
            "trainer.max_epochs: expected a number for the schedule to end at, found -1; "
            "give --trainer.max_epochs or --trainer.max_steps"
        )
    chosen: torch.optim.Optimizer
    if optimizer == "adamw":
        chosen = torch.optim.AdamW(groups, lr=learning_rate)
    else:
        chosen = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    warmup = round(warmup_epochs * math.ceil(steps_per_epoch))
    factor = partial(rate_factor, total=int(num_steps), warmup=warmup, schedule=schedule)
    return {
        "optimizer": chosen,
        "lr_scheduler": {"scheduler": LambdaLR(chosen, factor), "interval": "step"},
    }


def rate_factor(step: int, *, total: int, warmup: int, schedule: Schedule) -> float:
    """Return the factor on the base learning rate at one optimizer step.

    Args:
        step: optimizer steps taken, from 0.
        total: optimizer steps of the whole training.
        warmup: steps of the linear rise from 1 / warmup to 1.
        schedule: behind the warm-up: `cosine` falls to 0 at `total` (Loshchilov & Hutter 2017,
            equation 5, one cycle), `constant` stays, `step` is divided by 10 after each third.

    Returns:
        In [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if schedule == "step":
        return float(_STEP_FACTOR ** int(progress / _STEP_SHARE))
    return 1.0
