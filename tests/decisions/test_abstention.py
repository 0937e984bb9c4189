import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.decisions.abstention import benign_below, lowest_miss_rate


@pytest.mark.parametrize(("num_melanomas", "miss_rate"), [(19, 0.05), (60, 0.05), (150, 0.02)])
def test_no_more_melanomas_are_missed_than_asked(num_melanomas, miss_rate):
    num_draws, num_new = 200, 400
    generator = np.random.default_rng(0)
    missed = []
    for _ in range(num_draws):
        # Calibration and new melanomas are one exchangeable sequence of skewed scores, some tied.
        scores = np.round(generator.gamma(2.0, size=num_melanomas + num_new), 2)
        known, new = scores[:num_melanomas], scores[num_melanomas:]
        targets = np.repeat([1, 0], [num_melanomas, 100])
        threshold = benign_below(targets, [*known, *np.zeros(100)], miss_rate)
        missed.append((new < threshold).mean())
    # The rate of a draw is that of its calibration set, so the draws are the sample.
    error = np.std(missed) / math.sqrt(num_draws)
    assert np.mean(missed) <= miss_rate + 3 * error
    # One melanoma more may be missed than in the rounded-down count: it is not wastefully low.
    assert np.mean(missed) >= miss_rate - lowest_miss_rate(num_melanomas) - 3 * error


@given(num_melanomas=st.integers(1, 200))
def test_the_lowest_rate_is_supported_and_none_below_it(num_melanomas):
    scores = np.arange(float(num_melanomas))
    targets = np.ones(num_melanomas)
    lowest = lowest_miss_rate(num_melanomas)
    assert benign_below(targets, scores, lowest) == 0
    with pytest.raises(ValueError, match=f"the {num_melanomas} melanomas of the calibration set"):
        benign_below(targets, scores, lowest * 0.99)


def test_a_melanoma_of_the_calibration_set_at_the_threshold_is_not_benign():
    # 2 of 40 may be below: (39 + 1) x 0.05.
    scores = np.arange(39.0)
    assert benign_below(np.ones(39), scores, 0.05) == 1


def test_all_may_be_benign_where_all_may_be_missed():
    assert benign_below(np.ones(9), np.arange(9.0), 0.999) == 8


@pytest.mark.parametrize("rate", [0, 1, -0.1, math.nan])
def test_an_impossible_rate_raises(rate):
    with pytest.raises(ValueError, match="miss_rate: expected a share between 0 and 1, found"):
        benign_below([0, 1], [0.1, 0.2], rate)


def test_a_calibration_set_without_a_melanoma_supports_no_rate():
    with pytest.raises(ValueError, match="the 0 melanomas of the calibration set support"):
        benign_below([0, 0], [0.1, 0.2], 0.5)
