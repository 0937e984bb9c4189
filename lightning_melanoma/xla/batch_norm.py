"""Batch norm on XLA with torch's numbers, and bfloat16 in and out under autocast.

torch_xla's own takes the biased variance into the running one, and has no gradient where the
statistics are frozen. Under autocast it returns float32, since its weights are: the sum behind
every residual connection and the gradient of all of it are float32 then, twice the bytes. Here it
computes in float32, statistics, weights and gradients included, and gives back what it was given.
XLA fuses the casts into the neighbours, so a layer reads and writes bfloat16.

CPU and CUDA are not touched: the kernels are registered for XLA alone. One that is made of single
operations has the compiler touch 0.6 % fewer bytes, and takes the host 15 times as long to record:
it would starve a fast chip.
"""

import functools
import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

_NARROW = (torch.bfloat16, torch.float16)
# Holds the registration, which ends with the object.
_library: list[torch.library.Library] = []


def use_lean_batch_norm() -> None:
    """Let every batch norm on XLA be this one, whatever module asks for it.

    For this process. May be called again.
    """
    if not _library:
        # torch_xla has a kernel of its own under autocast, and the last one registered counts.
        importlib.import_module("torch_xla")
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch's
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="[\\s\\S]*previously registered kernel")
            library.impl("batch_norm", _under_autocast, "AutocastXLA")  # type: ignore[no-untyped-call]  # torch's
            library.impl("batch_norm", _batch_norm, "AutogradXLA")  # type: ignore[no-untyped-call]  # torch's
        _library.append(library)


def _under_autocast(x: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401 - as below
    """``aten::batch_norm`` past autocast, which would cast the input."""
    with torch.autocast(x.device.type, enabled=False):
        return _batch_norm(x, *rest)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    _cudnn: bool,
) -> Tensor:
    """``aten::batch_norm`` of (B, C, ...) `x`, in the dtype of `x`."""
    if not training and running_mean is not None and running_var is not None:
        return _by_statistics(x, weight, bias, running_mean, running_var, eps=eps)
    count = x.numel() // x.shape[1]
    unbiased = count / max(count - 1, 1)
    # A tensor of its own, since autograd keeps the one that it sees.
    variance = None if running_var is None else running_var / unbiased
    wide = x.float() if x.dtype in _NARROW else x
    # Mixed precisions it takes, and then says that it gave another one than it did.
    y, _, _ = torch.native_batch_norm(
        wide, weight, bias, running_mean, variance, True, momentum, eps
    )
    if running_var is not None and variance is not None:
        running_var.copy_(variance * unbiased)
    return y.to(x.dtype)


def _by_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    *,
    eps: float,
) -> Tensor:
    scale = (variance + _as_tensor(eps, variance.dtype, variance.device)).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    shape = (-1, *[1] * (x.ndim - 2))
    return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


@functools.cache
def _as_tensor(eps: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as (1,), made once.

    Equal numbers of a program are one argument: a plain one would make another program of the step
    whose learning rate is the same.
    """
    return torch.tensor([eps], dtype=dtype).to(device)
