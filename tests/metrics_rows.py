"""Rows that all tests of metrics are fed with."""

import numpy as np
from hypothesis import strategies as st

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
