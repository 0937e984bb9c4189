import numpy as np
import pytest

from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.decisions.verdicts import Rule, intervals, reference_of, rule_of


def calibration(seed=0, num_rows=400, prevalence=0.25, **rows):
    """Return a calibration whose logits are the log-odds that the targets are drawn by."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(np.log(prevalence / (1 - prevalence)), 1.5, num_rows)
    targets = generator.random(num_rows) < 1 / (1 + np.exp(-logits))
    own = {"logits": logits, "targets": targets, "patients": np.arange(num_rows)} | rows
    empty = Calibration(prior_shift=0.0, prevalence=prevalence, image_size=32, tta=1)
    return empty.fitted(own["logits"], own["targets"], own["patients"])


def test_models_calibrated_on_the_same_images_are_judged_by_their_mean():
    first = calibration()
    second = calibration(logits=first.logits * 2 + 1, targets=first.targets)
    reference = reference_of([first, second])
    assert reference.targets is first.targets
    odds = [each.log_odds(each.logits) for each in (first, second)]
    assert reference.odds == pytest.approx(np.mean(odds, axis=0))


def test_models_calibrated_on_other_images_bring_all_of_them():
    first, second = calibration(0), calibration(1)
    reference = reference_of([first, second])
    assert len(reference.odds) == 800
    assert reference.num_melanomas == first.targets.sum() + second.targets.sum()


def test_rows_without_a_melanoma_raise():
    with pytest.raises(ValueError, match="expected melanomas to decide by, found none among 400"):
        reference_of([calibration(targets=np.zeros(400))])


def test_intervals_hold_the_truth_and_follow_the_prevalence():
    known = calibration(num_rows=3000)
    odds = np.array([-3.0, -1.0, 0.0, 1.0])
    # The logits are true log-odds, so the fitted ones are nearly.
    lower, upper = intervals(reference_of([known]), odds)
    truth = 1 / (1 + np.exp(-odds))
    assert (lower < upper).all()
    assert (np.abs((lower + upper) / 2 - truth) < 0.1).all()
    # To its own prevalence nothing changes; to another one as Bayes' rule says of log-odds.
    same = intervals(reference_of([known]), odds, prevalence=known.prevalence)
    assert np.concatenate(same) == pytest.approx(np.concatenate([lower, upper]))
    own = known.log_odds(known.logits)[:50]
    rare = intervals(reference_of([known]), own, prevalence=0.02)
    before = intervals(reference_of([known]), own)
    shift = np.log(0.02 / 0.98) - np.log(known.prevalence / (1 - known.prevalence))
    for low, high in zip(rare, before, strict=True):
        between = (high > 0) & (high < 1)
        moved = np.log(high[between] / (1 - high[between])) + shift
        assert low[between] == pytest.approx(1 / (1 + np.exp(-moved)))
        assert (low[~between] == high[~between]).all()


def test_decisions_are_melanoma_above_benign_below_and_refer_between():
    rule = Rule(melanoma_from=0.0, benign_below=-1.0)
    assert list(rule.decide(np.array([-1.5, -1.0, -0.5, 0.0, 2.0]))) == [
        "benign",
        "refer",
        "refer",
        "melanoma",
        "melanoma",
    ]


def test_a_rule_is_that_of_sensitivity_and_miss_rate():
    reference = reference_of([calibration()])
    melanomas = reference.odds[reference.targets == 1]
    plain = rule_of(reference, sensitivity=0.9, miss_rate=None)
    assert (melanomas >= plain.melanoma_from).mean() >= 0.9
    assert plain.benign_below == plain.melanoma_from
    careful = rule_of(reference, sensitivity=0.9, miss_rate=0.02)
    assert careful.melanoma_from == plain.melanoma_from
    assert (melanomas < careful.benign_below).mean() <= 0.02
    assert (melanomas < careful.benign_below).any()
