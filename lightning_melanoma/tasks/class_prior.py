"""What a model knows of its classes, and how it turns logits into probabilities with that."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_melanoma.decisions.prior import prior_shift
from lightning_melanoma.predictions import probabilities_of


class ClassPrior(nn.Module):
    """Counts and weights of benign and melanoma in the training split, kept in the checkpoint.

    Attributes:
        counts: (2,) int64, records of benign and melanoma; zeros before the first training.
        weights: (2,) float32, their weights in the loss.
    """

    counts: Tensor
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("weights", torch.ones(2))

    @property
    def is_known(self) -> bool:
        """Tell whether a training split has been counted."""
        return bool(self.counts.any())

    def set(self, counts: tuple[int, int], weights: tuple[float, float]) -> None:
        """Take counts and weights, each of (benign, melanoma)."""
        self.counts.copy_(torch.tensor(counts))
        self.weights.copy_(torch.tensor(weights))

    @property
    def shift(self) -> float:
        """What the class weights added to every logit."""
        benign, melanoma = self.weights.tolist()
        return prior_shift((benign, melanoma))

    @property
    def prevalence(self) -> float:
        """Share of melanomas in the training split."""
        benign, melanoma = self.counts.tolist()
        return float(melanoma / (benign + melanoma))

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (N,) float64, the probabilities behind logits, (N,), class weights undone."""
        return probabilities_of(logits, shift=-self.shift)
