"""Batch norm under XLA's autocast that takes and returns bfloat16.

There, torch's own returns float32, since its weights are: the sum behind every residual connection
and the gradient of all of it are float32 then, twice the bytes. Here only what lies inside is
float32: statistics, weights and the sums of the backward pass. XLA fuses the casts into the
neighbours, so a layer reads and writes bfloat16.

Formulas: Ioffe & Szegedy 2015, algorithm 1, and its gradient in the form with two reductions.
CPU and CUDA are not touched: the kernel is registered for XLA's autocast alone.
"""

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

# The dispatch key that an op has when its tensors are XLA's and autocast is on.
_KEY = "AutocastXLA"
# Holds the registration, which ends with the object.
_library: list[torch.library.Library] = []


def use_lean_batch_norm() -> None:
    """Let every batch norm under ``torch.autocast("xla")`` return the dtype of its input.

    For this process, whatever module asks for the norm. May be called again.
    """
    if not _library:
        # torch_xla has a kernel of its own for this, and the last one registered counts.
        importlib.import_module("torch_xla")
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch's
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="[\\s\\S]*previously registered kernel")
            library.impl("batch_norm", _under_autocast, _KEY)  # type: ignore[no-untyped-call]  # torch's
        _library.append(library)


def lean_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return batch-normalised activations in their own dtype.

    Args:
        x: (B, C, ...) of any floating dtype.
        weight: (C,) float32, or None for ones.
        bias: (C,) float32, or None for zeros.
        running_mean: (C,) float32, updated in place in training; None keeps none.
        running_var: (C,) float32, likewise; takes the unbiased variance, as torch's does.
        training: normalise by the batch's statistics; else by the running ones.
        momentum: share of the batch's statistics in the new running ones.
        eps: added to the variance.

    Returns:
        (B, C, ...), dtype of `x`.
    """
    channels = x.shape[1]
    weight = x.new_ones(channels, dtype=torch.float32) if weight is None else weight
    bias = x.new_zeros(channels, dtype=torch.float32) if bias is None else bias
    if not training:
        assert running_mean is not None
        assert running_var is not None
        scale = weight * (running_var + eps).rsqrt()
        shift = bias - running_mean * scale
        return (x.float() * _column(scale, x) + _column(shift, x)).to(x.dtype)
    y, mean, var = _BatchNorm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]  # torch's
    if running_mean is not None and running_var is not None:
        count = x.numel() // channels
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / max(count - 1, 1)), momentum)
    out: Tensor = y
    return out


class _BatchNorm(torch.autograd.Function):
    """Normalises by the batch's statistics, which it returns beside the result."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        axes = _reduced(x)
        wide = x.float()
        mean = wide.mean(axes)
        # One pass over x for both sums. Rounding can carry the difference below 0.
        var = (wide.square().mean(axes) - mean.square()).clamp_min(0)
        inverse = (var + eps).rsqrt()
        scale = weight * inverse
        y = (wide - _column(mean, x)) * _column(scale, x) + _column(bias, x)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, var)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch's own
        grad: Tensor,
        *_: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            axes = _reduced(x)
            wide = grad.float()
            normal = (x.float() - _column(mean, x)) * _column(inverse, x)
            grad_bias = wide.sum(axes)
            grad_weight = (wide * normal).sum(axes)
            count = x.numel() // x.shape[1]
            rest = _column(grad_bias / count, x) + normal * _column(grad_weight / count, x)
            grad_x = (wide - rest) * _column(weight * inverse, x)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _under_autocast(
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
    """``aten::batch_norm``, where autocast would let the weights make float32 of it."""
    with torch.autocast(x.device.type, enabled=False):
        return lean_batch_norm(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
        )


def _reduced(x: Tensor) -> list[int]:
    """Return all axes but that of the channels."""
    return [axis for axis in range(x.ndim) if axis != 1]


def _column(values: Tensor, x: Tensor) -> Tensor:
    """Return (C,) values in a shape that broadcasts against (B, C, ...)."""
    return values.view(-1, *[1] * (x.ndim - 2))
