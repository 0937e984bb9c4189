"""Logistic regression on one number by Newton's method, for many samples at once.

The log-likelihood of a line a + b x is a Y + b S - sum of m log(1 + exp(a + b x)), where Y and S
are the sums of the positives' ones and of their x: only the last term sees the rows, and only their
mass m at each place x. So a bootstrap draw is a row of masses, and rows that lie close together may
be put in one place beforehand (see `resampling`).
"""

import math

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.rows import BoolArray, FloatArray

# Newton's method doubles the digits a step: from a step of 1e-9 on, the next is below rounding.
_TOLERANCE = 1e-9
_MAX_STEPS = 60
_MAX_HALVINGS = 30
# Standard deviations of x: a line as steep parts the classes perfectly, and would go on rising.
_MAX_SLOPE = 100.0


def logistic_line(is_positive: BoolArray, values: FloatArray) -> tuple[float, float]:
    """Return intercept and slope of the logistic regression of a target on one number.

    Args:
        is_positive: (N,), the targets.
        values: (N,), finite.

    Returns:
        `(intercept, slope)`; two NaN when the classes are parted perfectly, only one is there, or
        all values are equal: there is no best line then.
    """
    positives, negatives = values[is_positive], values[~is_positive]
    if not len(positives) or not len(negatives):
        return math.nan, math.nan
    if positives.min() >= negatives.max() or positives.max() <= negatives.min():
        return math.nan, math.nan
    line = fit_lines(
        values[None],
        np.ones((1, len(values))),
        num_positives=np.array([float(len(positives))]),
        moments=np.array([positives.sum()]),
    )[0]
    return float(line[0]), float(line[1])


def fit_lines(
    places: FloatArray,
    masses: FloatArray,
    *,
    num_positives: FloatArray,
    moments: FloatArray,
) -> FloatArray:
    """Return intercept and slope of the most likely line of each sample.

    Args:
        places: (B, K) finite x.
        masses: (B, K), 0 or more: how many rows lie there.
        num_positives: (B,) rows that are positive.
        moments: (B,) sum of x over the positive rows.

    Returns:
        (B, 2) float64: intercept and slope; NaN where there is no maximum.
    """
    total = masses.sum()
    with np.errstate(all="ignore"):
        # In units of the standard deviation the two parameters are of one size.
        centre = (masses * places).sum() / total
        scale = np.sqrt((masses * (places - centre) ** 2).sum() / total)
        moments = (moments - centre * num_positives) / scale
        lines = _climb((places - centre) / scale, masses, np.stack([num_positives, moments], 1))
    lines[np.abs(lines[:, 1]) > _MAX_SLOPE] = np.nan
    slope = lines[:, 1] / scale
    return np.stack([lines[:, 0] - slope * centre, slope], axis=1)


def _climb(places: FloatArray, masses: FloatArray, sums: FloatArray) -> FloatArray:
    """Return the maximum by Newton steps, each halved until it does not lead downwards."""
    odds = sums[:, 0] / (masses.sum(axis=1) - sums[:, 0])
    lines = np.stack([np.log(odds), np.zeros_like(odds)], axis=1)
    height = _log_likelihood(lines, places, masses, sums)
    is_settled = np.zeros(len(lines), dtype=bool)
    for _ in range(_MAX_STEPS):
        step = _newton_step(lines, places, masses, sums)
        for _ in range(_MAX_HALVINGS):
            reached = _log_likelihood(lines + step, places, masses, sums)
            # Less by rounding is not downwards.
            falls = reached < height - 1e-12 * np.abs(height)
            if not falls.any():
                break
            step[falls] /= 2
        lines, height = lines + step, reached
        is_settled = np.abs(step).max(axis=1) < _TOLERANCE
        # One without a maximum is NaN, or runs away, and is not waited for.
        if (is_settled | ~(np.abs(lines[:, 1]) < _MAX_SLOPE)).all():
            break
    lines[~is_settled] = np.nan
    return lines


def _newton_step(
    lines: FloatArray, places: FloatArray, masses: FloatArray, sums: FloatArray
) -> FloatArray:
    chance = _sigmoid(lines[:, :1] + lines[:, 1:] * places)
    expected = masses * chance
    first = sums[:, 0] - expected.sum(axis=1)
    second = sums[:, 1] - (expected * places).sum(axis=1)
    curvature = expected * (1 - chance)
    aa = curvature.sum(axis=1)
    curvature *= places
    ab, bb = curvature.sum(axis=1), (curvature * places).sum(axis=1)
    determinant = aa * bb - ab * ab
    step: FloatArray = np.stack([bb * first - ab * second, aa * second - ab * first], axis=1)
    step /= determinant[:, None]
    return step


def _log_likelihood(
    lines: FloatArray, places: FloatArray, masses: FloatArray, sums: FloatArray
) -> FloatArray:
    height: FloatArray = (lines * sums).sum(axis=1)
    odds = lines[:, :1] + lines[:, 1:] * places
    # Several times faster than logaddexp, which numpy does not vectorise.
    softplus = np.maximum(odds, 0.0) + np.log(1 + np.exp(-np.abs(odds)))
    height -= (masses * softplus).sum(axis=1)
    return height


def _sigmoid(values: FloatArray) -> npt.NDArray[np.float64]:
    # By tanh, which does not overflow.
    return 0.5 + 0.5 * np.tanh(values / 2)
