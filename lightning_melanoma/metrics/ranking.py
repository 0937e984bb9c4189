"""Metrics of the order of the scores: curves, areas, and the best rates at a required one.

Scores may be logits or probabilities: nothing is read but their order, and equal scores are ties.
Everything is computed in O(N log N) without a matrix of pairs; sums of counts are exact integers.
"""

import math

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.rows import (
    BoolArray,
    FloatArray,
    IntArray,
    checked,
    doubled_wins,
)

# In rows: 0.9 x 10 must count as 9, whatever its rounding in float64.
COUNT_TOLERANCE = 1e-6
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
    is_positive, values = checked(targets, scores, "scores")
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
    is_positive, values = checked(targets, scores, "scores")
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
    is_positive, values = checked(targets, scores, "scores")
    positives, negatives = np.sort(values[is_positive]), np.sort(values[~is_positive])
    if not len(positives) or not len(negatives):
        return math.nan
    wins = doubled_wins(positives, negatives).sum()
    return float(wins / (2 * len(positives) * len(negatives)))


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


def partial_auc(
    targets: npt.ArrayLike, scores: npt.ArrayLike, *, min_sensitivity: float = 0.8
) -> float:
    """Return the area between the ROC curve and the line of a required sensitivity.

    At 0.8 it is the measure of the ISIC 2024 challenge ("Skin Cancer Detection with 3D-TBP",
    Kaggle): the mean specificity over the sensitivities from 0.8 to 1, times 0.2. A guess has 0.02.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.
        min_sensitivity: the line, in [0, 1).

    Returns:
        A number in [0, 1 - min_sensitivity]; NaN when only one class is there.

    Raises:
        ValueError: as in `auroc`, or `min_sensitivity` is outside [0, 1).
    """
    if not 0 <= min_sensitivity < 1:
        raise ValueError(f"min_sensitivity: expected a share in [0, 1), found {min_sensitivity}")
    false_positive_rate, true_positive_rate, _ = roc_curve(targets, scores)
    low, high = true_positive_rate[:-1], true_positive_rate[1:]
    # The part of each segment of the curve that lies above the line.
    above = np.maximum(high - np.maximum(low, min_sensitivity), 0.0)
    rise = np.where(high > low, high - low, 1.0)
    right = false_positive_rate[1:]
    left = right - np.diff(false_positive_rate) * above / rise
    return float(np.sum(above * (1 - (left + right) / 2)))


def sensitivity_at_specificity(
    targets: npt.ArrayLike, scores: npt.ArrayLike, *, specificity: float
) -> float:
    """Return the best sensitivity of a threshold with at least this specificity.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.
        specificity: the share of the negatives that must be called negative, in [0, 1].

    Returns:
        A share of the positives, without interpolation; NaN when only one class is there.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = checked(targets, scores, "scores")
    true_positives, called, _ = _cumulative_counts(is_positive, values)
    num_positives, num_rows = int(is_positive.sum()), len(values)
    if num_positives in (0, num_rows):
        return math.nan
    allowed = (1 - specificity) * (num_rows - num_positives) + COUNT_TOLERANCE
    return float(true_positives[called - true_positives <= allowed].max() / num_positives)


def specificity_at_sensitivity(
    targets: npt.ArrayLike, scores: npt.ArrayLike, *, sensitivity: float
) -> float:
    """Return the best specificity of a threshold with at least this sensitivity.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.
        sensitivity: the share of the positives that must be called positive, in [0, 1].

    Returns:
        A share of the negatives, without interpolation; NaN when only one class is there.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = checked(targets, scores, "scores")
    true_positives, called, _ = _cumulative_counts(is_positive, values)
    num_positives, num_rows = int(is_positive.sum()), len(values)
    if num_positives in (0, num_rows):
        return math.nan
    required = sensitivity * num_positives - COUNT_TOLERANCE
    false_positives = (called - true_positives)[true_positives >= required].min()
    return float(1 - false_positives / (num_rows - num_positives))


def _cumulative_counts(
    is_positive: BoolArray, values: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return true positives, rows called positive and threshold, from the highest score down."""
    order = np.argsort(values)[::-1]
    falling = values[order]
    # The last row of each run of equal scores: ties are called together or not at all.
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)[: len(falling)])
    true_positives = np.append(0, np.cumsum(is_positive[order], dtype=np.int64)[ends])
    return true_positives, np.append(0, ends + 1), np.append(np.inf, falling[ends])


def _ratio(counts: IntArray, total: np.int64) -> FloatArray:
    return counts / total if total else np.full(len(counts), np.nan)
