"""Calibration by a line: logits to log-odds that mean what they say.

log-odds = offset + slope x logit (Platt, "Probabilistic outputs for support vector machines", 1999;
1 / slope is the temperature of Guo et al., ICML 2017). The slope is above 0, so the order of images
stays as it is. The line is fitted by maximum likelihood on a prediction table, and judged on
patients that it was not fitted on. For class weights alone the exact correction is in `prior`.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics import calibration_error, calibration_line, log_loss, log_odds
from lightning_melanoma.metrics.rows import FloatArray, IntArray

_NUM_FOLDS = 5


class CalibrationLine(NamedTuple):
    """A rising line from a model's logits to calibrated log-odds.

    Attributes:
        offset: log-odds at a logit of 0.
        slope: above 0; below 1 where the model is too sure of itself.
    """

    offset: float
    slope: float

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return 1 / self.slope

    def apply(self, logits: npt.ArrayLike) -> FloatArray:
        """Return the calibrated log-odds of logits, of the same shape."""
        odds: FloatArray = self.offset + self.slope * np.asarray(logits, dtype=np.float64)
        return odds


class CalibrationQuality(NamedTuple):
    """How far log-odds mean what they say.

    Attributes:
        log_loss: nats an image.
        calibration_error: of bins of equal count, in [0, 1].
        slope: of the calibration line; 1 is right, below it they are too extreme.
    """

    log_loss: float
    calibration_error: float
    slope: float


def calibration_quality(targets: npt.ArrayLike, odds: FloatArray) -> CalibrationQuality:
    """Return how good log-odds are.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        odds: (N,) finite log-odds.
    """
    probabilities = np.exp(-np.logaddexp(0.0, -odds))
    return CalibrationQuality(
        log_loss(targets, odds),
        calibration_error(targets, probabilities),
        calibration_line(targets, odds)[1],
    )


def fit_calibration(targets: npt.ArrayLike, logits: npt.ArrayLike) -> CalibrationLine:
    """Return the most likely line.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        logits: (N,) finite.

    Raises:
        ValueError: there is no best line (one class only, classes parted perfectly, all logits
            equal), or it falls: melanoma has the lower logits.
    """
    offset, slope = calibration_line(targets, logits)
    if math.isnan(slope):
        raise ValueError(
            "calibration: expected melanoma and benign images of overlapping logits, found "
            f"{int(np.sum(targets))} melanomas of {np.size(targets)} parted from the rest, or all "
            "logits equal; calibrate on more images"
        )
    if slope <= 0:
        raise ValueError(
            f"calibration: expected melanoma to have the higher logits, found a slope of "
            f"{slope:.3g}; the model does not tell melanoma on these images"
        )
    return CalibrationLine(offset, slope)


def cross_fitted(
    targets: npt.ArrayLike,
    logits: npt.ArrayLike,
    patients: IntArray,
    *,
    num_folds: int = _NUM_FOLDS,
    seed: int = 0,
) -> FloatArray:
    """Return the log-odds of each image by the line that was fitted on the other folds' patients.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        logits: (N,) finite.
        patients: (N,) int64, the number of each image's patient.
        num_folds: how many parts the patients are dealt into, those with a melanoma evenly.
        seed: of the dealing.

    Returns:
        (N,) float64. Between folds the order of images may change by the lines' differences.

    Raises:
        ValueError: as `fit_calibration`, of the rest of a fold; or there are too few patients.
    """
    is_melanoma, values = np.asarray(targets) == 1, np.asarray(logits, dtype=np.float64)
    folds = _dealt(is_melanoma, patients, num_folds, seed)
    odds = np.empty(len(values))
    for fold in range(num_folds):
        inside = folds == fold
        line = fit_calibration(is_melanoma[~inside], values[~inside])
        odds[inside] = line.apply(values[inside])
    return odds


def to_prevalence(odds: npt.ArrayLike, *, source: float, target: float) -> FloatArray:
    """Return log-odds as they are in a population of another prevalence.

    Bayes' rule, where melanomas, and benign lesions, look the same in both populations: the prior
    odds are exchanged (Saerens, Latinne and Decaestecker, Neural Computation 14, 2002, equation 4).

    Args:
        odds: (N,) calibrated log-odds.
        source: share of melanomas where they are calibrated, in (0, 1).
        target: share of melanomas in the other population, in (0, 1).

    Raises:
        ValueError: a share is not between 0 and 1.
    """
    for name, share in (("source", source), ("target", target)):
        if not 0 < share < 1:
            raise ValueError(f"{name}: expected a prevalence between 0 and 1, found {share}")
    there, here = log_odds([target, source])
    shifted: FloatArray = np.asarray(odds, dtype=np.float64) + (there - here)
    return shifted


def _dealt(
    is_melanoma: npt.NDArray[np.bool_], patients: IntArray, num_folds: int, seed: int
) -> IntArray:
    """Return the fold of each image: patients shuffled, those with a melanoma first, dealt out."""
    codes = np.unique(patients, return_inverse=True)[1].ravel()
    has_melanoma = np.bincount(codes, is_melanoma) > 0
    if min(has_melanoma.sum(), len(has_melanoma)) < num_folds:
        raise ValueError(
            f"num_folds: expected at least {num_folds} patients with a melanoma, one a fold, found "
            f"{has_melanoma.sum()}"
        )
    order = np.random.default_rng(seed).permutation(len(has_melanoma))
    order = order[np.argsort(~has_melanoma[order], kind="stable")]
    folds = np.empty(len(order), dtype=np.int64)
    folds[order] = np.arange(len(order)) % num_folds
    dealt: IntArray = folds[codes]
    return dealt
