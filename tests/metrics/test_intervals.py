import math

import numpy as np
import pytest
from hypothesis import assume, given
from metrics_rows import rows_of_both_classes

from lightning_melanoma import metrics as ours


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


def test_interval_needs_two_of_each_class():
    assert all(map(math.isnan, ours.auroc_interval([0, 1, 0], [1, 2, 3])))
    assert all(map(math.isnan, ours.auroc_interval([1, 0, 1], [1, 2, 3])))


def test_percentiles_leave_undefined_draws_out():
    draws = np.append(np.arange(101.0), [np.nan] * 50)
    # Ranks 2.5 and 97.5 of 0 to 100, of which the closest draw is taken.
    assert ours.percentile_interval(draws) == pytest.approx((2.5, 97.5), abs=1)
    assert all(map(math.isnan, ours.percentile_interval(np.array([1.0, np.nan]))))


def test_draws_without_a_spread_have_no_interval():
    assert all(map(math.isnan, ours.percentile_interval(np.ones(100))))
    # The sums of a draw round as its weights do.
    assert all(map(math.isnan, ours.percentile_interval(0.2 + 1e-16 * np.arange(100))))
    assert all(map(math.isnan, ours.percentile_interval(np.full(100, np.inf))))


def test_unanimous_trials_have_the_interval_of_clopper_and_pearson():
    # Beta quantiles of 10 of 10, as scipy.stats.beta.ppf(0.025, 10, 1) has them.
    assert ours.unanimous_interval(1.0, 10) == pytest.approx((0.6915029, 1), abs=1e-7)
    assert ours.unanimous_interval(0.0, 10) == pytest.approx((0, 0.3084971), abs=1e-7)


def test_percentiles_may_be_infinite():
    low, high = ours.percentile_interval(np.array([1.0, 2.0, 3.0, np.inf, np.inf]))
    assert low == 1
    assert high == math.inf
