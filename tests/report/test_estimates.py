import math

import numpy as np
import pandas as pd
import pytest

from lightning_melanoma.metrics import cluster_codes, percentile_interval
from lightning_melanoma.report.curves import roc_figure
from lightning_melanoma.report.estimates import Patients, estimate, patients_of
from lightning_melanoma.report.judgement import Settings, judge
from lightning_melanoma.report.tables import JudgedTable
from lightning_melanoma.report.words import answer

SPREAD = np.linspace(0.4, 0.6, 101)
ALIKE = np.ones(101)


def judged(is_melanoma, probabilities, patients, *, sex=None):
    is_melanoma = np.array(is_melanoma, dtype=bool)
    names = [f"ISIC_{row}" for row in range(len(is_melanoma))]
    clusters = cluster_codes(patients)
    metadata = pd.DataFrame({} if sex is None else {"sex": sex}, index=range(len(is_melanoma)))
    table = JudgedTable(
        "val", names, is_melanoma, np.array(probabilities), clusters, clusters.max() + 1, metadata
    )
    return judge(table, Settings(num_draws=200, threshold=0.5))


def without_interval(estimates):
    return {name for name, found in estimates.items() if math.isnan(found.low)}


def noisy(is_melanoma, *, seed=0):
    """Probabilities that part the classes, but not perfectly."""
    logits = np.random.default_rng(seed).normal(2.0 * np.array(is_melanoma) - 1)
    return 1 / (1 + np.exp(-logits))


def test_patient_with_both_classes_counts_as_both():
    is_melanoma = np.array([True, False, False, True])
    assert patients_of(is_melanoma, np.array([0, 0, 1, 2])) == Patients(3, 2, 2)


def test_one_patient_has_no_interval():
    is_melanoma = [1, 0] * 20
    found = judged(is_melanoma, noisy(is_melanoma), ["a"] * 40)
    assert without_interval(found.estimates) == set(found.estimates)
    assert "of pairs (too few or too alike for an interval)" in answer([found])


@pytest.mark.parametrize(
    ("lone_class", "kept"),
    [
        (1, {"specificity"}),
        (0, {"sensitivity", "prevalence", "observed_to_expected"}),
    ],
)
def test_class_of_one_patient_leaves_metrics_of_it_without_interval(lone_class, kept):
    is_melanoma = np.array([lone_class, 1 - lone_class] * 20)
    patients = np.where(is_melanoma == lone_class, "a", np.arange(40).astype(str))
    found = judged(is_melanoma, noisy(is_melanoma), patients)
    of_all = {"log_loss", "brier_score", "mean_probability"}
    assert set(found.estimates) - without_interval(found.estimates) == kept | of_all


def test_classes_parted_perfectly_have_exact_bounds_counted_in_patients():
    # 4 images a patient: 10 patients with melanomas, 30 with benign images.
    is_melanoma = np.repeat([1, 0], [40, 120])
    found = judged(is_melanoma, 0.1 + 0.8 * is_melanoma, np.arange(160) // 4).estimates
    assert found["auroc"] == pytest.approx((1, 0.025 ** (1 / 10), 1))
    assert found["sensitivity"] == pytest.approx((1, 0.025 ** (1 / 10), 1))
    assert found["specificity"] == pytest.approx((1, 0.025 ** (1 / 30), 1))
    assert found["average_precision"] == pytest.approx((1, math.nan, math.nan), nan_ok=True)
    assert all(low != high for _, low, high in found.values())


def test_pairs_of_an_auroc_have_no_patient_in_common():
    # Each of 11 patients has both classes: 5 pairs, and one patient is left.
    assert estimate("auroc", 0.0, 0 * ALIKE, Patients(11, 11, 11)) == pytest.approx(
        (0, 0, 1 - 0.025 ** (1 / 5))
    )


def test_rate_of_0_or_1_keeps_draws_that_reach_further():
    patients = Patients(1000, 500, 500)
    name = "sensitivity_at_specificity_90"
    assert estimate(name, 1.0, SPREAD, patients)[1:] == (0.404, 1)
    assert estimate(name, 1.0, ALIKE, patients)[1:] == (pytest.approx(0.025 ** (1 / 500)), 1)
    assert estimate(name, 0.9, SPREAD, patients)[1:] == percentile_interval(SPREAD)


def test_subgroup_counts_its_own_patients():
    is_melanoma = np.array([1, 0] * 40)
    sex = np.repeat(["male", "female"], 40)
    patients = np.where(sex == "male", "a", np.arange(80).astype(str))
    found = judged(is_melanoma, noisy(is_melanoma), patients, sex=sex)
    female, male = found.groups["sex"]
    assert without_interval(male.estimates) == set(male.estimates)
    assert female.estimates["auroc"].low < female.estimates["auroc"].high


def test_figure_of_one_patient_names_no_nan():
    is_melanoma = [1, 0] * 20
    figure = roc_figure([judged(is_melanoma, noisy(is_melanoma), ["a"] * 40)])
    title = figure.texts[0].get_text()
    assert title.startswith("AUROC 0.")
    assert "nan" not in title
