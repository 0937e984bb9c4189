import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from metrics_rows import TOLERANCE, rows_of_both_classes
from scipy.stats import rankdata
from sklearn import metrics as theirs
from sklearn.linear_model import LogisticRegression

from lightning_melanoma import metrics as ours


@given(rows=rows_of_both_classes())
def test_log_loss_equals_scikit_learn(rows):
    targets, logits = rows
    their = theirs.log_loss(targets, 1 / (1 + np.exp(-logits)), labels=[0, 1])
    assert ours.log_loss(targets, logits) == pytest.approx(their, abs=TOLERANCE)


def test_log_loss_neither_overflows_nor_saturates():
    # float64 has 1 - p = 0 from a logit of 37 on; the loss goes on growing with the logit.
    assert ours.log_loss([0, 1], [50, -1000]) == pytest.approx(525, abs=TOLERANCE)
    assert ours.log_loss([1], [50]) == pytest.approx(math.exp(-50), rel=TOLERANCE)


@given(rows=rows_of_both_classes())
def test_brier_score_equals_scikit_learn(rows):
    targets, logits = rows
    probabilities = 1 / (1 + np.exp(-logits))
    their = theirs.brier_score_loss(targets, probabilities)
    assert ours.brier_score(targets, probabilities) == pytest.approx(their, abs=TOLERANCE)


@given(rows=rows_of_both_classes())
def test_log_loss_of_log_odds_equals_scikit_learns_of_probabilities_of_0_and_1(rows):
    targets, scores = rows
    probabilities = np.clip(0.5 + scores / 4, 0, 1)
    their = theirs.log_loss(targets, probabilities, labels=[0, 1])
    assert ours.log_loss(targets, ours.log_odds(probabilities)) == pytest.approx(their, abs=1e-9)


@given(rows=rows_of_both_classes(), num_bins=st.integers(1, 20))
def test_calibration_error_equals_a_loop_over_bins_of_mid_ranks(rows, num_bins):
    targets, logits = rows
    probabilities = 1 / (1 + np.exp(-logits))
    bins = np.floor((rankdata(probabilities) - 0.5) * num_bins / len(targets) + 1e-9)
    expected = 0.0
    for number in set(bins):
        inside = bins == number
        gap = abs(probabilities[inside].mean() - targets[inside].mean())
        expected += inside.mean() * gap
    error = ours.calibration_error(targets, probabilities, num_bins=num_bins)
    assert error == pytest.approx(expected, abs=1e-9)


def test_bins_of_distinct_values_are_of_equal_count():
    bins = ours.equal_count_bins(np.random.default_rng(0).random(33_126), 15)
    assert sorted(set(np.bincount(bins))) == [33_126 // 15, 33_126 // 15 + 1]


def test_calibration_error_of_a_worked_example():
    # Two bins of three: |0.2 - 1/3| and |0.8 - 2/3|, each 2/15.
    targets = [0, 0, 1, 1, 1, 0]
    probabilities = [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]
    error = ours.calibration_error(targets, probabilities, num_bins=2)
    assert error == pytest.approx(2 / 15, abs=TOLERANCE)


def is_parted(targets, scores):
    positives, negatives = scores[targets == 1], scores[targets == 0]
    return positives.min() >= negatives.max() or positives.max() <= negatives.min()


# Where the optimum is where scikit-learn begins, its line search finds nothing better and says so.
@pytest.mark.filterwarnings("ignore:Line search:sklearn.exceptions.ConvergenceWarning")
@given(rows=rows_of_both_classes())
@example(
    rows=(
        np.array([1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0]),
        np.array([2.0, 0, 4, 1, -1, 1, -2, 2, -2, 1, -4, 2]),
    )
)
def test_calibration_line_equals_scikit_learn(rows):
    targets, logits = rows
    assume(not is_parted(targets, logits))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    model.fit(logits[:, None], targets)
    line = ours.calibration_line(targets, logits)
    # scikit-learn's may stop a step early where the slope is steep.
    assert line == pytest.approx((model.intercept_[0], model.coef_[0, 0]), rel=1e-6, abs=1e-9)
    # What tells the maximum, to rounding: both residual sums are 0.
    residuals = targets - 1 / (1 + np.exp(-(line[0] + line[1] * logits)))
    assert residuals.sum() == pytest.approx(0, abs=1e-9)
    assert residuals @ logits == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("outlier", [0, 1e3])
def test_calibration_line_recovers_what_it_was_drawn_with(outlier):
    generator = np.random.default_rng(0)
    logits = generator.normal(-4, 2, 100_000)
    targets = generator.random(100_000) < 1 / (1 + np.exp(-(0.5 + 0.8 * logits)))
    # A far benign row that is called so must not keep the rest from being fitted.
    line = ours.calibration_line(np.append(targets, False), np.append(logits, -outlier))
    assert line == pytest.approx((0.5, 0.8), abs=0.1)


def test_classes_parted_perfectly_or_alone_have_no_line():
    for rows in (([0, 0, 1], [1, 2, 3]), ([1, 0], [1, 2]), ([0, 0], [1, 2]), ([0, 1], [1, 1])):
        assert all(map(math.isnan, ours.calibration_line(*rows)))


def test_log_odds_of_0_and_1_are_finite():
    assert ours.log_odds([0, 0.5, 1]) == pytest.approx([-52 * math.log(2), 0, 52 * math.log(2)])


def test_no_row_has_no_calibration():
    for metric in (ours.brier_score, ours.calibration_error):
        assert math.isnan(metric([], []))
