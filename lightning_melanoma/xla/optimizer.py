"""torch's AdamW on XLA with one node of the graph a parameter.

torch's step builds about a dozen nodes a parameter, and sends its bias corrections to the device as
new scalars each time: for the 156 parameters of an Xception 64 ms of Python, more than a fast chip
needs for the whole step. torch_xla has the update as one native node, meant for loss scaling; here
it is told that nothing overflowed.

The optimizer stays torch's own class with torch's own state, so its checkpoints load everywhere.
Only the counter of steps lives on the device.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer


def use_lean_adamw(optimizer: AdamW) -> None:
    """Let an optimizer take its steps by `lean_adamw_step`.

    Whatever holds on to it goes on working: schedules, hooks, Lightning's wrapper.

    Args:
        optimizer: whose parameters are on XLA when it steps.
    """
    before: Any = optimizer.step

    def step(closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - what a loss is
        # What a schedule's own wrapper would note.
        optimizer._opt_called = True  # type: ignore[attr-defined]  # set by torch's schedules
        return _hooked_step(optimizer, closure)

    if hasattr(before, "_wrapped_by_lr_sched"):
        step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # read by torch's schedules
    optimizer.step = step  # type: ignore[method-assign]  # as torch's schedules do


@torch.no_grad()
def lean_adamw_step(optimizer: AdamW, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - what a loss is
    """Update the parameters that have a gradient (Loshchilov & Hutter 2019, algorithm 2).

    Args:
        optimizer: with parameters on XLA; its learning rates may change from step to step.
        closure: computes the gradients and returns the loss.

    Returns:
        What the closure returned, or None.

    Raises:
        ValueError: a learning rate is a tensor; the native update takes numbers.
    """
    loss = None
    if closure is not None:
        with torch.enable_grad():  # type: ignore[no-untyped-call]  # torch's
            loss = closure()
    shared: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            raise ValueError("lr: expected a number for AdamW on XLA, found a tensor")
        for parameter in group["params"]:
            if parameter.grad is not None:
                dtype = parameter.dtype
                if dtype not in shared:
                    shared[dtype] = _shared_tensors(parameter)
                _update(parameter, optimizer.state[parameter], group, shared[dtype])
    return loss


def _update(
    parameter: Tensor,
    state: dict[str, Any],
    group: dict[str, Any],
    shared: tuple[Tensor, Tensor],
) -> None:
    _XLAC = importlib.import_module("torch_xla")._XLAC
    no_overflow, nothing = shared
    if not state:
        state["step"] = torch.zeros_like(no_overflow)
        for name in ("exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * group["amsgrad"]):
            state[name] = torch.zeros_like(parameter)
    elif state["step"].device != parameter.device:
        # As torch keeps it, and loads it from a checkpoint.
        state["step"] = state["step"].to(no_overflow)
    beta1, beta2 = group["betas"]
    _XLAC._xla_adam_optimizer_step_(
        no_overflow,
        state["step"],
        parameter,
        parameter.grad,
        state["exp_avg"],
        state["exp_avg_sq"],
        state.get("max_exp_avg_sq", nothing),
        beta1,
        beta2,
        group["lr"],
        group["weight_decay"],
        group["eps"],
        group["amsgrad"],
        group["maximize"],
        True,  # weight decay apart from the gradient: AdamW, not Adam
    )


def _shared_tensors(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return what all nodes share: the flag "no overflow", and an empty tensor without AMSGrad."""
    # In the parameters' dtype: the node mixes no precisions.
    return like.new_zeros(()), like.new_empty(0)


# With the hooks before and after a step that torch and its users register.
_hooked_step = Optimizer.profile_hook_step(lean_adamw_step)
