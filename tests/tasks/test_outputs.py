import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, recall_score, roc_auc_score

from lightning_melanoma.data.sample import Batch
from lightning_melanoma.tasks.outputs import (
    METRICS,
    EpochOutputs,
    OutputCollector,
    epoch_metrics,
    step_outputs,
)


def batch(rows, valid, targets) -> Batch:
    none = torch.empty(len(rows), 0)
    return Batch(none, torch.tensor(targets), torch.tensor(valid), none, torch.tensor(rows), none)


def test_rows_come_back_in_order_without_the_fill():
    collector = OutputCollector()
    for rows, valid in (([3, 1], [True, True]), ([0, 3], [True, False])):
        numbers = torch.tensor(rows) * 10.0
        step = step_outputs(batch(rows, valid, [0.0, 1.0]), numbers, numbers + 1, numbers + 2)
        collector.keep(step)
    outputs = collector.take(lambda tensor: tensor)
    assert outputs.rows.tolist() == [0, 1, 3]
    assert outputs.logits.tolist() == [0, 10, 30]
    assert outputs.targets.tolist() == [0, 1, 0]
    assert outputs.mixed_targets.tolist() == [1, 11, 31]
    assert outputs.losses.tolist() == [2, 12, 32]
    assert len(collector.take(lambda tensor: tensor).rows) == 0


def test_the_outputs_of_all_ranks_come_together():
    collectors = [OutputCollector(), OutputCollector()]
    for collector, rows in zip(collectors, ([2, 0], [1, 3]), strict=True):
        numbers = torch.tensor(rows).float()
        step = step_outputs(batch(rows, [True, True], [0.0, 0.0]), numbers, numbers, numbers)
        collector.keep(step)
    parts = [[torch.cat(c._integers), torch.cat(c._floats, dim=1)] for c in collectors]
    stacked = iter([torch.stack(column) for column in zip(*parts, strict=True)])
    outputs = collectors[0].take(lambda _: next(stacked))
    assert outputs.rows.tolist() == outputs.logits.tolist() == [0, 1, 2, 3]


@pytest.fixture
def outputs() -> EpochOutputs:
    rng = np.random.default_rng(0)
    targets = (rng.random(500) < 0.1).astype(np.float32)
    logits = (rng.normal(size=500) + 2 * targets).astype(np.float32)
    losses = rng.random(500).astype(np.float32)
    return EpochOutputs(np.arange(500), logits, targets, targets, losses)


def test_metrics_are_scikit_learns_of_the_corrected_probability(outputs):
    shift, prevalence = 1.5, 0.1
    found = epoch_metrics(outputs, shift=shift, prevalence=prevalence, mixes_targets=False)
    assert tuple(found) == METRICS
    probabilities = 1 / (1 + np.exp(shift - outputs.logits.astype(float)))
    calls = probabilities >= prevalence
    assert found == pytest.approx(
        {
            "loss": outputs.losses.astype(float).mean(),
            "log_loss": log_loss(outputs.targets, probabilities),
            "auroc": roc_auc_score(outputs.targets, outputs.logits),
            "average_precision": average_precision_score(outputs.targets, outputs.logits),
            "sensitivity": recall_score(outputs.targets, calls),
            "specificity": recall_score(1 - outputs.targets, ~calls),
        },
        abs=1e-9,
    )


def test_ranking_is_undefined_where_targets_are_mixed(outputs):
    found = epoch_metrics(outputs, shift=0, prevalence=0.1, mixes_targets=True)
    assert math.isnan(found["auroc"])
    assert math.isnan(found["sensitivity"])
    assert math.isfinite(found["log_loss"])


def test_one_class_and_divergence_are_nan_not_errors(outputs):
    benign = outputs._replace(targets=np.zeros_like(outputs.targets))
    found = epoch_metrics(benign, shift=0, prevalence=0.1, mixes_targets=False)
    assert math.isnan(found["auroc"])
    diverged = outputs._replace(logits=np.full_like(outputs.logits, np.nan))
    found = epoch_metrics(diverged, shift=0, prevalence=0.1, mixes_targets=False)
    assert math.isnan(found["auroc"])
    assert math.isnan(found["log_loss"])
