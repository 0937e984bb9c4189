"""What the metrics are in a block of bootstrap draws, from the weights of the clusters.

Each function prepares the rows once, sorted, and returns a statistic of weights. With weights of 1
it has the value of the plain metric of the same name.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.bootstrap import Statistic
from lightning_melanoma.metrics.calibration import log_odds
from lightning_melanoma.metrics.logistic import fit_lines
from lightning_melanoma.metrics.ranking import COUNT_TOLERANCE
from lightning_melanoma.metrics.rows import BoolArray, FloatArray, IntArray, checked

# Places that the rows of a calibration line are put together in, by rank and by value each.
_NUM_PLACES = 256


def ranking_statistic(
    targets: npt.ArrayLike, scores: npt.ArrayLike, clusters: IntArray
) -> Statistic:
    """Return the statistic of `auroc`, `average_precision`, `partial_auc` and the rates.

    Only the positives matter one by one; of the negatives it is enough to know how many lie between
    one positive and the next. So the sorted rows are summed to cells first, exactly, and curves are
    as long as there are positives of different scores. The AUROC is the quadratic form w'Uw of the
    patients' weights, U the wins of the positives of one over the negatives of another.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        scores: (N,) finite, higher means more suspect.
        clusters: (N,) int64, the column of each row in the weights.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    is_positive, values = checked(targets, scores, "scores")
    order = np.argsort(-values, kind="stable")
    falling, is_positive, clusters = values[order], is_positive[order], clusters[order]
    starts, has_positive = _cells(falling, is_positive)
    cell_of_positive = np.searchsorted(starts, np.flatnonzero(is_positive), side="right") - 1
    firsts = np.searchsorted(cell_of_positive, np.flatnonzero(has_positive))
    of_positives = clusters[is_positive]

    def statistic(weights: FloatArray) -> dict[str, FloatArray]:
        called = _sums(weights[:, clusters], starts)
        hits = _sums(weights[:, of_positives], firsts)
        false = called
        false[:, has_positive] -= hits
        wrong = np.cumsum(false, axis=1)
        num_negatives = wrong[:, -1] if len(starts) else np.zeros(len(weights))
        return _curve_metrics(hits, false[:, has_positive], wrong[:, has_positive], num_negatives)

    return statistic


def probability_statistic(
    targets: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    clusters: IntArray,
    *,
    num_clusters: int,
    threshold: float,
) -> Statistic:
    """Return the statistic of the metrics that are ratios of sums over rows.

    These are `log_loss`, `brier_score`, and at the threshold `sensitivity`, `specificity`,
    `number_needed_to_excise` and `net_benefit`; with them `prevalence`, `mean_probability` and the
    ratio of the two, `observed_to_expected`. The sums of each cluster are made once, and those of
    all draws by one matrix product.

    `calibration_error` is left out: chance alone puts it above 0 (Roelofs et al., "Mitigating bias
    in calibration error estimation", AISTATS 2022), and in a draw once more.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        probabilities: (N,) in [0, 1].
        clusters: (N,) int64, the column of each row in the weights.
        num_clusters: columns of the weights.
        threshold: the probability from which on melanoma is called, in (0, 1).

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a probability is not finite.
    """
    is_positive, values = checked(targets, probabilities, "probabilities")
    is_called, odds = values >= threshold, log_odds(values)
    columns = {
        "rows": np.ones(len(values)),
        "positives": is_positive,
        "hits": is_positive & is_called,
        "false_alarms": ~is_positive & is_called,
        "probability": values,
        "loss": np.logaddexp(0.0, np.where(is_positive, -odds, odds)),
        "square": (values - is_positive) ** 2,
    }
    by_cluster = np.stack(
        [np.bincount(clusters, c, num_clusters) for c in columns.values()], axis=1
    )

    def statistic(weights: FloatArray) -> dict[str, FloatArray]:
        sums = dict(zip(columns, (weights @ by_cluster).T, strict=True))
        return _ratios(sums, threshold / (1 - threshold) if threshold < 1 else np.inf)

    return statistic


def line_statistic(targets: npt.ArrayLike, logits: npt.ArrayLike, clusters: IntArray) -> Statistic:
    """Return the statistic of `calibration_intercept` and `calibration_slope`.

    Rows of neighbouring logits count as lying at their mean. The term of the targets stays exact;
    log(1 + exp(x)) curves by 1/4 at most, so that a row errs by no more than h^2 / 32, h the width
    of its place.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma.
        logits: (N,) finite log-odds of melanoma.
        clusters: (N,) int64, the column of each row in the weights.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a logit is not finite.
    """
    is_positive, values = checked(targets, logits, "logits")
    order = np.argsort(values, kind="stable")
    rising, is_positive, clusters = values[order], is_positive[order], clusters[order]
    starts = _places(rising)
    of_positives, places_of_positives = clusters[is_positive], rising[is_positive]

    def statistic(weights: FloatArray) -> dict[str, FloatArray]:
        rows = weights[:, clusters]
        masses = _sums(rows, starts)
        rows *= rising
        with np.errstate(invalid="ignore"):
            places = np.nan_to_num(_sums(rows, starts) / masses)
        positives = weights[:, of_positives]
        lines = fit_lines(
            places,
            masses,
            num_positives=positives.sum(axis=1),
            moments=positives @ places_of_positives,
        )
        return {"calibration_intercept": lines[:, 0], "calibration_slope": lines[:, 1]}

    return statistic


def _cells(falling: FloatArray, is_positive: BoolArray) -> tuple[IntArray, BoolArray]:
    """Return where cells start, and which have a positive: a run of equal scores, or between."""
    runs = np.flatnonzero(np.append(True, falling[1:] != falling[:-1])[: len(falling)])
    if not len(runs):
        return runs, np.zeros(0, dtype=bool)
    has_positive = np.maximum.reduceat(is_positive, runs)
    is_start = np.append(True, has_positive[1:] | has_positive[:-1])
    return runs[is_start], has_positive[is_start]


def _places(rising: FloatArray) -> IntArray:
    """Return where places start: as many of equal count as of equal width, cutting each other."""
    if not len(rising):
        return np.zeros(0, dtype=np.int64)
    by_rank = np.arange(len(rising)) * _NUM_PLACES // len(rising)
    width = (rising[-1] - rising[0]) / _NUM_PLACES or 1.0
    by_value = np.floor((rising - rising[0]) / width)
    changes = (np.diff(by_rank) != 0) | (np.diff(by_value) != 0)
    return np.flatnonzero(np.append(True, changes))


def _sums(rows: FloatArray, starts: IntArray) -> FloatArray:
    if not len(starts):
        return np.zeros((len(rows), 0))
    sums: FloatArray = np.add.reduceat(rows, starts, axis=1)
    return sums


def _curve_metrics(
    hits: FloatArray, tied: FloatArray, wrong: FloatArray, num_negatives: FloatArray
) -> dict[str, FloatArray]:
    """Return the metrics of curves in steps of positives.

    Args:
        hits: (B, K) positives of each step, from the highest score down.
        tied: (B, K) negatives of the same score.
        wrong: (B, K) negatives of that score or above.
        num_negatives: (B,).
    """
    found = np.cumsum(hits, axis=1)
    num_positives = found[:, -1:] if found.shape[1] else np.zeros((len(hits), 1))
    negatives = num_negatives[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.divide(found, found + wrong, out=np.zeros_like(found), where=found > 0)
        rate = np.where(negatives > 0, (wrong - tied / 2) / negatives, np.nan)
        return {
            "auroc": 1 - (hits * rate).sum(axis=1) / num_positives[:, 0],
            "average_precision": (hits * precision).sum(axis=1) / num_positives[:, 0],
            "partial_auc": _partial_areas(hits, tied, wrong, num_positives, negatives),
            **_best_rates(found, wrong, num_positives, negatives),
        }


def _partial_areas(
    hits: FloatArray,
    tied: FloatArray,
    wrong: FloatArray,
    num_positives: FloatArray,
    negatives: FloatArray,
) -> FloatArray:
    found = np.cumsum(hits, axis=1)
    # 0.8: the sensitivity that ISIC 2024 requires, as in `partial_auc`.
    above = np.clip(found - 0.8 * num_positives, 0.0, hits)
    part = np.divide(above, hits, out=np.zeros_like(hits), where=hits > 0)
    area = (above * (1 - (wrong - tied * part / 2) / negatives)).sum(axis=1)
    areas: FloatArray = area / num_positives[:, 0]
    return areas


def _best_rates(
    found: FloatArray, wrong: FloatArray, num_positives: FloatArray, negatives: FloatArray
) -> dict[str, FloatArray]:
    is_defined = (num_positives[:, 0] > 0) & (negatives[:, 0] > 0)
    rates = {}
    for percent in (90, 95):
        kept = wrong <= (1 - percent / 100) * negatives + COUNT_TOLERANCE
        best = np.where(kept, found, 0.0).max(axis=1, initial=0.0) / num_positives[:, 0]
        rates[f"sensitivity_at_specificity_{percent}"] = best
        enough = found >= percent / 100 * num_positives - COUNT_TOLERANCE
        fewest = np.where(enough, wrong, np.inf).min(axis=1, initial=np.inf)
        rates[f"specificity_at_sensitivity_{percent}"] = 1 - fewest / negatives[:, 0]
    return {name: np.where(is_defined, values, np.nan) for name, values in rates.items()}


def _ratios(sums: Mapping[str, FloatArray], odds: float) -> dict[str, FloatArray]:
    rows, positives, hits = sums["rows"], sums["positives"], sums["hits"]
    false_alarms = sums["false_alarms"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "prevalence": positives / rows,
            "mean_probability": sums["probability"] / rows,
            "observed_to_expected": positives / sums["probability"],
            "log_loss": sums["loss"] / rows,
            "brier_score": sums["square"] / rows,
            "sensitivity": hits / positives,
            "specificity": 1 - false_alarms / (rows - positives),
            "number_needed_to_excise": (hits + false_alarms) / hits,
            "net_benefit": (hits - odds * false_alarms) / rows,
        }
