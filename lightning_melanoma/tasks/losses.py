"""Weighted binary cross-entropy, and what the classes' counts say about weights and bias.

With n0 benign and n1 melanoma records, N = n0 + n1: balanced weights are N / (2 n0) and N / (2 n1),
and the bias of the output layer log(n1 / n0), so that an untrained model predicts the prevalence
(tensorflow.org, "Classification on imbalanced data"). On SIIM-ISIC 2020's 584 of 33,126: 0.50897,
28.361 and -4.0204.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

#: What `class_weights` may be: a rule, or the weights of (benign, melanoma).
ClassWeights = Literal["balanced", "none"] | list[float]
#: What `output_bias` may be: a rule, or the bias itself.
OutputBias = Literal["prior", "balanced"] | float


def class_weights(counts: tuple[int, int], rule: str | Sequence[float]) -> tuple[float, float]:
    """Return the weights of (benign, melanoma).

    Args:
        counts: training records of (benign, melanoma), both above 0.
        rule: `balanced` for N / 2n each, `none` for 1 and 1, or the two weights.

    Raises:
        ValueError: not two positive weights.
    """
    if rule == "balanced":
        total = sum(counts)
        return total / (2 * counts[0]), total / (2 * counts[1])
    if rule == "none":
        return 1.0, 1.0
    if isinstance(rule, str) or len(rule) != 2 or not all(0 < w < math.inf for w in rule):
        raise ValueError(
            f"model.class_weights: expected `balanced`, `none` or two positive numbers (benign, "
            f"melanoma), found {rule}"
        )
    return rule[0], rule[1]


def output_bias(
    counts: tuple[int, int], weights: tuple[float, float], *, rule: OutputBias
) -> float:
    """Return the bias that the output layer starts with.

    Args:
        counts: training records of (benign, melanoma).
        weights: of (benign, melanoma).
        rule: `prior` for log(n1 / n0), at which the mean prediction is the prevalence; `balanced`
            for log(w1 n1 / w0 n0), which minimises the weighted loss of a constant; or the bias.
    """
    benign, melanoma = counts
    if rule == "prior":
        return math.log(melanoma / benign)
    if rule == "balanced":
        return math.log(weights[1] * melanoma / (weights[0] * benign))
    return float(rule)


def weighted_bce(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Return the loss of each row.

    Args:
        logits: (B,) float32.
        targets: (B,) float32 in [0, 1]; between 0 and 1 where images were mixed.
        weights: (2,) float32, of (benign, melanoma); a mixed row takes the mean of both by its
            target.
        label_smoothing: in [0, 1): targets move this share of the way to 1/2 (Szegedy et al. 2016).
        focal_gamma: 0 or more: rows weigh |target - probability| ** gamma (Lin et al. 2017,
            equation 4, with a hard target; Li et al. 2020, equation 5, with a soft one).

    Returns:
        (B,) float32, weight times cross-entropy.
    """
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    loss = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    if focal_gamma:
        # Kept off 0, where a power below 1 has no finite gradient.
        distance = (smooth - torch.sigmoid(logits)).abs().clamp_min(1e-6)
        loss = loss * distance**focal_gamma
    return loss * (weights[0] + (weights[1] - weights[0]) * targets)


def masked_mean(values: Tensor, valid: Tensor, *, num_valid: Tensor | None = None) -> Tensor:
    """Return the mean of the valid rows, sum(valid x value) / sum(valid); 0 when none is valid.

    Args:
        values: (B,) float.
        valid: (B,) bool.
        num_valid: () to divide by instead of the valid rows here.
    """
    mask = valid.to(values.dtype)
    return (values * mask).sum() / (mask.sum() if num_valid is None else num_valid).clamp_min(1)


def check_loss_settings(label_smoothing: float, focal_gamma: float, weights: ClassWeights) -> None:
    """Check the settings of the loss before anything is built.

    Raises:
        ValueError: one is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"model.label_smoothing: expected [0, 1), found {label_smoothing}")
    if not 0 <= focal_gamma < math.inf:
        raise ValueError(f"model.focal_gamma: expected 0 or more, found {focal_gamma}")
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        class_weights((1, 1), list(weights))
