"""Exact metrics of a binary classifier over a whole split, in numpy.

Scores may be logits or probabilities: the ranking metrics read nothing but their order, and equal
scores are ties. Every function sees all rows at once, so nothing here is an average of batches, and
works in O(N log N) without a matrix of pairs. Sums of counts are exact integers.

What a split cannot tell (sensitivity without a positive, AUROC with one class) is NaN, never an
error: a validation split without a melanoma must not end a run.
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Curve = tuple[FloatArray, FloatArray, FloatArray]


def roc_curve(targets: npt.ArrayLike, scores: npt.ArrayLike) -> Curve:
    """Return the ROC curve, one point for each distinct score.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.

    Returns:
        `(false_positive_rate, true_positive_rate, thresholds)`, each (K + 1,) float64 for K
        distinct scores: the rates of "score >= threshold", thresholds falling from infinity, which
        calls nothing positive. A rate whose class is absent is NaN throughout.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = _checked(targets, scores, "scores")
    true_positives, called, thresholds = _cumulative_counts(is_positive, values)
    return (
        _ratio(called - true_positives, len(values) - is_positive.sum()),
        _ratio(true_positives, is_positive.sum()),
        thresholds,
    )


def precision_recall_curve(targets: npt.ArrayLike, scores: npt.ArrayLike) -> Curve:
    """Return the precision-recall curve, one point for each distinct score.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.

    Returns:
        `(precision, recall, thresholds)`: (K + 1,), (K + 1,) and (K,) float64 for K distinct
        scores, thresholds rising. The last point is precision 1 at recall 0 and has no threshold.
        Recall is NaN without a positive.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = _checked(targets, scores, "scores")
    true_positives, called, thresholds = _cumulative_counts(is_positive, values)
    precision = np.append(1.0, true_positives[1:] / called[1:])
    recall = _ratio(true_positives, is_positive.sum())
    return precision[::-1], recall[::-1], thresholds[:0:-1]


def auroc(targets: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the probability that a random positive scores above a random negative.

    Ties count one half: the Mann-Whitney statistic by mid-ranks, which is the area under the
    trapezoids of `roc_curve`.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.

    Returns:
        A number in [0, 1]; NaN when only one class is there.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = _checked(targets, scores, "scores")
    positives, negatives = np.sort(values[is_positive]), np.sort(values[~is_positive])
    if not len(positives) or not len(negatives):
        return math.nan
    wins = _doubled_wins(positives, negatives).sum()
    return float(wins / (2 * len(positives) * len(negatives)))


def auroc_interval(
    targets: npt.ArrayLike, scores: npt.ArrayLike, *, level: float = 0.95
) -> tuple[float, float]:
    """Return a confidence interval of the AUROC by DeLong's variance, on the logit scale.

    The variance is that of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), computed from
    sorted scores as in Sun and Xu (IEEE Signal Processing Letters 21, 2014). The normal interval is
    laid around log(A / (1 - A)) and mapped back: it stays within [0, 1] and leans away from 1, as
    the AUROCs of few positives are skewed and the plain interval covers too rarely.

    Rows count as independent; several images of a patient make the true interval wider. Classes
    parted perfectly have no variance to estimate: the bound is then that of
    m = min(positives, negatives) disjoint pairs, all ordered alike: ((1 - level) / 2) ** (1 / m)
    (Clopper and Pearson, Biometrika 26, 1934).

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
    is_positive, values = _checked(targets, scores, "scores")
    positives, negatives = np.sort(values[is_positive]), np.sort(values[~is_positive])
    fewest = min(len(positives), len(negatives))
    if fewest < 2:
        return math.nan, math.nan
    area, variance = _area_and_variance(positives, negatives)
    if area in (0.0, 1.0):
        bound = ((1 - level) / 2) ** (1 / fewest)
        return (bound, 1.0) if area else (0.0, 1 - bound)
    # The derivative of log(A / (1 - A)) is 1 / (A (1 - A)).
    margin = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    return _sigmoid(centre - margin), _sigmoid(centre + margin)


def average_precision(targets: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the sum over thresholds of precision times the gain in recall, without interpolation.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.

    Returns:
        A number in [0, 1], about the prevalence for a guess; NaN without a positive.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    precision, recall, _ = precision_recall_curve(targets, scores)
    if np.isnan(recall[0]):
        return math.nan
    return float(-np.sum(np.diff(recall) * precision[:-1]))


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
    is_positive, values = _checked(targets, logits, "logits")
    if not len(values):
        return math.nan
    return float(np.logaddexp(0.0, np.where(is_positive, -values, values)).mean())


def sensitivity(targets: npt.ArrayLike, decisions: npt.ArrayLike) -> float:
    """Return the share of the positives that are called positive, NaN without a positive.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        decisions: (N,) bool or {0, 1}, True where melanoma is called.

    Raises:
        ValueError: lengths differ, or a value is neither 0 nor 1.
    """
    is_positive, _ = _checked(targets, decisions, "decisions")
    return _share(_binary(decisions, "decisions")[is_positive])


def specificity(targets: npt.ArrayLike, decisions: npt.ArrayLike) -> float:
    """Return the share of the negatives that are called negative, NaN without a negative.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        decisions: (N,) bool or {0, 1}, True where melanoma is called.

    Raises:
        ValueError: lengths differ, or a value is neither 0 nor 1.
    """
    is_positive, _ = _checked(targets, decisions, "decisions")
    return _share(~_binary(decisions, "decisions")[~is_positive])


def _cumulative_counts(
    is_positive: BoolArray, values: FloatArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """Return true positives, rows called positive and threshold, from the highest score down."""
    order = np.argsort(values)[::-1]
    falling = values[order]
    # The last row of each run of equal scores: ties are called together or not at all.
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)[: len(falling)])
    true_positives = np.append(0, np.cumsum(is_positive[order], dtype=np.int64)[ends])
    return true_positives, np.append(0, ends + 1), np.append(np.inf, falling[ends])


def _area_and_variance(positives: FloatArray, negatives: FloatArray) -> tuple[float, float]:
    """Return the AUROC of sorted scores, two or more of each class, and DeLong's variance of it."""
    # The share of the other class that each positive beats, and that beats each negative.
    won = _doubled_wins(positives, negatives) / (2 * len(negatives))
    lost = 1 - _doubled_wins(negatives, positives) / (2 * len(positives))
    variance = won.var(ddof=1) / len(won) + lost.var(ddof=1) / len(lost)
    return float(won.mean()), float(variance)


def _doubled_wins(rising: FloatArray, others: FloatArray) -> npt.NDArray[np.int64]:
    """Return for each of `rising` twice the number of sorted `others` below it; a tie is one."""
    wins = np.searchsorted(others, rising, "left") + np.searchsorted(others, rising, "right")
    return wins.astype(np.int64)


def _checked(
    targets: npt.ArrayLike, values: npt.ArrayLike, name: str
) -> tuple[BoolArray, FloatArray]:
    is_positive, numbers = _binary(targets, "targets"), np.asarray(values, dtype=np.float64)
    if numbers.shape != is_positive.shape:
        raise ValueError(
            f"{name}: expected shape {is_positive.shape}, one per target, found {numbers.shape}"
        )
    if num_unusable := np.count_nonzero(~np.isfinite(numbers)):
        raise ValueError(f"{name}: expected finite numbers, found {num_unusable} NaN or infinite")
    return is_positive, numbers


def _binary(values: npt.ArrayLike, name: str) -> BoolArray:
    numbers: npt.NDArray[Any] = np.asarray(values)
    if numbers.ndim != 1:
        raise ValueError(f"{name}: expected one axis of rows, found shape {numbers.shape}")
    is_one: BoolArray = numbers == 1
    others = numbers[~is_one & (numbers != 0)]
    if len(others):
        raise ValueError(f"{name}: expected 0 or 1, found {others[0]} ({len(others)} rows in all)")
    return is_one


def _ratio(counts: npt.NDArray[np.int64], total: np.int64) -> FloatArray:
    return counts / total if total else np.full(len(counts), np.nan)


def _share(flags: BoolArray) -> float:
    return float(flags.mean()) if len(flags) else math.nan


def _sigmoid(value: float) -> float:
    # By tanh, which does not overflow as exp(-value) does.
    return 0.5 + 0.5 * math.tanh(value / 2)
