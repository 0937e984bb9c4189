import math

import numpy as np
import pytest

from lightning_melanoma.callbacks.overfitting import overfitting_sentence, rising_since


def history_of(validation, training=None):
    if training is None:
        training = np.linspace(0.6, 0.1, len(validation))
    return [
        {"epoch": epoch, "train_log_loss": float(train), "val_log_loss": float(val)}
        for epoch, (train, val) in enumerate(zip(training, validation, strict=True))
    ]


RISING = [0.6, 0.4, 0.32, 0.30, 0.33, 0.36, 0.40]


def test_rise_begins_after_the_lowest_epoch():
    assert rising_since(history_of(RISING)) == 4


def test_sentence_says_since_when_and_how_far():
    assert overfitting_sentence(history_of(RISING)) == (
        "overfitting: validation log loss has risen since epoch 4, from 0.3000 to 0.4000, "
        "while training's fell from 0.3500 to 0.1000"
    )
    assert overfitting_sentence(history_of(RISING[:4])) is None


def test_two_epochs_are_too_few():
    assert rising_since(history_of(RISING[:6])) is None


def test_rise_below_one_percent_is_none():
    assert rising_since(history_of([0.5, 0.3, 0.301, 0.3015, 0.302, 0.3025])) is None


def test_rise_that_came_down_again_is_none():
    assert rising_since(history_of([0.6, 0.3, 0.4, 0.4, 0.302])) is None


def test_rise_with_rising_training_loss_is_no_overfitting():
    assert rising_since(history_of(RISING, training=RISING)) is None


def test_noise_around_a_level_is_hardly_ever_a_rise():
    generator = np.random.default_rng(0)
    found = [
        rising_since(history_of(0.3 + generator.normal(0, 0.02, 20))) is not None
        for _ in range(500)
    ]
    # 1 in 100, and 4 standard errors of 500 draws.
    assert np.mean(found) < 0.01 + 4 * 0.0045


def test_rise_is_found_through_noise():
    generator = np.random.default_rng(0)
    epochs = np.arange(20)
    falling_then_rising = 0.3 * np.exp(-epochs / 2) + 0.25 + 0.01 * np.maximum(epochs - 6, 0)
    found = [
        rising_since(history_of(falling_then_rising + generator.normal(0, 0.01, 20)))
        for _ in range(200)
    ]
    assert np.mean([since is not None for since in found]) > 0.9


def test_epochs_without_validation_are_passed_over():
    history = history_of([0.6, 0.4, math.nan, 0.3, 0.35, math.nan, 0.4, 0.45])
    del history[2]["val_log_loss"]
    assert rising_since(history) == 4


@pytest.mark.parametrize("history", [[], [{"epoch": 0}], history_of([math.nan] * 9)])
def test_nothing_known_is_no_finding(history):
    assert rising_since(history) is None


def test_unknown_training_loss_is_no_finding():
    history = [
        {"epoch": row["epoch"], "val_log_loss": row["val_log_loss"]} for row in history_of(RISING)
    ]
    assert rising_since(history) is None
