import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.decisions.operating import (
    excisions_at_prevalence,
    threshold_at_sensitivity,
)
from lightning_melanoma.metrics import number_needed_to_excise, sensitivity, specificity


@given(
    num_positives=st.integers(1, 40),
    percent=st.integers(1, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_threshold_is_the_highest_that_finds_enough(num_positives, percent, seed):
    generator = np.random.default_rng(seed)
    targets = np.repeat([1, 0], [num_positives, 20])
    # Of two digits, so that some are tied.
    probabilities = np.round(generator.random(len(targets)), 2)
    threshold = threshold_at_sensitivity(targets, probabilities, percent / 100)
    assert sum(probabilities[targets == 1] >= threshold) * 100 >= percent * num_positives
    assert sum(probabilities[targets == 1] > threshold) * 100 < percent * num_positives


@pytest.mark.parametrize("share", [0, 1.01, -1, math.nan])
def test_impossible_sensitivity_raises(share):
    with pytest.raises(ValueError, match="sensitivity: expected a share above 0 up to 1, found"):
        threshold_at_sensitivity([0, 1], [0.1, 0.2], share)


def test_threshold_needs_a_positive():
    with pytest.raises(ValueError, match="expected a positive to set the threshold by, found none"):
        threshold_at_sensitivity([0, 0], [0.1, 0.2], 0.9)


def test_excisions_at_the_tables_own_prevalence_are_its_own():
    generator = np.random.default_rng(0)
    targets, called = generator.random((2, 1000)) < 0.3
    there = excisions_at_prevalence(
        sensitivity(targets, called), specificity(targets, called), targets.mean()
    )
    assert there == pytest.approx(number_needed_to_excise(targets, called))


def test_excisions_of_bayes_rule():
    # 0.9 x 0.02 found to 0.1 x 0.98 called by mistake.
    assert excisions_at_prevalence(0.9, 0.9, 0.02) == pytest.approx(1 + 0.098 / 0.018)
    assert excisions_at_prevalence(0.0, 0.9, 0.02) == math.inf
    with pytest.raises(ValueError, match="prevalence: expected a share between 0 and 1, found 1"):
        excisions_at_prevalence(0.9, 0.9, 1)
