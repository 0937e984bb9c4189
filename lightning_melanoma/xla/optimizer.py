"""torch's AdamW on XLA with one node of the graph a parameter.

torch's step builds about a dozen nodes a parameter, and sends its bias corrections to the device as
new scalars each time: for the 156 parameters of an Xception 64 ms of Python, more than a fast chip
needs for the whole step. torch_xla has the update as one native node, meant for loss scaling; here
it is told that nothing overflowed.

The optimizer stays torch's own class with torch's own state, so its checkpoints load everywhere.
Only the counter of steps lives on the device.

The state is made ahead of the first step, which then is the same program as all others.
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

# Added to the norm that gradients are divided by, as torch does.
_NORM_EPS = 1e-6


def use_lean_adamw(optimizer: AdamW) -> None:
    """Let an optimizer take its steps by `lean_adamw_step`.

    Whatever holds on to it goes on working: schedules, hooks, Lightning's wrapper.

    Args:
        optimizer: whose parameters are on XLA when it steps.
    """
    make_state(optimizer)
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


def make_state(optimizer: Optimizer) -> None:
    """Give the parameters of AdamW, or of SGD with momentum, the zeros that their first step makes.

    Also those that are frozen still: letting them go then costs one program, not two. Nothing is
    recorded: the zeros are sent.

    Args:
        optimizer: another kind is left alone.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            names: list[str] = []
            if isinstance(optimizer, AdamW):
                names = ["exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * group["amsgrad"]]
                optimizer.state[parameter].setdefault("step", _zeros((), like=parameter))
            elif isinstance(optimizer, SGD) and group["momentum"] and not group["dampening"]:
                names = ["momentum_buffer"]
            for name in names:
                zeros = _zeros(parameter.shape, like=parameter)
                optimizer.state[parameter].setdefault(name, zeros)


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale gradients so that their norm is no larger than a limit, as `clip_grad_norm_` does.

    torch's scales them in place, five times the host's work on XLA.

    Args:
        parameters: those without a gradient are left out.
        max_norm: of all gradients together, in the 2-norm.

    Returns:
        () float32, the norm before.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    if not trained:
        return torch.zeros(())
    with torch.no_grad():
        norms = [torch.linalg.vector_norm(parameter.grad) for parameter in trained]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        factor = (max_norm / (norm + _NORM_EPS)).clamp(max=1.0)
        for parameter in trained:
            assert parameter.grad is not None
            parameter.grad = parameter.grad * factor
    return norm


def _update(
    parameter: Tensor,
    state: dict[str, Any],
    group: dict[str, Any],
    shared: tuple[Tensor, Tensor],
) -> None:
    _XLAC = importlib.import_module("torch_xla")._XLAC
    no_overflow, nothing = shared
    if not state:
        # It was frozen when the checkpoint was written.
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


def _zeros(shape: Sequence[int], *, like: Tensor) -> Tensor:
    return torch.zeros(shape, dtype=like.dtype).to(like.device)


def _shared_tensors(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return what all nodes share: the flag "no overflow", and an empty tensor without AMSGrad."""
    # In the parameters' dtype: the node mixes no precisions.
    return like.new_zeros(()), like.new_empty(0)


# With the hooks before and after a step that torch and its users register.
_hooked_step = Optimizer.profile_hook_step(lean_adamw_step)
