import logging
import math
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_melanoma.augment.pipeline import BatchAugment
from lightning_melanoma.callbacks import plots
from lightning_melanoma.callbacks.checkpoints import BestCheckpoint
from lightning_melanoma.callbacks.curves import curves_figure
from lightning_melanoma.callbacks.plots import TrainingPlots, best_epoch
from lightning_melanoma.data.draws import NUM_DRAWS
from lightning_melanoma.data.sample import Batch
from lightning_melanoma.predictions import probabilities_of
from lightning_melanoma.tasks.class_prior import ClassPrior
from lightning_melanoma.tasks.judging import EpochJudge

PLOTS = {"curves", "roc", "precision_recall", "probabilities", "augmentations", "mistakes"}
NUM_ROWS = 40


def drawn_into(epochs):
    return lambda self, task, *_: epochs.append(task.epochs.history[-1]["epoch"])


class Outputs(NamedTuple):
    rows: np.ndarray
    logits: np.ndarray
    targets: np.ndarray


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=4)

    def table(self, split):
        assert split == "val"
        return pd.DataFrame({"image_name": [f"ISIC_{row}" for row in range(NUM_ROWS)]})

    def images(self, split, rows):
        assert split == "val"
        return np.zeros((len(rows), 8, 8, 3), np.uint8)

    def sample_batch(self, count):
        images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
        valid = torch.ones(count, dtype=torch.bool)
        return Batch(images, torch.zeros(count), valid, torch.zeros(count, NUM_DRAWS), valid, valid)


class Task(pl.LightningModule):
    """Follows a script instead of learning: what a callback may ask of a task, and no more."""

    def __init__(self, val_log_losses, val_outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.prior = ClassPrior()
        self.prior.set((90, 10), (1.0, 1.0), shown=(90, 10))
        self.epochs = EpochJudge()
        self.augment = BatchAugment("light")
        self._script = val_log_losses, val_outputs

    def training_step(self, batch):
        return (self.weight * batch[0]).sum()

    def on_train_epoch_end(self):
        losses, val_outputs = self._script
        self.epochs.history.append(
            {
                "epoch": self.current_epoch,
                "train_log_loss": 1 / (1 + self.current_epoch),
                "train_auroc": 0.9,
                "val_log_loss": losses[self.current_epoch],
                "val_auroc": 0.8,
            }
        )
        self.epochs.outputs = {"train": outputs(), "val": val_outputs}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def probabilities(self, logits):
        return probabilities_of(logits)


def outputs(num_rows=NUM_ROWS):
    generator = np.random.default_rng(0)
    targets = (np.arange(num_rows) % 4 == 0).astype(np.float32)
    return Outputs(np.arange(num_rows), generator.normal(targets).astype(np.float32), targets)


def fit(task, folder, callback=None, best=None):
    trainer = pl.Trainer(
        max_epochs=len(task._script[0]),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=best is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[callback or TrainingPlots(), *([best] if best else [])],
    )
    trainer.fit(task, datamodule=Data())


def drawn(folder):
    return {path.stem for path in (folder / "plots").glob("*")}


def test_training_leaves_all_six_plots(tmp_path):
    fit(Task([0.5, 0.4], outputs()), tmp_path)
    assert drawn(tmp_path) == PLOTS


def test_each_epoch_is_drawn_once(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(TrainingPlots, "_draw", drawn_into(epochs))
    fit(Task([0.5] * 4, outputs()), tmp_path)
    assert epochs == [0, 1, 2, 3]


def test_last_epoch_is_drawn_whatever_the_interval(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(TrainingPlots, "_draw", drawn_into(epochs))
    fit(Task([0.5] * 5, outputs()), tmp_path, TrainingPlots(every_n_epochs=2))
    assert epochs == [1, 3, 4]


def test_epochs_of_an_earlier_run_are_not_drawn_again(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(TrainingPlots, "_draw", drawn_into(epochs))
    task = Task([0.5], outputs())
    task.epochs.history = [{"epoch": -1, "val_log_loss": 0.5}]
    fit(task, tmp_path)
    assert epochs == [0]


@pytest.mark.parametrize(
    ("val_outputs", "reason"),
    [
        (outputs(0), "nothing was validated"),
        (outputs()._replace(logits=np.full(NUM_ROWS, np.nan)), "some logits are not finite"),
    ],
)
def test_split_with_nothing_to_draw_is_said_once(tmp_path, caplog, val_outputs, reason):
    with caplog.at_level(logging.INFO):
        fit(Task([0.5, math.nan], val_outputs), tmp_path)
    assert drawn(tmp_path) == {"curves", "augmentations"}
    assert caplog.text.count(reason) == 1


def test_validation_of_one_class_is_drawn(tmp_path):
    val_outputs = outputs()._replace(targets=np.zeros(NUM_ROWS, np.float32))
    fit(Task([0.5], val_outputs), tmp_path)
    assert drawn(tmp_path) == PLOTS


def test_overfitting_is_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(TrainingPlots, "_draw", lambda *_: None)
    with caplog.at_level(logging.INFO):
        fit(Task([0.5, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55], outputs()), tmp_path)
    assert caplog.text.count("validation log loss has risen since epoch 2") == 1


@pytest.mark.parametrize(
    ("goal", "marked"),
    [
        ({}, ("val_auroc", 0)),
        ({"monitor": "val_log_loss", "mode": "min"}, ("val_log_loss", 2)),
        ({"monitor": "train_log_loss", "mode": "max"}, ("train_log_loss", 0)),
    ],
)
def test_the_epoch_of_the_best_checkpoint_is_marked(tmp_path, monkeypatch, goal, marked):
    seen = []

    def draw(history, best_epoch, overfit_since, *, monitor):
        seen.append((monitor, best_epoch))
        return curves_figure(history, best_epoch, overfit_since, monitor=monitor)

    monkeypatch.setattr(plots, "curves_figure", draw)
    fit(Task([0.5, 0.4, 0.3, 0.4], outputs(0)), tmp_path, best=BestCheckpoint(**goal))
    assert seen[-1] == marked
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == marked[1]


def test_an_undefined_metric_marks_no_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "curves_figure", Mock(wraps=curves_figure))
    best = BestCheckpoint("val_log_loss", "min")
    fit(Task([math.nan, math.nan], outputs(0)), tmp_path, best=best)
    assert plots.curves_figure.call_args.args[1] is None


def test_best_epoch_is_the_first_of_equals_and_ignores_nan():
    aurocs = [math.nan, 0.7, 0.9, 0.9, math.nan]
    history = [{"epoch": epoch, "val_auroc": auroc} for epoch, auroc in enumerate(aurocs)]
    assert best_epoch(history) == 2
    assert best_epoch([{"epoch": 0, "val_auroc": math.nan}, {"epoch": 1}]) is None


def test_interval_below_one_raises():
    with pytest.raises(ValueError, match=r"plots\.every_n_epochs: expected 1 or more, found 0"):
        TrainingPlots(every_n_epochs=0)
