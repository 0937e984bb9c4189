import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lightning_melanoma.tasks.losses import class_weights, masked_mean, output_bias, weighted_bce

OFFICIAL = (33_126 - 584, 584)


def test_official_counts_give_the_published_weights_and_bias():
    weights = class_weights(OFFICIAL, "balanced")
    assert weights == pytest.approx((0.50897, 28.361), rel=2e-5)
    assert output_bias(OFFICIAL, weights, rule="prior") == pytest.approx(-4.0204, abs=5e-5)
    assert output_bias(OFFICIAL, weights, rule="balanced") == pytest.approx(0, abs=1e-12)
    assert output_bias(OFFICIAL, (1.0, 1.0), rule="balanced") == pytest.approx(-4.0204, abs=5e-5)
    assert output_bias(OFFICIAL, weights, rule=1.5) == 1.5
    assert class_weights(OFFICIAL, "none") == (1, 1)
    assert class_weights(OFFICIAL, [1.0, 5.0]) == (1, 5)


@pytest.mark.parametrize("rule", [[1.0], [1.0, -1.0], [0.0, 1.0], [1.0, math.inf], "most"])
def test_wrong_weights_are_an_error(rule):
    with pytest.raises(ValueError, match="expected `balanced`, `none` or two positive numbers"):
        class_weights(OFFICIAL, rule)


LOGITS = torch.linspace(-6, 6, 13)
TARGETS = (torch.arange(13) % 3 == 0).float()


def test_weighted_loss_is_torchs_with_pos_weight():
    ours = weighted_bce(LOGITS, TARGETS, torch.tensor([0.5, 20.0]))
    theirs = functional.binary_cross_entropy_with_logits(
        LOGITS, TARGETS, pos_weight=torch.tensor(40.0), reduction="none"
    )
    torch.testing.assert_close(ours, theirs * 0.5)


@given(st.floats(0, 0.9), st.floats(0.01, 4))
def test_focal_loss_with_smoothing_is_its_formula(smoothing, gamma):
    logits, targets = LOGITS.double(), TARGETS.double()
    ours = weighted_bce(
        logits,
        targets,
        torch.ones(2, dtype=torch.float64),
        label_smoothing=smoothing,
        focal_gamma=gamma,
    )
    smooth = targets * (1 - smoothing) + smoothing / 2
    p = torch.sigmoid(logits)
    entropy = -(smooth * p.log() + (1 - smooth) * (1 - p).log())
    torch.testing.assert_close(ours, entropy * ((smooth - p).abs().clamp_min(1e-6)) ** gamma)


def test_no_smoothing_and_no_focus_change_nothing():
    plain = weighted_bce(LOGITS, TARGETS, torch.ones(2))
    torch.testing.assert_close(
        plain, functional.binary_cross_entropy_with_logits(LOGITS, TARGETS, reduction="none")
    )


def test_a_mixed_target_takes_the_mean_of_both_weights():
    loss = weighted_bce(torch.zeros(1), torch.tensor([0.25]), torch.tensor([1.0, 5.0]))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_gradients_are_finite_at_a_perfect_answer():
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    targets = torch.tensor([1.0, 0.0])
    weighted_bce(logits, targets, torch.ones(2), focal_gamma=0.5).sum().backward()
    assert logits.grad.isfinite().all()


def test_masked_rows_weigh_nothing():
    valid = torch.tensor([True, False, True])
    assert masked_mean(torch.tensor([1.0, 100.0, 3.0]), valid).item() == 2
    assert masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool)).item() == 0
