import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from lightning_melanoma.decisions.venn_abers import VennAbers


def by_definition(targets, scores, score):
    """Fit isotonic regression anew with the score added once as benign, once as melanoma."""
    return tuple(
        IsotonicRegression().fit([*scores, score], [*targets, added]).predict([score])[0]
        for added in (0.0, 1.0)
    )


@given(num_rows=st.integers(1, 60), num_levels=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_intervals_are_those_of_isotonic_regressions(num_rows, num_levels, seed):
    generator = np.random.default_rng(seed)
    # Few levels, so that many are tied; the new scores lie on, between and beyond them.
    scores = generator.integers(0, num_levels, num_rows).astype(float)
    targets = generator.random(num_rows) < generator.random() * (1 + scores) / num_levels
    new = np.arange(-0.5, num_levels + 0.5, 0.5)
    lower, upper = VennAbers(targets, scores).interval(new)
    expected = np.array([by_definition(targets, scores, score) for score in new])
    # float64 sums of at most 61 zeros and ones.
    assert lower == pytest.approx(expected[:, 0], abs=1e-9)
    assert upper == pytest.approx(expected[:, 1], abs=1e-9)


def test_a_worked_example_by_hand():
    # At 2 come 1 and the added target, then the 0 at 3, which isotonic regression pools with them.
    lower, upper = VennAbers([0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]).interval([2.0])
    assert upper == pytest.approx([2 / 3])
    assert lower == pytest.approx([1 / 3])


def test_an_interval_covers_the_truth_and_shrinks_with_the_calibration_set():
    generator = np.random.default_rng(0)
    new = np.linspace(-2, 2, 41)
    widths = []
    for num_rows in (200, 5000):
        scores = generator.normal(size=num_rows)
        targets = generator.random(num_rows) < 1 / (1 + np.exp(-scores))
        lower, upper = VennAbers(targets, scores).interval(new)
        widths.append((upper - lower).mean())
        assert (lower <= upper).all()
        assert (np.diff(lower) >= 0).all()
        assert (np.diff(upper) >= 0).all()
    assert widths[1] < widths[0] / 3


def test_one_of_the_two_probabilities_is_calibrated_whatever_the_scores():
    # The theorem: the one of p0 and p1 that belongs to the true class means what it says.
    generator = np.random.default_rng(1)
    said, happened = [], []
    for _ in range(2000):
        scores = generator.exponential(size=31)
        targets = generator.random(31) < 1 - np.exp(-(scores**2))
        lower, upper = VennAbers(targets[:-1], scores[:-1]).interval(scores[-1:])
        said.append(upper[0] if targets[-1] else lower[0])
        happened.append(targets[-1])
    difference = np.array(said) - np.array(happened)
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


def test_a_calibration_set_without_rows_raises():
    with pytest.raises(ValueError, match="scores: expected a calibration set, found no row"):
        VennAbers([], [])
