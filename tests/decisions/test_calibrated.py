import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.decisions.prior import prior_shift
from lightning_melanoma.metrics import auroc, calibration_line, log_odds
from lightning_melanoma.predictions import probabilities_of

# The class weights that `balanced` gives at the prevalence of SIIM-ISIC 2020, 1.76 %.
SHIFT = prior_shift((0.509, 28.4))


def rows(num_rows=5000, *, temperature=2.0, seed=0):
    """Logits of a weighted, overconfident model, their targets and patients."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(-4, 2, num_rows)
    targets = (generator.random(num_rows) < 1 / (1 + np.exp(-odds))).astype(int)
    logits = ((odds + SHIFT) * temperature).astype(np.float32)
    return logits, targets, np.arange(num_rows) // 3


def prior_only(**changes):
    known = {"prior_shift": SHIFT, "prevalence": 0.02, "image_size": 128, "tta": 1}
    return Calibration(**{**known, **changes})


def test_without_a_line_the_class_weights_alone_are_undone():
    calibration = prior_only()
    assert not calibration.is_fitted
    assert calibration.log_odds([0, SHIFT]).tolist() == [-SHIFT, 0]


@pytest.mark.parametrize("inexact", ["", "focal loss"])
def test_fitted_line_calibrates_its_rows(inexact):
    logits, targets, patients = rows()
    calibration = prior_only(inexact=inexact).fitted(logits, targets, patients)
    assert calibration.is_fitted
    assert calibration_line(targets, calibration.log_odds(logits)) == pytest.approx((0, 1))
    assert calibration.temperature == pytest.approx(2, rel=0.2)
    assert calibration.prevalence == targets.mean()
    # Without an exact correction the line does it all.
    assert calibration.prior_shift == (0 if inexact else SHIFT)
    np.testing.assert_array_equal(calibration.logits, logits)


@pytest.mark.parametrize(
    ("targets", "fault"),
    [
        ([0] * 91 + [1] * 9, "expected at least 10 melanomas .* found 9 melanomas of 100 images"),
        ([0] * 9 + [1] * 91, "expected at least 10 melanomas .* found 91 melanomas of 100 images"),
        ([0] * 50 + [1] * 50, "50 melanomas of 100 parted from the rest"),
        ([1] * 40 + [0] * 60, "parted from the rest"),
        ([1, 0, 1, 1, 0] * 10 + [0] * 50, "expected melanoma to have the higher logits"),
        ([], "found 0 melanomas of 0 images"),
    ],
)
@pytest.mark.parametrize("inexact", ["", "focal loss"])
def test_rows_without_a_line_leave_the_prior_correction_and_say_why(targets, fault, inexact):
    logits = np.arange(len(targets), dtype=np.float32)
    calibration = prior_only(inexact=inexact).fitted(logits, targets, logits)
    assert not calibration.is_fitted
    with pytest.raises(ValueError, match=f"calibration: .*{fault}"):
        raise ValueError(calibration.fault)
    np.testing.assert_array_equal(calibration.log_odds(logits), logits.astype(float) - SHIFT)
    assert calibration.prevalence == 0.02
    assert calibration.targets.tolist() == targets


def test_another_prevalence_moves_the_prior_odds_alone():
    calibration = prior_only().fitted(*rows())
    logits = np.array([-3, 0, 5], np.float32)
    moved = calibration.log_odds(logits, prevalence=0.2) - calibration.log_odds(logits)
    own = calibration.prevalence
    assert moved == pytest.approx([math.log(0.25 * (1 - own) / own)] * 3)
    with pytest.raises(ValueError, match="expected a prevalence between 0 and 1, found 1"):
        calibration.log_odds(logits, prevalence=1)


@given(seed=st.integers(0, 2**32 - 1), prevalence=st.none() | st.floats(0.001, 0.999))
def test_log_odds_never_fall_with_the_logit(seed, prevalence):
    calibration = prior_only().fitted(*rows(500, seed=seed))
    logits = np.sort(np.random.default_rng(seed).normal(0, 1e3, 200).astype(np.float32))
    assert (np.diff(calibration.log_odds(logits, prevalence=prevalence)) >= 0).all()


def test_checkpoint_and_json_give_the_same_calibration_back():
    calibration = prior_only(inexact="mixup").fitted(*rows())
    entry = calibration.to_dict()
    stream = io.BytesIO()
    torch.save(entry, stream)
    stream.seek(0)
    for found in (torch.load(stream, weights_only=True), json.loads(json.dumps(entry))):
        again = Calibration.from_dict(found)
        assert again.to_dict() == entry
        for name in ("logits", "targets", "patients"):
            ours, theirs = getattr(again, name), getattr(calibration, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("temperature", [1, 3])
def test_probabilities_of_a_known_prior_mean_what_they_say_and_rank_as_the_logits(temperature):
    logits, targets, _ = rows(100_000, temperature=temperature)
    fit_rows = rows(100_000, temperature=temperature, seed=1)
    calibration = prior_only() if temperature == 1 else prior_only().fitted(*fit_rows)
    probabilities = probabilities_of(logits, calibration.log_odds(logits))
    raw = probabilities_of(logits)
    assert raw.mean() > 3 * targets.mean()
    # Of a sum of independent draws; a line that was fitted on as many rows adds as much.
    num_samples = 2 if calibration.is_fitted else 1
    error = math.sqrt(num_samples * (probabilities * (1 - probabilities)).sum())
    assert abs(probabilities.sum() - targets.sum()) < 4 * error
    intercept, slope = calibration_line(targets, log_odds(probabilities))
    assert 0.9 < slope < 1.1
    assert abs(intercept) < 0.1
    assert auroc(targets, probabilities) == pytest.approx(auroc(targets, logits), abs=1e-9)
    assert (np.argsort(probabilities) == np.argsort(raw)).all()
