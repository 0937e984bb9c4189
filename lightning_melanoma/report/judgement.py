"""Judge one table: every metric with its interval over patients, and those of its subgroups."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lightning_melanoma import metrics
from lightning_melanoma.decisions.operating import (
    excisions_at_prevalence,
    threshold_at_sensitivity,
)
from lightning_melanoma.metrics.bootstrap import NUM_DRAWS, Statistic
from lightning_melanoma.metrics.rows import BoolArray, FloatArray
from lightning_melanoma.report.estimates import Estimate, Patients, estimate, patients_of
from lightning_melanoma.report.groups import MIN_POSITIVES, groups_of
from lightning_melanoma.report.recalibration import Recalibration, recalibrate
from lightning_melanoma.report.tables import JudgedTable

# The slice of all rows: no property, no group.
_EVERYONE = ("", "")


class Group(NamedTuple):
    """A subgroup; `estimates` is None when it has too few positives to be scored."""

    name: str
    num_images: int
    num_melanomas: int
    estimates: dict[str, Estimate] | None


class Settings(NamedTuple):
    """What the user chose: the operating point, a population to tell of, and the draws."""

    sensitivity: float = 0.95
    threshold: float | None = None
    prevalence: float | None = None
    num_draws: int = NUM_DRAWS
    seed: int = 0


class Judgement(NamedTuple):
    """What a table is worth.

    Attributes:
        table: the rows.
        threshold: the probability from which on melanoma is called.
        estimates: of each metric.
        groups: by property, of its subgroups.
        recalibration: what a fitted line would change, or why there is none.
    """

    table: JudgedTable
    threshold: float
    estimates: dict[str, Estimate]
    groups: dict[str, list[Group]]
    recalibration: Recalibration | str


def judge(table: JudgedTable, settings: Settings) -> Judgement:
    """Return all metrics of a table, with intervals by bootstrap over its patients.

    Subgroups are judged in the same draws, by those rows of each that belong to them.

    Raises:
        ValueError: a setting is outside its range.
    """
    threshold = settings.threshold
    if threshold is None:
        threshold = threshold_at_sensitivity(
            table.is_melanoma, table.probabilities, settings.sensitivity
        )
    elif not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a probability between 0 and 1, found {threshold}")
    slices = _slices(table)
    scored = {
        key: rows
        for key, rows in slices.items()
        if key == _EVERYONE or _is_scored(table.is_melanoma[rows])
    }
    statistics = {key: _statistic(table, rows, threshold) for key, rows in scored.items()}
    num_clusters = int(table.clusters.max()) + 1
    draws = metrics.bootstrap(
        statistics,
        num_clusters,
        num_rows=len(table.is_melanoma),
        num_draws=settings.num_draws,
        seed=settings.seed,
    )
    estimates = {}
    for key, rows in scored.items():
        values = statistics[key](np.ones((1, num_clusters))) | _of_sample(table, rows)
        patients = patients_of(table.is_melanoma[rows], table.clusters[rows])
        estimates[key] = _estimates(values, draws[key], patients, settings.prevalence)
    groups: dict[str, list[Group]] = {}
    for (name, group), rows in slices.items():
        if (name, group) != _EVERYONE:
            counts = len(table.is_melanoma[rows]), int(table.is_melanoma[rows].sum())
            groups.setdefault(name, []).append(Group(group, *counts, estimates.get((name, group))))
    return Judgement(table, threshold, estimates[_EVERYONE], groups, recalibrate(table))


def _slices(table: JudgedTable) -> dict[tuple[str, str], BoolArray]:
    """Return the rows of everyone, and those of each group by its property and name."""
    everyone: BoolArray = np.ones(len(table.is_melanoma), dtype=bool)
    slices = {_EVERYONE: everyone}
    for name, groups in groups_of(table.metadata).items():
        for group in sorted(groups.unique(), key=_rank):
            slices[name, group] = (groups == group).to_numpy(dtype=bool)
    return slices


def _rank(group: str) -> tuple[bool, bool, str]:
    # What is known first; "under 40" before "40 to 54".
    return group in ("unknown", "other"), not group.startswith("under"), group


def _is_scored(is_melanoma: BoolArray) -> bool:
    return int(is_melanoma.sum()) >= MIN_POSITIVES and not bool(is_melanoma.all())


def _statistic(table: JudgedTable, rows: BoolArray, threshold: float) -> Statistic:
    """Return the statistic of all metrics of some rows, by weights of all patients."""
    targets, probabilities = table.is_melanoma[rows], table.probabilities[rows]
    clusters = table.clusters[rows]
    parts = (
        metrics.ranking_statistic(targets, probabilities, clusters),
        metrics.probability_statistic(
            targets,
            probabilities,
            clusters,
            num_clusters=int(table.clusters.max()) + 1,
            threshold=threshold,
        ),
        metrics.line_statistic(targets, metrics.log_odds(probabilities), clusters),
    )

    def statistic(weights: FloatArray) -> dict[str, FloatArray]:
        return {name: values for part in parts for name, values in part(weights).items()}

    return statistic


def _of_sample(table: JudgedTable, rows: BoolArray) -> dict[str, FloatArray]:
    """Return what the statistic does not have of the sample: (1,) float64 each."""
    targets, probabilities = table.is_melanoma[rows], table.probabilities[rows]
    # That of the statistic puts neighbouring rows together, which is for draws only.
    intercept, slope = metrics.calibration_line(targets, metrics.log_odds(probabilities))
    return {
        "calibration_error": np.array([metrics.calibration_error(targets, probabilities)]),
        "calibration_intercept": np.array([intercept]),
        "calibration_slope": np.array([slope]),
    }


def _estimates(
    values: Mapping[str, FloatArray],
    draws: Mapping[str, FloatArray],
    patients: Patients,
    prevalence: float | None,
) -> dict[str, Estimate]:
    # Without draws there is no interval: no draw is defined.
    undrawn = np.full(1, math.nan)
    estimates = {
        name: estimate(name, float(value[0]), draws.get(name, undrawn), patients)
        for name, value in values.items()
    }
    if prevalence is not None:
        there, drawn = (
            excisions_at_prevalence(of["sensitivity"], of["specificity"], prevalence)
            for of in (values, draws)
        )
        name = "number_needed_to_excise_there"
        estimates[name] = estimate(name, float(there[0]), drawn, patients)
    return estimates
