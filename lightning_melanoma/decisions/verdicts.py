"""What is said of an image: an interval and a decision, by the calibration rows of checkpoints.

Everything goes by the order of log-odds among those rows. Several checkpoints say the mean of their
log-odds; where they were calibrated on the same images so do their rows, image by image, and what
is promised for one checkpoint holds. Where they were not, as with the folds of a cross-validation,
their rows are put together, which is an approximation: the mean of several models errs less than
each of them does on its own rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_melanoma.decisions.abstention import benign_below
from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.decisions.operating import threshold_at_sensitivity
from lightning_melanoma.decisions.venn_abers import VennAbers
from lightning_melanoma.metrics.rows import FloatArray, IntArray

MELANOMA, BENIGN, REFER = "melanoma", "benign", "refer"


@dataclass(frozen=True, eq=False)
class Reference:
    """Calibration rows that new images are judged by.

    Attributes:
        odds: (N,) float64, calibrated log-odds.
        targets: (N,) int64 in {0, 1}, 1 for melanoma, at least one of them.
    """

    odds: FloatArray
    targets: IntArray

    @property
    def num_melanomas(self) -> int:
        """How many of the rows are melanomas."""
        return int(self.targets.sum())


def reference_of(calibrations: Sequence[Calibration]) -> Reference:
    """Return the rows of one or several checkpoints.

    Args:
        calibrations: at least one; log-odds are those of each one's own prevalence.

    Raises:
        ValueError: there is no melanoma among the rows.
    """
    first = calibrations[0]
    odds = [each.log_odds(each.logits) for each in calibrations]
    are_the_same = all(
        np.array_equal(each.targets, first.targets)
        and np.array_equal(each.patients, first.patients)
        for each in calibrations
    )
    if are_the_same:
        reference = Reference(np.mean(odds, axis=0), first.targets)
    else:
        targets = np.concatenate([each.targets for each in calibrations])
        reference = Reference(np.concatenate(odds), targets)
    if not reference.num_melanomas:
        raise ValueError(
            f"calibration: expected melanomas to decide by, found none among "
            f"{len(reference.targets)} rows; train with a validation split that has some"
        )
    return reference


def intervals(
    reference: Reference, odds: FloatArray, *, prevalence: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the Venn-Abers intervals of the probability.

    Args:
        reference: the calibration rows.
        odds: (N,) log-odds on their scale.
        prevalence: of the population that the interval is for; None for that of the rows.

    Returns:
        Two (N,) float64 in [0, 1]. The calibrated probability, which comes from a line, may lie
        outside where the line fits badly.
    """
    lower, upper = VennAbers(reference.targets, reference.odds).interval(odds)
    if prevalence is None:
        return lower, upper
    share = reference.targets.mean()
    if share == 1:
        return lower, upper
    # Bayes' rule on odds, as `to_prevalence`, in a form that takes probabilities of 0 and 1.
    factor = prevalence / (1 - prevalence) * (1 - share) / share
    lower, upper = (factor * p / (factor * p + 1 - p) for p in (lower, upper))
    return lower, upper


@dataclass(frozen=True)
class Rule:
    """When which decision is said.

    Attributes:
        melanoma_from: log-odds from which on it is melanoma.
        benign_below: log-odds below which it is benign, if it is not melanoma; between, `refer`.
    """

    melanoma_from: float
    benign_below: float

    def decide(self, odds: FloatArray) -> npt.NDArray[np.str_]:
        """Return (N,) decisions on (N,) log-odds."""
        below = np.where(odds < self.benign_below, BENIGN, REFER)
        return np.where(odds >= self.melanoma_from, MELANOMA, below)


def rule_of(reference: Reference, *, sensitivity: float, miss_rate: float | None) -> Rule:
    """Return the rule of an operating point.

    Args:
        reference: the calibration rows.
        sensitivity: share of their melanomas that is to be called melanoma.
        miss_rate: the largest share of melanomas to come that may be called benign; None: what is
            not melanoma is benign.

    Raises:
        ValueError: a share is out of range, or the rows do not support the rate.
    """
    threshold = threshold_at_sensitivity(reference.targets, reference.odds, sensitivity)
    if miss_rate is None:
        return Rule(threshold, threshold)
    return Rule(threshold, benign_below(reference.targets, reference.odds, miss_rate))
