import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_rows import TOLERANCE, rows_of_both_classes
from sklearn import metrics as theirs

from lightning_melanoma import metrics as ours


@given(rows=rows_of_both_classes(), threshold=st.floats(-3, 3))
def test_rates_equal_scikit_learn(rows, threshold):
    targets, scores = rows
    decisions = scores >= threshold
    assert ours.sensitivity(targets, decisions) == theirs.recall_score(targets, decisions)
    assert ours.specificity(targets, decisions) == theirs.recall_score(1 - targets, ~decisions)


@given(rows=rows_of_both_classes(), threshold=st.floats(-3, 3))
def test_number_needed_to_excise_is_the_inverse_of_scikit_learns_precision(rows, threshold):
    targets, scores = rows
    decisions = scores >= threshold
    number = ours.number_needed_to_excise(targets, decisions)
    if not decisions.any():
        assert math.isnan(number)
    else:
        precision = theirs.precision_score(targets, decisions)
        assert number == (pytest.approx(1 / precision, abs=TOLERANCE) if precision else math.inf)


def test_net_benefit_equals_the_example_of_vickers():
    # Vickers, van Calster and Steyerberg, "A simple, step-by-step guide to interpreting decision
    # curve analysis" (Diagnostic and Prognostic Research 3, 2019): at 10 %, 19.4 % true positives
    # and 6.1 % false ones make 0.194 - 0.061 / 9.
    targets, decisions = np.zeros(1000), np.zeros(1000)
    decisions[:255], targets[:194] = 1, 1
    benefit = ours.net_benefit(targets, decisions, threshold=0.1)
    assert benefit == pytest.approx(0.194 - 0.061 / 9, abs=TOLERANCE)


@given(rows=rows_of_both_classes(), threshold=st.floats(0.01, 0.99))
def test_net_benefit_is_that_of_the_confusion_matrix(rows, threshold):
    targets, scores = rows
    decisions = 1 / (1 + np.exp(-scores)) >= threshold
    _, false, _, true = theirs.confusion_matrix(targets, decisions, labels=[0, 1]).ravel()
    expected = (true - false * threshold / (1 - threshold)) / len(targets)
    benefit = ours.net_benefit(targets, decisions, threshold=threshold)
    assert benefit == pytest.approx(expected, abs=1e-9)


def test_calling_nothing_has_no_benefit_and_an_impossible_threshold_raises():
    assert ours.net_benefit([0, 1], [0, 0], threshold=0.5) == 0
    with pytest.raises(ValueError, match=r"threshold: expected a probability in \[0, 1\), found 1"):
        ours.net_benefit([0, 1], [0, 0], threshold=1)


def test_decisions_are_checked_too():
    with pytest.raises(ValueError, match=r"decisions: expected 0 or 1, found 0\.5"):
        ours.sensitivity([0, 1], [0.5, 1])
    with pytest.raises(ValueError, match="decisions: expected shape"):
        ours.specificity([0, 1], [1])
    with pytest.raises(ValueError, match="decisions: expected shape"):
        ours.number_needed_to_excise([0, 1], [1])
