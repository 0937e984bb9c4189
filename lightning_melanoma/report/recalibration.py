"""What fitting an offset and a temperature on a table would change, on patients not fitted on."""

from typing import NamedTuple

import numpy as np

from lightning_melanoma import metrics
from lightning_melanoma.decisions.calibration import CalibrationLine, cross_fitted, fit_calibration
from lightning_melanoma.metrics.rows import BoolArray, FloatArray
from lightning_melanoma.report.tables import JudgedTable

#: What the line can change: it keeps the order, so none of the metrics of it.
METRICS = ("log_loss", "brier_score", "calibration_error", "observed_to_expected")


class Recalibration(NamedTuple):
    """The line of all rows, and metrics of the table as it is and cross-fitted over patients."""

    line: CalibrationLine
    before: dict[str, float]
    after: dict[str, float]


def recalibrate(table: JudgedTable) -> Recalibration | str:
    """Return what a fitted line would change, or the reason why none can be fitted."""
    odds = metrics.log_odds(table.probabilities)
    try:
        line = fit_calibration(table.is_melanoma, odds)
        fitted = cross_fitted(table.is_melanoma, odds, table.clusters)
    except ValueError as error:
        # What is wrong with the rows is a result here, not an error of the user's.
        return str(error)
    return Recalibration(
        line,
        _judged(table.is_melanoma, odds),
        _judged(table.is_melanoma, fitted),
    )


def _judged(is_melanoma: BoolArray, odds: FloatArray) -> dict[str, float]:
    probabilities = np.exp(-np.logaddexp(0.0, -odds))
    values = (
        metrics.log_loss(is_melanoma, odds),
        metrics.brier_score(is_melanoma, probabilities),
        metrics.calibration_error(is_melanoma, probabilities),
        float(is_melanoma.sum() / probabilities.sum()),
    )
    return dict(zip(METRICS, values, strict=True))
