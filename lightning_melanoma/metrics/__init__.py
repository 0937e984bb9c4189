"""Exact metrics of a binary classifier over a whole split, and how sure they are: numpy only.

Every function sees all rows at once, so nothing here is an average of batches. What a split cannot
tell (sensitivity without a positive, AUROC with one class) is NaN, never an error: a validation
split without a melanoma must not end a run.
"""

from lightning_melanoma.metrics.bootstrap import bootstrap, cluster_codes
from lightning_melanoma.metrics.calibration import (
    brier_score,
    calibration_error,
    calibration_line,
    equal_count_bins,
    log_loss,
    log_odds,
)
from lightning_melanoma.metrics.intervals import (
    auroc_interval,
    percentile_interval,
    unanimous_interval,
)
from lightning_melanoma.metrics.ranking import (
    auroc,
    average_precision,
    partial_auc,
    precision_recall_curve,
    roc_curve,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from lightning_melanoma.metrics.resampling import (
    line_statistic,
    probability_statistic,
    ranking_statistic,
)
from lightning_melanoma.metrics.thresholds import (
    net_benefit,
    number_needed_to_excise,
    sensitivity,
    specificity,
)

__all__ = [
    "auroc",
    "auroc_interval",
    "average_precision",
    "bootstrap",
    "brier_score",
    "calibration_error",
    "calibration_line",
    "cluster_codes",
    "equal_count_bins",
    "line_statistic",
    "log_loss",
    "log_odds",
    "net_benefit",
    "number_needed_to_excise",
    "partial_auc",
    "percentile_interval",
    "precision_recall_curve",
    "probability_statistic",
    "ranking_statistic",
    "roc_curve",
    "sensitivity",
    "sensitivity_at_specificity",
    "specificity",
    "specificity_at_sensitivity",
    "unanimous_interval",
]
