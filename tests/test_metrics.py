import math
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as theirs

from lightning_melanoma import metrics as ours

# Both sides sum the same float64 terms, at most in another order.
TOLERANCE = 1e-12


@st.composite
def rows_of_both_classes(draw):
    """Targets and scores, at random distinct or heavily tied."""
    num_rows = draw(st.integers(2, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    targets = generator.permutation(np.r_[0, 1, generator.integers(0, 2, num_rows - 2)])
    num_levels = draw(st.sampled_from([1, 2, 5, 10**6]))
    scores = np.round(generator.normal(targets, 2) * num_levels) / num_levels
    return targets, scores


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


@given(rows=rows_of_both_classes())
def test_log_loss_equals_scikit_learn(rows):
    targets, logits = rows
    their = theirs.log_loss(targets, 1 / (1 + np.exp(-logits)), labels=[0, 1])
    assert ours.log_loss(targets, logits) == pytest.approx(their, abs=TOLERANCE)


@given(rows=rows_of_both_classes(), threshold=st.floats(-3, 3))
def test_rates_equal_scikit_learn(rows, threshold):
    targets, scores = rows
    decisions = scores >= threshold
    assert ours.sensitivity(targets, decisions) == theirs.recall_score(targets, decisions)
    assert ours.specificity(targets, decisions) == theirs.recall_score(1 - targets, ~decisions)


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


def test_log_loss_neither_overflows_nor_saturates():
    # float64 has 1 - p = 0 from a logit of 37 on; the loss goes on growing with the logit.
    assert ours.log_loss([0, 1], [50, -1000]) == pytest.approx(525, abs=TOLERANCE)
    assert ours.log_loss([1], [50]) == pytest.approx(math.exp(-50), rel=TOLERANCE)


@given(rows=rows_of_both_classes())
def test_interval_is_delong_of_all_pairs_on_the_logit_scale(rows):
    targets, scores = rows
    positives, negatives = scores[targets == 1], scores[targets == 0]
    area = ours.auroc(targets, scores)
    assume(min(len(positives), len(negatives)) >= 2 and 0 < area < 1)
    # DeLong 1988, equations 4 to 6, from the matrix of pairs.
    wins = (np.sign(positives[:, None] - negatives) + 1) / 2
    variance = wins.mean(1).var(ddof=1) / len(positives) + wins.mean(0).var(ddof=1) / len(negatives)
    # 1.959963984540054 standard deviations hold the middle 95 % of a normal distribution.
    margin = 1.959963984540054 * math.sqrt(variance) / (area * (1 - area))
    expected = 1 / (1 + (1 - area) / area * np.exp([margin, -margin]))
    assert ours.auroc_interval(targets, scores) == pytest.approx(expected, abs=1e-9)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    # Normal scores one standard deviation apart: AUROC = Phi(1 / sqrt(2)).
    truth = 0.5 * (1 + math.erf(0.5))
    targets = np.repeat([1, 0], [30, 300])
    covered = 0
    for _ in range(300):
        low, high = ours.auroc_interval(targets, generator.normal(targets))
        covered += low <= truth <= high
    # 4 standard errors of a binomial share of 300 around 285.
    assert 270 <= covered <= 300


def test_interval_of_classes_parted_perfectly_is_not_a_point():
    targets = np.repeat([0, 1], [50, 10])
    # 10 pairs without a miss: 0.025 ** 0.1, as Clopper and Pearson have it.
    assert ours.auroc_interval(targets, targets) == pytest.approx((0.025**0.1, 1))
    assert ours.auroc_interval(targets, -targets) == pytest.approx((0, 1 - 0.025**0.1))


def test_interval_narrows_as_the_level_falls():
    rows = [0, 0, 1, 0, 1, 1], [1, 2, 3, 4, 5, 6]
    low, high = ours.auroc_interval(*rows, level=0.5)
    wide_low, wide_high = ours.auroc_interval(*rows, level=0.99)
    assert 0 <= wide_low < low < high < wide_high <= 1
    with pytest.raises(ValueError, match="level: expected a coverage between 0 and 1, found 95"):
        ours.auroc_interval(*rows, level=95)


@pytest.mark.parametrize("target", [0, 1])
def test_one_class_has_no_auroc(target):
    rows = [target] * 3, [1.0, 2.0, 2.0]
    assert math.isnan(ours.auroc(*rows))
    assert all(map(math.isnan, ours.auroc_interval(*rows)))
    assert math.isnan(ours.sensitivity(*rows[:1], [True] * 3)) == (target == 0)
    assert math.isnan(ours.specificity(*rows[:1], [True] * 3)) == (target == 1)
    assert math.isnan(ours.average_precision(*rows)) == (target == 0)
    false_positive_rate, true_positive_rate, _ = ours.roc_curve(*rows)
    assert np.isnan(false_positive_rate).all() == (target == 1)
    assert np.isnan(true_positive_rate).all() == (target == 0)


def test_interval_needs_two_of_each_class():
    assert all(map(math.isnan, ours.auroc_interval([0, 1, 0], [1, 2, 3])))
    assert all(map(math.isnan, ours.auroc_interval([1, 0, 1], [1, 2, 3])))


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


def test_decisions_are_checked_too():
    with pytest.raises(ValueError, match=r"decisions: expected 0 or 1, found 0\.5"):
        ours.sensitivity([0, 1], [0.5, 1])
    with pytest.raises(ValueError, match="decisions: expected shape"):
        ours.specificity([0, 1], [1])
