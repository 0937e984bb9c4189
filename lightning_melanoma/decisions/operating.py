"""Operating points: the probability from which on melanoma is called."""

import math

import numpy as np
import numpy.typing as npt

# In positives: 0.95 x 20 must count as 19, whatever its rounding in float64.
_COUNT_TOLERANCE = 1e-6


def threshold_at_sensitivity(
    targets: npt.ArrayLike, probabilities: npt.ArrayLike, sensitivity: float
) -> float:
    """Return the highest threshold that finds at least this share of the positives.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma, at least one of them.
        probabilities: (N,) in [0, 1].
        sensitivity: the share, in (0, 1].

    Returns:
        The probability of one of the positives: melanoma is called from it on.

    Raises:
        ValueError: `sensitivity` is outside (0, 1], or there is no positive.
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity: expected a share above 0 up to 1, found {sensitivity}")
    positives = np.sort(np.asarray(probabilities, dtype=np.float64)[np.asarray(targets) == 1])
    if not len(positives):
        raise ValueError("targets: expected a positive to set the threshold by, found none")
    needed = max(1, math.ceil(sensitivity * len(positives) - _COUNT_TOLERANCE))
    return float(positives[len(positives) - needed])


def excisions_at_prevalence(
    sensitivity: npt.ArrayLike, specificity: npt.ArrayLike, prevalence: float
) -> npt.NDArray[np.float64]:
    """Return how many lesions are excised for each melanoma, in a population of another prevalence.

    Sensitivity and specificity are taken to be the same there: 1 / PPV by Bayes' rule.

    Args:
        sensitivity: in [0, 1], any shape.
        specificity: in [0, 1], of the same shape.
        prevalence: the share of melanomas there, in (0, 1).

    Returns:
        1 or more; infinite where the sensitivity is 0.

    Raises:
        ValueError: `prevalence` is outside (0, 1).
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence: expected a share between 0 and 1, found {prevalence}")
    hits = np.asarray(sensitivity, dtype=np.float64) * prevalence
    false_alarms = (1 - np.asarray(specificity, dtype=np.float64)) * (1 - prevalence)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 + false_alarms / hits)
