import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.decisions.calibration import (
    CalibrationLine,
    cross_fitted,
    fit_calibration,
    to_prevalence,
)
from lightning_melanoma.decisions.prior import prior_shift
from lightning_melanoma.metrics import auroc, calibration_line, log_loss

NUM_ROWS = 100_000
# The class weights that `balanced` gives at the prevalence of SIIM-ISIC 2020, 1.76 %.
WEIGHTS = (0.509, 28.4)


def sigmoid(odds):
    return 1 / (1 + np.exp(-odds))


def simulated(seed=0, *, temperature=1.0):
    """Targets drawn by their true log-odds, and the logits of a weighted, overconfident model."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(-5, 2, NUM_ROWS)
    targets = (generator.random(NUM_ROWS) < sigmoid(odds)).astype(int)
    return targets, odds, (odds + prior_shift(WEIGHTS)) * temperature


def assert_calibrated(targets, odds):
    probabilities = sigmoid(odds)
    # Of the mean of independent draws by these probabilities.
    error = math.sqrt((probabilities * (1 - probabilities)).sum()) / len(targets)
    assert abs(probabilities.mean() - targets.mean()) < 4 * error
    intercept, slope = calibration_line(targets, odds)
    assert 0.9 < slope < 1.1
    assert abs(intercept) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_undoing_known_weights_calibrates(seed):
    targets, _, logits = simulated(seed)
    assert sigmoid(logits).mean() > 3 * targets.mean()
    corrected = logits - prior_shift(WEIGHTS)
    assert_calibrated(targets, corrected)
    assert auroc(targets, corrected) == pytest.approx(auroc(targets, logits), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.5, 1, 3])
def test_fitted_line_calibrates_other_rows_and_keeps_their_order(seed, temperature):
    targets, _, logits = simulated(seed, temperature=temperature)
    line = fit_calibration(*simulated(seed + 100, temperature=temperature)[::2])
    assert line.temperature == pytest.approx(temperature, rel=0.05)
    # The line was fitted on as many rows: its own error adds to that of the mean.
    intercept, slope = calibration_line(targets, line.apply(logits))
    assert 0.9 < slope < 1.1
    assert abs(intercept) < 0.15
    assert auroc(targets, line.apply(logits)) == pytest.approx(auroc(targets, logits), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_cross_fitted_log_odds_are_calibrated(seed):
    targets, odds, logits = simulated(seed, temperature=2)
    patients = np.random.default_rng(seed).integers(0, 6000, NUM_ROWS)
    fitted = cross_fitted(targets, logits, patients)
    assert_calibrated(targets, fitted)
    # Nearly as good as the truth, in nats an image.
    assert log_loss(targets, fitted) == pytest.approx(log_loss(targets, odds), abs=1e-4)


def test_the_fit_is_the_maximum_and_so_calibrates_its_own_rows_exactly():
    targets, _, logits = simulated(temperature=2)
    fitted = fit_calibration(targets, logits).apply(logits)
    assert calibration_line(targets, fitted) == pytest.approx((0, 1), abs=1e-9)
    assert sigmoid(fitted).mean() == pytest.approx(targets.mean(), abs=1e-12)


def test_the_targets_of_a_patient_do_not_touch_its_own_log_odds():
    targets, _, logits = (values[:2000] for values in simulated(temperature=2))
    patients = np.arange(2000) // 4
    # The first image of a patient with melanoma changes: the dealing stays the same.
    patient = patients[np.flatnonzero(targets)[0]]
    own = patients == patient
    changed = targets.copy()
    changed[own] = 1
    before, after = (cross_fitted(t, logits, patients) for t in (targets, changed))
    np.testing.assert_array_equal(before[own], after[own])
    assert (before != after).any()


def test_unusable_rows_raise():
    with pytest.raises(ValueError, match=r"expected melanoma and benign .* found 0 melanomas of 3"):
        fit_calibration([0, 0, 0], [1, 2, 3])
    with pytest.raises(ValueError, match="found 1 melanomas of 3 parted from the rest"):
        fit_calibration([0, 0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match=r"expected melanoma to have the higher logits, .* -"):
        fit_calibration([1, 0, 1, 0], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="at least 5 patients with a melanoma"):
        cross_fitted([0, 1, 0, 1], [1, 2, 3, 4], np.arange(4))


@given(source=st.floats(0.001, 0.999), target=st.floats(0.001, 0.999), odds=st.floats(-20, 20))
def test_prevalence_there_and_back_is_the_identity(source, target, odds):
    there = to_prevalence([odds], source=source, target=target)
    assert to_prevalence(there, source=target, target=source) == pytest.approx([odds], abs=1e-9)


def test_shifted_log_odds_are_calibrated_in_the_other_population():
    targets, odds, _ = simulated()
    # Every benign image is kept with a chance of 1 in 5.
    kept = (targets == 1) | (np.random.default_rng(1).random(NUM_ROWS) < 0.2)
    there = to_prevalence(odds, source=targets.mean(), target=targets[kept].mean())
    assert_calibrated(targets[kept], there[kept])


@pytest.mark.parametrize("share", [0, 1, -0.1, math.nan])
def test_impossible_prevalence_raises(share):
    with pytest.raises(ValueError, match="target: expected a prevalence between 0 and 1, found"):
        to_prevalence([0.0], source=0.5, target=share)


def test_calibration_of_a_plain_tuple_reads_back():
    assert CalibrationLine(*tuple(CalibrationLine(-1.5, 0.5))).apply([0, 2]).tolist() == [
        -1.5,
        -0.5,
    ]
