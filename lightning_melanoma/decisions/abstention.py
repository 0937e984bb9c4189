"""Conformal abstention: `benign` is only said where few enough melanomas would be missed.

Of the melanomas to come, at most the asked share is called benign if they are exchangeable with the
melanomas of the calibration set (split conformal prediction with one class as its group: Vovk,
Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, section 4.5). That holds on
the average over calibration sets. Images of one patient, which are alike, make it hold less well,
and it says nothing of a population where melanomas look different.
"""

import math

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.rows import checked

# In melanomas: 0.05 x 20 must count as 1, whatever its rounding in float64.
_COUNT_TOLERANCE = 1e-6


def benign_below(targets: npt.ArrayLike, scores: npt.ArrayLike, miss_rate: float) -> float:
    """Return the score below which an image may be called benign.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher for melanoma, on any scale.
        miss_rate: the largest share of melanomas that may be called benign, in (0, 1).

    Returns:
        The score of a melanoma of the calibration set: from it on the answer is not benign.

    Raises:
        ValueError: the rate is out of range, or below what the number of melanomas supports:
            the score of a new one is below all n of them with a probability of 1 / (n + 1).
    """
    is_melanoma, values = checked(targets, scores, "scores")
    if not 0 < miss_rate < 1:
        raise ValueError(f"miss_rate: expected a share between 0 and 1, found {miss_rate}")
    melanomas = np.sort(values[is_melanoma])
    num_missed = math.floor(miss_rate * (len(melanomas) + 1) + _COUNT_TOLERANCE)
    if num_missed < 1:
        raise ValueError(
            f"miss_rate: expected at least {lowest_miss_rate(len(melanomas)):.3g}, which is what "
            f"the {len(melanomas)} melanomas of the calibration set support, found {miss_rate}; "
            "ask for that, or calibrate on more melanomas"
        )
    return float(melanomas[min(num_missed, len(melanomas)) - 1])


def lowest_miss_rate(num_melanomas: int) -> float:
    """Return the lowest rate that a calibration set of so many melanomas can promise."""
    return 1 / (num_melanomas + 1)
