import logging
import re

import numpy as np
import pandas as pd
import pytest

from lightning_melanoma.callbacks.calibration import (
    fit_to_validation,
    warn_of_doubts,
)
from lightning_melanoma.decisions.calibrated import Calibration


@pytest.fixture
def said(caplog, monkeypatch):
    """What is logged, also behind a test that ran the command line."""
    monkeypatch.setattr(logging.getLogger("lightning_melanoma"), "propagate", True)
    caplog.set_level(logging.INFO, "lightning_melanoma")
    return caplog


def prior(**changes):
    known = {"prior_shift": 2.2, "prevalence": 0.1, "image_size": 32, "tta": 1}
    return Calibration(**{**known, **changes})


def validation(num_rows=3000, *, images_a_patient=3):
    """Rows of a table, and logits that are twice too far from the truth."""
    generator = np.random.default_rng(0)
    odds = generator.normal(-2, 2, num_rows)
    targets = (generator.random(num_rows) < 1 / (1 + np.exp(-odds))).astype(float)
    patients = [f"a/{number // images_a_patient}" for number in range(num_rows)]
    if images_a_patient == 1:
        patients = [""] * num_rows
    return pd.DataFrame({"target": targets, "patient": patients}), np.float32(2 * odds + 2.2)


def test_fit_says_what_it_found_and_what_it_changes_on_other_patients(said):
    table, logits = validation()
    calibration = fit_to_validation(prior(), table, logits)
    first, second = said.messages
    assert first == (
        f"Calibration: offset {calibration.offset:.3f} and temperature "
        f"{calibration.temperature:.3f}, on top of the prior correction of 2.20, fitted on "
        f"3000 validation images ({int(table['target'].sum())} melanomas)"
    )
    number = r"(\d\.\d{4})"
    changes = f"log loss {number} to {number}, calibration error {number} to {number}, slope "
    found = re.fullmatch(
        f"Calibration, cross-fitted over 1000 patients: {changes}{number} to {number}", second
    )
    loss, lower_loss, error, lower_error, slope, right_slope = map(float, found.groups())
    assert lower_loss < loss
    assert lower_error < error / 2
    assert slope == pytest.approx(0.5, abs=0.05)
    assert right_slope == pytest.approx(1, abs=0.05)
    assert len(np.unique(calibration.patients)) == 1000


def test_loss_without_an_exact_correction_is_said(said):
    fit_to_validation(prior(inexact="focal loss and mixed images"), *validation())
    expected = "alone, since there is no exact correction for focal loss and mixed images, fitted"
    assert expected in said.text


def test_images_of_no_known_patient_are_dealt_singly(said):
    fit_to_validation(prior(), *validation(images_a_patient=1))
    assert "cross-fitted over 3000 images" in said.text


def test_too_few_patients_to_cross_fit_are_said(said):
    table, logits = validation(60, images_a_patient=30)
    assert fit_to_validation(prior(), table, logits).is_fitted
    assert "Calibration: not cross-fitted: num_folds: expected at least 5 patients" in said.text


def test_calibration_that_stands_is_no_doubt(said):
    warn_of_doubts(prior(fault=""), image_size=32, tta=1)
    assert not said.messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fault": "too few"}, "too few; probabilities have the prior correction and no more."),
        (
            {"fault": "too few", "inexact": "focal loss"},
            "too few; probabilities have the prior correction and no more, which is not exact "
            "with focal loss.",
        ),
        (
            {"fault": "", "tta": 8},
            "calibration: expected images of 32 pixels and model.tta 8, on which it was fitted, "
            "found 32 and 1; probabilities are calibrated for other logits.",
        ),
    ],
)
def test_doubts_are_said(said, changes, message):
    warn_of_doubts(prior(**changes), image_size=32, tta=1)
    assert said.messages == [message]
