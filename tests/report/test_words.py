import math

import pytest

from lightning_melanoma.report.estimates import Estimate
from lightning_melanoma.report.words import interval, number, probability


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.8765, 3, "0.876"),
        (-0.004, 2, "0.00"),
        (-1.5, 2, "\N{MINUS SIGN}1.50"),
        (math.nan, 2, "undefined"),
        (math.inf, 1, "unbounded"),
    ],
)
def test_number_is_never_a_false_zero_or_nan(value, digits, text):
    assert number(value, digits) == text


def test_interval_of_nothing_is_empty():
    assert interval(Estimate(1.0, math.nan, math.nan), 2) == ""
    assert interval(Estimate(1.0, 0.5, math.inf), 1) == "0.5 to unbounded"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00066, "0.066 %"), (0.0083, "0.83 %"), (0.5, "50 %"), (0.123456, "12.3 %"), (1.0, "100 %")],
)
def test_small_probabilities_keep_two_digits(value, text):
    assert probability(value) == text
