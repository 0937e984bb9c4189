"""A metric of the sample with its 95 % interval over patients, or without one that would mislead.

Intervals are percentiles of bootstrap draws of patients, which do not always tell a spread. Draws
of a class that a single patient has are that patient again and again: there is no interval. A rate
of exactly 0 or 1 is the same in nearly every draw, however few patients there are: its bound is an
exact one. Other metrics that are alike in all draws, such as the average precision of classes
parted perfectly, have no interval, nor has the calibration error, which has no draws: chance raises
it in the sample, and would once more in each draw.
"""

import math
from typing import NamedTuple

import numpy as np

from lightning_melanoma import metrics
from lightning_melanoma.metrics.rows import BoolArray, FloatArray, IntArray

# An interval over fewer patients would tell how often one of them was drawn.
_MIN_PATIENTS = 2
# Metrics of the melanomas, of the benign images, and of all images whatever they are; the others
# set melanomas against benign images.
_OF_MELANOMAS = ("sensitivity", "prevalence", "observed_to_expected")
_OF_BENIGN = ("specificity",)
_OF_ALL = ("log_loss", "brier_score", "mean_probability")
# How the names of rates begin; those at a required rate go on with it.
_RATES = ("auroc", "sensitivity", "specificity")


class Estimate(NamedTuple):
    """A metric of the sample and its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


class Patients(NamedTuple):
    """How many patients a sample has; one with a melanoma and a benign image counts as both."""

    num_all: int
    num_with_melanoma: int
    num_with_benign: int


def patients_of(is_melanoma: BoolArray, clusters: IntArray) -> Patients:
    """Return the patients of a sample.

    Args:
        is_melanoma: (N,) bool.
        clusters: (N,) int64, the number of each row's patient.
    """
    groups = (clusters, clusters[is_melanoma], clusters[~is_melanoma])
    return Patients(*(len(np.unique(group)) for group in groups))


def estimate(name: str, value: float, draws: FloatArray, patients: Patients) -> Estimate:
    """Return a metric with its interval.

    An AUROC, a sensitivity or a specificity of exactly 0 or 1 has the interval of Clopper and
    Pearson (Biometrika 26, 1934) for as many trials as patients, each of one outcome; for the AUROC
    a trial is a pair of patients, no patient in two pairs. Draws of a rate at a required rate may
    reach further, as its threshold varies with them; they keep it wide.

    Args:
        name: of the metric, as the statistics of `metrics` have it.
        value: of the sample.
        draws: (D,) float64, of bootstrap draws of the patients; NaN where undefined.
        patients: of the sample.

    Returns:
        The value and its interval; the bounds are NaN with fewer than 2 patients of a class that
        the metric is about, and where all draws are alike.
    """
    if math.isnan(value) or _num_patients(name, patients) < _MIN_PATIENTS:
        return Estimate(value, math.nan, math.nan)
    low, high = metrics.percentile_interval(draws)
    if name.startswith(_RATES) and value in (0.0, 1.0):
        exact_low, exact_high = metrics.unanimous_interval(value, _num_trials(name, patients))
        # The one that is a number where the draws have no interval.
        low, high = float(np.fmin(low, exact_low)), float(np.fmax(high, exact_high))
    return Estimate(value, low, high)


def _num_patients(name: str, patients: Patients) -> int:
    """Return how many patients have the class that a metric is about, or the rarer of the two."""
    if name in _OF_ALL:
        return patients.num_all
    if name in _OF_MELANOMAS:
        return patients.num_with_melanoma
    if name in _OF_BENIGN:
        return patients.num_with_benign
    return min(patients.num_with_melanoma, patients.num_with_benign)


def _num_trials(name: str, patients: Patients) -> int:
    """Return how many independent patients, or pairs of them, a rate was tried on."""
    if name.startswith("sensitivity"):
        return patients.num_with_melanoma
    if name.startswith("specificity"):
        return patients.num_with_benign
    # So many pairs of a melanoma and a benign image have no patient in common.
    return min(patients.num_with_melanoma, patients.num_with_benign, patients.num_all // 2)
