import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_rows import TOLERANCE, rows_of_both_classes
from sklearn import metrics as theirs

from lightning_melanoma import metrics as ours


@given(rows=rows_of_both_classes())
def test_areas_equal_scikit_learn(rows):
    targets, scores = rows
    assert ours.auroc(targets, scores) == pytest.approx(
        theirs.roc_auc_score(targets, scores), abs=TOLERANCE
    )
    assert ours.average_precision(targets, scores) == pytest.approx(
        theirs.average_precision_score(targets, scores), abs=TOLERANCE
    )


@given(rows=rows_of_both_classes())
def test_roc_curve_equals_scikit_learn(rows):
    for our, their in zip(
        ours.roc_curve(*rows), theirs.roc_curve(*rows, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(our, their, rtol=0, atol=TOLERANCE)


@given(rows=rows_of_both_classes())
def test_precision_recall_curve_equals_scikit_learn(rows):
    for our, their in zip(
        ours.precision_recall_curve(*rows), theirs.precision_recall_curve(*rows), strict=True
    ):
        np.testing.assert_allclose(our, their, rtol=0, atol=TOLERANCE)


@given(rows=rows_of_both_classes(), min_sensitivity=st.sampled_from([0, 0.5, 0.8, 0.95]))
def test_partial_auc_equals_scikit_learns_of_the_mirrored_curve(rows, min_sensitivity):
    targets, scores = rows
    # The measure of ISIC 2024 turns classes and scores round, and McClish's scaling back.
    largest = 1 - min_sensitivity
    scaled = theirs.roc_auc_score(1 - targets, -scores, max_fpr=largest)
    if largest < 1:
        least = largest**2 / 2
        scaled = least + (largest - least) * (2 * scaled - 1)
    area = ours.partial_auc(targets, scores, min_sensitivity=min_sensitivity)
    assert area == pytest.approx(scaled, abs=1e-9)


def test_partial_auc_of_a_guess_is_half_the_square():
    # The triangle above the line: 0.2 ** 2 / 2.
    assert ours.partial_auc([0, 1], [1, 1]) == pytest.approx(0.02)
    assert ours.partial_auc([0, 1], [1, 2]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"min_sensitivity: expected a share in \[0, 1\), found 1"):
        ours.partial_auc([0, 1], [1, 1], min_sensitivity=1)


@given(rows=rows_of_both_classes(), percent=st.sampled_from([0, 50, 90, 95, 100]))
def test_rates_at_a_required_rate_are_the_best_on_scikit_learns_curve(rows, percent):
    targets, scores = rows
    false, true, _ = theirs.roc_curve(*rows, drop_intermediate=False)
    # In integers, so that no rate falls short of the required one by rounding.
    kept = np.rint((1 - false) * sum(targets == 0)) * 100 >= percent * sum(targets == 0)
    found = np.rint(true * sum(targets)) * 100 >= percent * sum(targets)
    assert ours.sensitivity_at_specificity(
        targets, scores, specificity=percent / 100
    ) == pytest.approx(true[kept].max(), abs=TOLERANCE)
    assert ours.specificity_at_sensitivity(
        targets, scores, sensitivity=percent / 100
    ) == pytest.approx((1 - false)[found].max(), abs=TOLERANCE)


def test_auroc_is_the_area_under_the_trapezoids_of_the_curve_on_a_million_rows():
    generator = np.random.default_rng(0)
    # The official training set's prevalence, in float32 as a model gives it.
    targets = (generator.random(1_000_000) < 584 / 33_126).astype(np.float32)
    scores = generator.normal(targets).astype(np.float32)
    false_positive_rate, true_positive_rate, _ = ours.roc_curve(targets, scores)
    heights = (true_positive_rate[1:] + true_positive_rate[:-1]) / 2
    area = np.sum(np.diff(false_positive_rate) * heights)
    assert ours.auroc(targets, scores) == pytest.approx(area, abs=TOLERANCE)
    low, high = ours.auroc_interval(targets, scores)
    assert low < ours.auroc(targets, scores) < high


@pytest.mark.parametrize("target", [0, 1])
def test_one_class_has_no_auroc(target):
    rows = [target] * 3, [1.0, 2.0, 2.0]
    assert math.isnan(ours.auroc(*rows))
    assert all(map(math.isnan, ours.auroc_interval(*rows)))
    assert math.isnan(ours.partial_auc(*rows))
    assert math.isnan(ours.sensitivity_at_specificity(*rows, specificity=0.9))
    assert math.isnan(ours.specificity_at_sensitivity(*rows, sensitivity=0.9))
    assert math.isnan(ours.sensitivity(*rows[:1], [True] * 3)) == (target == 0)
    assert math.isnan(ours.specificity(*rows[:1], [True] * 3)) == (target == 1)
    assert math.isnan(ours.average_precision(*rows)) == (target == 0)
    false_positive_rate, true_positive_rate, _ = ours.roc_curve(*rows)
    assert np.isnan(false_positive_rate).all() == (target == 1)
    assert np.isnan(true_positive_rate).all() == (target == 0)


def test_no_row_has_no_metric():
    for metric in (ours.auroc, ours.average_precision, ours.log_loss, ours.sensitivity):
        assert math.isnan(metric([], []))


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        ([0, 1], [1.0], "scores: expected shape (2,), one per target, found (1,)"),
        ([0, 2], [1.0, 2.0], "targets: expected 0 or 1, found 2 (1 rows in all)"),
        ([0, math.nan], [1.0, 2.0], "targets: expected 0 or 1, found nan (1 rows in all)"),
        ([0, 1], [1.0, math.inf], "scores: expected finite numbers, found 1 NaN or infinite"),
        ([[0], [1]], [1.0, 2.0], "targets: expected one axis of rows, found shape (2, 1)"),
    ],
)
def test_unusable_rows_raise_one_line(targets, scores, message):
    for metric in (ours.auroc, ours.average_precision, ours.roc_curve, ours.auroc_interval):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            metric(targets, scores)
