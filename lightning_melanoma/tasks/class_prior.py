"""What a model knows of its classes, and how it turns logits into probabilities with that."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_melanoma.decisions.prior import prior_shift, sampling_shift
from lightning_melanoma.predictions import probabilities_of


class ClassPrior(nn.Module):
    """Counts and weights of benign and melanoma in the training split, kept in the checkpoint.

    Attributes:
        counts: (2,) int64, records of benign and melanoma; zeros before the first training.
        shown: (2,) int64, images of each in an epoch: more where melanomas are repeated.
        weights: (2,) float32, their weights in the loss.
    """

    counts: Tensor
    shown: Tensor
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("shown", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("weights", torch.ones(2))

    @property
    def is_known(self) -> bool:
        """Tell whether a training split has been counted."""
        return bool(self.counts.any())

    def set(
        self, counts: tuple[int, int], weights: tuple[float, float], *, shown: tuple[int, int]
    ) -> None:
        """Take counts, weights and what an epoch shows, each of (benign, melanoma)."""
        self.counts.copy_(torch.tensor(counts))
        self.shown.copy_(torch.tensor(shown))
        self.weights.copy_(torch.tensor(weights))

    @property
    def shift(self) -> float:
        """What class weights and repeated melanomas added to every logit."""
        return self.weights_shift + sampling_shift(_pair(self.shown), _pair(self.counts))

    @property
    def weights_shift(self) -> float:
        """What the class weights added to every logit."""
        benign, melanoma = self.weights.tolist()
        return prior_shift((benign, melanoma))

    @property
    def prevalence(self) -> float:
        """Share of melanomas in the training split."""
        benign, melanoma = _pair(self.counts)
        return melanoma / (benign + melanoma)

    @property
    def shown_prevalence(self) -> float:
        """Share of melanomas in what an epoch shows."""
        benign, melanoma = _pair(self.shown)
        return melanoma / (benign + melanoma)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (N,) float64, the probabilities behind logits, (N,), all shift undone."""
        return probabilities_of(logits, logits.astype(np.float64) - self.shift)


def _pair(counts: Tensor) -> tuple[int, int]:
    benign, melanoma = counts.tolist()
    return benign, melanoma
