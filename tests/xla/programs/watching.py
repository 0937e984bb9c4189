"""Fit a small model under CompilationWatch, several times; print what it said each time as JSON.

Each word names what is done to the third epoch, or how the whole run is; early is in the first one.
"""

import json
import logging
import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn
from torch.nn import functional

from lightning_melanoma.callbacks.compilation import CompilationWatch
from lightning_melanoma.xla.registry import register

# Rows that the loss is of.
_CROPS = {"shape": 6, "other shape": 5}
_EPS = 1e-3
# Batches whose gradients are accumulated; of four, one is left over by three.
_ACCUMULATED = {"accumulated": 2, "left over": 3}


class Batches:
    """Four batches of 8; where a batch changes, its rows are half as many in the third epoch."""

    def __init__(self, changes=False):
        self._changes = changes
        self._epoch = 0

    def __len__(self):
        return 4

    def __iter__(self):
        self._epoch += 1
        for number in range(4):
            rows = 4 if self._changes and self._epoch == 3 and number == 1 else 8
            draw = torch.Generator().manual_seed(number)
            yield {"images": torch.rand(rows, 3, 8, 8, generator=draw), "targets": torch.ones(rows)}


class Model(pl.LightningModule):
    """A convolution, a norm and a head; does in the third epoch what `change` says."""

    def __init__(self, change):
        super().__init__()
        norm = nn.BatchNorm2d(4, eps=_EPS)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm, nn.Flatten())
        self.head = nn.Linear(144, 1)
        self.change = change
        self.kept = []
        if change in ("unfrozen", "unfrozen SGD", "rate of eps"):
            self.body.requires_grad_(False)

    def loss(self, batch, crop=8):
        features = self.body(batch["images"])
        return functional.binary_cross_entropy_with_logits(
            self.head(features[:crop]).squeeze(1), batch["targets"][:crop]
        )

    def on_train_epoch_start(self):
        if self.change.startswith("unfrozen") and self.current_epoch == 2:
            self.body.requires_grad_(True)
        if self.change == "rate of eps":
            self.body.eval()
            rate = {0: 0.5, 1: 0.8, 2: 1.0, 3: 0.9}[self.current_epoch] * _EPS
            self.trainer.optimizers[0].param_groups[0]["lr"] = rate

    def training_step(self, batch, batch_idx):
        when = (0, 2) if self.change.startswith("early") else (2, 1)
        is_time = (self.current_epoch, batch_idx) == when
        loss = self.loss(batch, crop=_CROPS.get(self.change, 8) if is_time else 8)
        if self.change == "value" and is_time:
            assert float(loss.detach()) > 0
        if self.change == "operation" and is_time:
            loss = loss.exp().log()
        if self.change == "early operation" and is_time:
            # Another operation: the program of the former is there.
            loss = loss.sqrt().square()
        self.kept.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        if self.change == "epochs":
            assert float(torch.stack(self.kept).sum()) > 0

    def validation_step(self, batch, batch_idx):
        return self.loss(batch)

    predict_step = validation_step

    def configure_optimizers(self):
        if self.change == "unfrozen SGD":
            return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def run(change):
    """Return what was said, and how the run ended."""
    heard = Lines()
    logger = logging.getLogger("lightning_melanoma.callbacks.compilation")
    logger.handlers, logger.propagate = [heard], False
    logger.setLevel(logging.INFO)
    change, _, is_strict = change.partition(", ")
    on_cpu = change == "CPU"
    trainer = pl.Trainer(
        accelerator="cpu" if on_cpu else "xla",
        strategy="auto" if on_cpu else "xla_spmd",
        precision="bf16-mixed" if change == "bfloat16" else "32-true",
        gradient_clip_val=1.0,
        max_epochs=4,
        accumulate_grad_batches=_ACCUMULATED.get(change, 1),
        check_val_every_n_epoch=3 if change == "late validation" else 1,
        callbacks=[
            CompilationWatch(strict=bool(is_strict)),
            *[EMAWeightAveraging(decay=0.9)] * (change == "EMA"),
        ],
        enable_checkpointing=False,
        inference_mode=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model, error = Model(change), ""
    try:
        trainer.fit(model, Batches(change == "batch"), Batches())
        trainer.predict(model, Batches(), return_predictions=False)
    except ValueError as caught:
        error = str(caught)
    return {"said": heard.lines, "error": error}


if __name__ == "__main__":
    register()
    pl.seed_everything(0)
    print(json.dumps({change: run(change) for change in sys.argv[1:]}))
