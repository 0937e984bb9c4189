"""The progress bar: batches, images a second, loss and validation AUROC."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class ImagesPerSecondBar(TQDMProgressBar):
    """Lightning's own bar with the training's images a second, all devices together."""

    def __init__(self) -> None:
        super().__init__()
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:  # noqa: ANN401
        """Start the clock of the epoch."""
        self._start = time.perf_counter()
        super().on_train_epoch_start(trainer, *args)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands behind the bar."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        if trainer.training and trainer.train_dataloader is not None:
            images = self.train_progress_bar.n * trainer.train_dataloader.source.batch_size
            items["images/s"] = f"{images / (time.perf_counter() - self._start):.0f}"
        return items
