import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_rows import rows_of_both_classes

from lightning_melanoma import metrics as ours

PLAIN = {
    "auroc": ours.auroc,
    "average_precision": ours.average_precision,
    "partial_auc": ours.partial_auc,
    "sensitivity_at_specificity_90": lambda t, s: ours.sensitivity_at_specificity(
        t, s, specificity=0.9
    ),
    "sensitivity_at_specificity_95": lambda t, s: ours.sensitivity_at_specificity(
        t, s, specificity=0.95
    ),
    "specificity_at_sensitivity_90": lambda t, s: ours.specificity_at_sensitivity(
        t, s, sensitivity=0.9
    ),
    "specificity_at_sensitivity_95": lambda t, s: ours.specificity_at_sensitivity(
        t, s, sensitivity=0.95
    ),
}
THRESHOLD = 0.4
OF_DECISIONS = {
    "sensitivity": ours.sensitivity,
    "specificity": ours.specificity,
    "number_needed_to_excise": ours.number_needed_to_excise,
    "net_benefit": lambda t, d: ours.net_benefit(t, d, threshold=THRESHOLD),
}


@given(rows=rows_of_both_classes(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_draws_are_the_metrics_of_rows_taken_several_times(rows, seed):
    targets, logits = rows
    generator = np.random.default_rng(seed)
    clusters = ours.cluster_codes(generator.integers(0, 1 + len(targets) // 2, len(targets)))
    weights = generator.multinomial(
        clusters.max() + 1, [1 / (clusters.max() + 1)] * (clusters.max() + 1), 3
    )
    probabilities = 1 / (1 + np.exp(-logits))
    drawn = ours.ranking_statistic(targets, logits, clusters)(weights.astype(float))
    drawn |= ours.probability_statistic(
        targets, probabilities, clusters, num_clusters=clusters.max() + 1, threshold=THRESHOLD
    )(weights.astype(float))
    drawn |= ours.line_statistic(targets, logits, clusters)(weights.astype(float))
    for draw, of_clusters in enumerate(weights):
        taken = np.repeat(np.arange(len(targets)), of_clusters[clusters])
        expected = {name: plain(targets[taken], logits[taken]) for name, plain in PLAIN.items()}
        called = probabilities[taken] >= THRESHOLD
        expected |= {name: plain(targets[taken], called) for name, plain in OF_DECISIONS.items()}
        expected["log_loss"] = ours.log_loss(targets[taken], logits[taken])
        expected["brier_score"] = ours.brier_score(targets[taken], probabilities[taken])
        for name, value in expected.items():
            assert drawn[name][draw] == pytest.approx(value, abs=1e-9, nan_ok=True), name


@given(rows=rows_of_both_classes())
@settings(deadline=None)
def test_calibration_line_of_a_draw_of_everyone_is_the_samples(rows):
    targets, logits = rows
    clusters, weights = np.arange(len(targets)), np.ones((1, len(targets)))
    line = ours.line_statistic(targets, logits, clusters)(weights)
    intercept, slope = ours.calibration_line(targets, logits)
    if not math.isnan(slope):
        # Rows closer than 1/256 of the range count as one place.
        assert line["calibration_slope"][0] == pytest.approx(slope, rel=1e-3)
        assert line["calibration_intercept"][0] == pytest.approx(intercept, rel=1e-3, abs=1e-3)


def patients(generator, num_patients, *, images_each=8, patient_share=0.8):
    """Targets, logits and patients, whose images are alike."""
    of_patient = np.repeat(np.arange(num_patients), images_each)
    shared = generator.normal(size=(num_patients, 2))[of_patient]
    own = generator.normal(size=(len(of_patient), 2))
    risk, view = (math.sqrt(patient_share) * shared + math.sqrt(1 - patient_share) * own).T
    targets = (risk > 0.5).astype(int)
    return targets, risk + 1.5 * view, of_patient


def test_auroc_of_draws_is_the_quadratic_form_of_the_win_matrix():
    generator = np.random.default_rng(0)
    targets, logits, clusters = patients(generator, 20)
    logits = np.round(logits, 1)
    num_clusters = clusters.max() + 1
    wins = (np.sign(logits[:, None] - logits) + 1) / 2 * np.outer(targets, 1 - targets)
    by_cluster = np.eye(num_clusters)[clusters]
    matrix = by_cluster.T @ wins @ by_cluster
    weights = generator.multinomial(num_clusters, [1 / num_clusters] * num_clusters, 50) * 1.0
    positives, negatives = weights @ by_cluster.T @ targets, weights @ by_cluster.T @ (1 - targets)
    expected = ((weights @ matrix) * weights).sum(1) / (positives * negatives)
    drawn = ours.ranking_statistic(targets, logits, clusters)(weights)["auroc"]
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-12)


def auroc_interval_by(targets, logits, clusters, *, seed=0):
    statistic = ours.ranking_statistic(targets, logits, clusters)
    draws = ours.bootstrap({"all": statistic}, clusters.max() + 1, num_rows=len(targets), seed=seed)
    return ours.percentile_interval(draws["all"]["auroc"])


def test_interval_over_patients_is_wider_than_over_images():
    targets, logits, of_patient = patients(np.random.default_rng(0), 100)
    low, high = auroc_interval_by(targets, logits, of_patient)
    image_low, image_high = auroc_interval_by(targets, logits, np.arange(len(targets)))
    # 8 images of a patient with 0.8 of the variance in common are worth about 1.2 images.
    assert high - low > 1.5 * (image_high - image_low)


@pytest.mark.slow
def test_interval_over_patients_covers_the_truth_as_often_as_it_says():
    # One value of all: 2 million images of as many patients.
    targets, logits, _ = patients(np.random.default_rng(1), 2_000_000, images_each=1)
    truth = ours.auroc(targets, logits)
    generator = np.random.default_rng(2)
    covered = 0
    for simulation in range(300):
        targets, logits, of_patient = patients(generator, 80, images_each=4)
        low, high = auroc_interval_by(targets, logits, of_patient, seed=simulation)
        covered += low <= truth <= high
    # Of 300 at 95 %, 285 +- 15, or 4 standard errors, but never all.
    assert 270 <= covered <= 297


def test_draws_depend_on_the_seed_and_on_nothing_else():
    targets, logits, of_patient = patients(np.random.default_rng(0), 30)
    statistics = {"all": ours.ranking_statistic(targets, logits, of_patient)}
    one = ours.bootstrap(statistics, 30, num_rows=240, num_draws=50)["all"]["auroc"]
    # So many rows that each draw is a block of its own.
    other = ours.bootstrap(statistics, 30, num_rows=10**7, num_draws=50)["all"]["auroc"]
    np.testing.assert_array_equal(one, other)
    assert (
        ours.bootstrap(statistics, 30, num_rows=240, num_draws=50, seed=1)["all"]["auroc"] != one
    ).any()


def test_rows_without_a_name_are_clusters_of_their_own():
    assert ours.cluster_codes(["b", None, "a", "b", None]).tolist() == [0, 2, 1, 0, 3]
    assert ours.cluster_codes([None, None]).tolist() == [0, 1]
