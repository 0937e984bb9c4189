"""Metrics of the probabilities themselves: do they mean what they say?

Log loss and Brier score judge order and calibration together; the calibration error and the
calibration line judge calibration alone.
"""

import math

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.logistic import logistic_line
from lightning_melanoma.metrics.rows import FloatArray, IntArray, checked

# Guo et al., "On calibration of modern neural networks", ICML 2017, have as many.
NUM_BINS = 15
# Where scikit-learn's log_loss cuts probabilities off: the spacing of float64 at 1.
MIN_PROBABILITY = float(np.finfo(np.float64).eps)


def log_odds(probabilities: npt.ArrayLike) -> FloatArray:
    """Return log(p / (1 - p)), at most 36.04 on either side.

    A probability within 2.2e-16 of 0 or 1 counts as that far from it: a table may say 1, and one
    benign image with infinite odds would make every mean infinite.

    Args:
        probabilities: (N,) in [0, 1].

    Returns:
        (N,) float64, rising with the probability.
    """
    kept = np.clip(
        np.asarray(probabilities, dtype=np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY
    )
    odds: FloatArray = np.log(kept) - np.log1p(-kept)
    return odds


def log_loss(targets: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood of the targets, unweighted.

    log(1 + exp(x)) is taken from the logits in float64, so it neither overflows nor saturates, as a
    loss of probabilities does from a logit of 37 on.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        logits: (N,) finite log-odds of melanoma.

    Returns:
        The mean in nats, 0 or more; NaN without a row.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a logit is not finite.
    """
    is_positive, values = checked(targets, logits, "logits")
    if not len(values):
        return math.nan
    return float(np.logaddexp(0.0, np.where(is_positive, -values, values)).mean())


def brier_score(targets: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean squared difference of probability and target.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        probabilities: (N,) in [0, 1].

    Returns:
        A number in [0, 1]; NaN without a row.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a probability is not finite.
    """
    is_positive, values = checked(targets, probabilities, "probabilities")
    return float(((values - is_positive) ** 2).mean()) if len(values) else math.nan


def equal_count_bins(values: npt.ArrayLike, num_bins: int = NUM_BINS) -> IntArray:
    """Return the bin of each value: bins of equal count, equal values together.

    A value's bin is that of the middle of its run in the sorted order, so bins of tied values are
    as equal in count as ties allow, and some may be empty.

    Args:
        values: (N,) finite.
        num_bins: how many bins, 1 or more.

    Returns:
        (N,) int64 in [0, num_bins), rising with the value.
    """
    _, runs, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Twice the number of rows below the middle of each run: an integer, so no bin is rounded off.
    doubled = 2 * np.cumsum(counts) - counts
    return (doubled * num_bins // (2 * max(len(runs), 1))).astype(np.int64)[runs]


def calibration_error(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, *, num_bins: int = NUM_BINS
) -> float:
    """Return the expected calibration error over bins of equal count.

    The mean over rows of |mean probability - share of positives| of the row's bin. At a low
    prevalence, bins of equal width would hold nearly all rows in the first (Nixon et al.,
    "Measuring calibration in deep learning", CVPR workshops 2019, call the bins adaptive).

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        probabilities: (N,) in [0, 1].
        num_bins: how many bins.

    Returns:
        A number in [0, 1], above 0 by chance alone; NaN without a row.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a probability is not finite.
    """
    is_positive, values = checked(targets, probabilities, "probabilities")
    if not len(values):
        return math.nan
    excess = np.bincount(equal_count_bins(values, num_bins), values - is_positive)
    return float(np.abs(excess).sum() / len(values))


def calibration_line(targets: npt.ArrayLike, logits: npt.ArrayLike) -> tuple[float, float]:
    """Return intercept and slope of the logistic regression of target on logit.

    Calibrated logits have 0 and 1; a slope below 1 says that they are too extreme (Cox, Biometrika
    45, 1958).

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        logits: (N,) finite log-odds of melanoma.

    Returns:
        `(intercept, slope)`; two NaN when the classes are parted perfectly, only one is there, or
        all logits are equal: there is no best line then.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a logit is not finite.
    """
    is_positive, values = checked(targets, logits, "logits")
    return logistic_line(is_positive, values)
