"""Confidence intervals: DeLong's of the AUROC, exact bounds, percentiles of bootstrap draws."""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.rows import FloatArray, checked, doubled_wins


def auroc_interval(
    targets: npt.ArrayLike, scores: npt.ArrayLike, *, level: float = 0.95
) -> tuple[float, float]:
    """Return a confidence interval of the AUROC by DeLong's variance, on the logit scale.

    The variance is that of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), computed from
    sorted scores as in Sun and Xu (IEEE Signal Processing Letters 21, 2014). The normal interval is
    laid around log(A / (1 - A)) and mapped back: it stays within [0, 1] and leans away from 1, as
    the AUROCs of few positives are skewed and the plain interval covers too rarely.

    Rows count as independent; several images of a patient make the true interval wider. Classes
    parted perfectly have no variance to estimate: the interval is then `unanimous_interval` of
    min(positives, negatives) disjoint pairs, all ordered alike.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.
        level: the wanted coverage, in (0, 1).

    Returns:
        `(low, high)` in [0, 1]; two NaN with fewer than 2 positives or fewer than 2 negatives.

    Raises:
        ValueError: as in `auroc`, or `level` is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a coverage between 0 and 1, found {level}")
    is_positive, values = checked(targets, scores, "scores")
    positives, negatives = np.sort(values[is_positive]), np.sort(values[~is_positive])
    fewest = min(len(positives), len(negatives))
    if fewest < 2:
        return math.nan, math.nan
    area, variance = _area_and_variance(positives, negatives)
    if area in (0.0, 1.0):
        return unanimous_interval(area, fewest, level=level)
    # The derivative of log(A / (1 - A)) is 1 / (A (1 - A)).
    margin = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    return _sigmoid(centre - margin), _sigmoid(centre + margin)


def _area_and_variance(positives: FloatArray, negatives: FloatArray) -> tuple[float, float]:
    """Return the AUROC of sorted scores, two or more of each class, and DeLong's variance of it."""
    # The share of the other class that each positive beats, and that beats each negative.
    won = doubled_wins(positives, negatives) / (2 * len(negatives))
    lost = 1 - doubled_wins(negatives, positives) / (2 * len(positives))
    variance = won.var(ddof=1) / len(won) + lost.var(ddof=1) / len(lost)
    return float(won.mean()), float(variance)


def _sigmoid(value: float) -> float:
    # By tanh, which does not overflow as exp(-value) does.
    return 0.5 + 0.5 * math.tanh(value / 2)


def unanimous_interval(
    share: float, num_trials: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Return the exact confidence interval of a share of exactly 0 or 1.

    That of Clopper and Pearson (Biometrika 26, 1934): after n trials of one outcome its chance is
    at least ((1 - level) / 2) ** (1 / n), which is about 1 - 3.7 / n at 95 %.

    Args:
        share: 0 or 1.
        num_trials: how many independent trials had the outcome, 1 or more.
        level: the wanted coverage, in (0, 1).

    Returns:
        `(low, high)` in [0, 1], one of them the share.
    """
    bound = ((1 - level) / 2) ** (1 / num_trials)
    return (bound, 1.0) if share else (0.0, 1 - bound)


def percentile_interval(draws: FloatArray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the middle `level` of bootstrap draws (Efron, 1979).

    Args:
        draws: (D,) float64; a NaN is a draw in which the metric was undefined, and left out.
        level: the wanted coverage, in (0, 1).

    Returns:
        `(low, high)`; two NaN when half of the draws or more are undefined, or when the two are the
        same but for rounding: draws without a spread tell nothing of it.
    """
    defined = draws[~np.isnan(draws)]
    if 2 * len(defined) <= len(draws):
        return math.nan, math.nan
    # Without interpolation: between a number and infinity there is nothing.
    low, high = np.quantile(
        defined, [(1 - level) / 2, (1 + level) / 2], method="closest_observation"
    )
    if math.isclose(low, high):
        return math.nan, math.nan
    return float(low), float(high)
