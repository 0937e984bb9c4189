"""The two precisions that make sense on PJRT: float32, and bfloat16 by autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from pytorch_lightning.plugins.precision import Precision
from torch.optim import Optimizer
from typing_extensions import override

from lightning_melanoma.xla.optimizer import clip_gradients

# Why the others are refused, and what to take.
_REFUSED = {
    "bf16-true": "updates smaller than 1/256 of a weight would be lost; give bf16-mixed, which "
    "computes in bfloat16 and keeps parameters, optimizer and statistics in float32",
    "16-true": "float16 overflows at 65,504 and TPUs have no unit for it; give bf16-mixed",
    "16-mixed": "float16 needs a loss scale, which reads the device in each step; give bf16-mixed",
    "64-true": "TPUs have no unit for float64; give 32-true",
}


class XLAPrecision(Precision):
    """float32 throughout, or bfloat16 by autocast with float32 parameters, state and statistics.

    Args:
        precision: `32-true` or `bf16-mixed`.

    Raises:
        ValueError: another one; the message says why not, and what instead.
    """

    precision: Literal["32-true", "bf16-mixed"]

    def __init__(self, precision: str = "32-true") -> None:
        if precision not in ("32-true", "bf16-mixed"):
            reason = _REFUSED.get(precision, "it is not one of XLA's; give bf16-mixed or 32-true")
            raise ValueError(
                f"trainer.precision: expected 32-true or bf16-mixed on XLA, found {precision}: "
                f"{reason}"
            )
        self.precision = precision  # type: ignore[assignment]  # one of the two

    @property
    def description(self) -> str:
        """Which dtypes are in use, in words."""
        if self.precision == "bf16-mixed":
            return "bfloat16 by autocast, float32 parameters, optimizer state and statistics"
        return "float32"

    @override
    def forward_context(self) -> AbstractContextManager[Any]:
        """Return the context of a step: autocast to bfloat16, or none."""
        if self.precision == "bf16-mixed":
            return torch.autocast("xla", dtype=torch.bfloat16)
        return nullcontext()

    @override
    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: int | float) -> None:
        """Scale gradients so that their norm is no larger than a limit."""
        clip_gradients(self.main_params(optimizer), clip_val)
