"""Metrics of decisions: what happens when melanoma is called from a threshold on."""

import math

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.rows import binary, checked, share


def sensitivity(targets: npt.ArrayLike, decisions: npt.ArrayLike) -> float:
    """Return the share of the positives that are called positive, NaN without a positive.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        decisions: (N,) bool or {0, 1}, True where melanoma is called.

    Raises:
        ValueError: lengths differ, or a value is neither 0 nor 1.
    """
    is_positive, _ = checked(targets, decisions, "decisions")
    return share(binary(decisions, "decisions")[is_positive])


def specificity(targets: npt.ArrayLike, decisions: npt.ArrayLike) -> float:
    """Return the share of the negatives that are called negative, NaN without a negative.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        decisions: (N,) bool or {0, 1}, True where melanoma is called.

    Raises:
        ValueError: lengths differ, or a value is neither 0 nor 1.
    """
    is_positive, _ = checked(targets, decisions, "decisions")
    return share(~binary(decisions, "decisions")[~is_positive])


def number_needed_to_excise(targets: npt.ArrayLike, decisions: npt.ArrayLike) -> float:
    """Return how many lesions are called for each melanoma among them: 1 / PPV.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        decisions: (N,) bool or {0, 1}, True where melanoma is called.

    Returns:
        1 or more; infinite when no melanoma is called, NaN when nothing is.

    Raises:
        ValueError: lengths differ, or a value is neither 0 nor 1.
    """
    is_positive, _ = checked(targets, decisions, "decisions")
    is_called = binary(decisions, "decisions")
    found = int(np.count_nonzero(is_positive & is_called))
    num_called = int(np.count_nonzero(is_called))
    if not found:
        return math.inf if num_called else math.nan
    return num_called / found


def net_benefit(targets: npt.ArrayLike, decisions: npt.ArrayLike, *, threshold: float) -> float:
    """Return the net benefit of decisions, in melanomas found a lesion: TP / N - odds x FP / N.

    The odds of the threshold probability say how many needless excisions a melanoma that is found
    is worth (Vickers and Elkin, Medical Decision Making 26, 2006).

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        decisions: (N,) bool or {0, 1}, True where melanoma is called.
        threshold: the probability from which on one would excise, in [0, 1).

    Returns:
        At most the prevalence; 0 is that of calling nothing; NaN without a row.

    Raises:
        ValueError: lengths differ, a value is neither 0 nor 1, or `threshold` is outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a probability in [0, 1), found {threshold}")
    is_positive, _ = checked(targets, decisions, "decisions")
    is_called = binary(decisions, "decisions")
    odds = threshold / (1 - threshold)
    return share(is_positive & is_called) - odds * share(~is_positive & is_called)
