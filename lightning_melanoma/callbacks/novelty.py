"""Learn what lesions look like to a model, so that `score` can tell what is none."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_melanoma.callbacks.checkpoints import add_to_checkpoint
from lightning_melanoma.decisions.novelty import CHECKPOINT_KEY, NoveltyGate, fit_gate
from lightning_melanoma.metrics import cluster_codes
from lightning_melanoma.tasks.outputs import Prediction

# Of what the head sees and of the pixels. Some networks unlearn what is no lesion: by itself the
# first tells 1, 2 or 21 of 26 photographs (three models), the second 24 of them (docs/score.md).
_WEIGHTS = (0.1, 0.9)

_log = logging.getLogger(__name__)


class LesionGate(pl.Callback):
    """Keeps the embeddings of the validation images while they are predicted, and fits a gate.

    Attributes:
        gate: of the model that predicted; None where there are too few validation images to know
            lesions by, or none were predicted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate: NoveltyGate | None = None
        self._steps: list[Prediction] = []

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the embeddings of an earlier prediction."""
        self.gate, self._steps = None, []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - a Prediction
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the embeddings of a validation batch."""
        if trainer.datamodule.predict_splits[dataloader_idx] == "val":  # type: ignore[attr-defined]  # ours
            self._steps.append(outputs)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit the gate, where there is anything to fit it to."""
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        rows = _gathered(trainer, [step.rows for step in steps])
        parts = zip(*(step.embedding for step in steps), strict=True)
        embeddings = [_gathered(trainer, list(part)) for part in parts]
        # Each record once; the fill of the last batch goes.
        kept, first = np.unique(rows, return_index=True)
        start = np.searchsorted(kept, 0)
        table = trainer.datamodule.table("val").iloc[kept[start:]]  # type: ignore[attr-defined]  # ours
        patients = cluster_codes(table["patient"].mask(table["patient"] == ""))
        try:
            self.gate = fit_gate(
                [part[first[start:]] for part in embeddings], patients, weights=_WEIGHTS
            )
        except ValueError as error:
            _log.warning("%s; `score` will not tell what is no lesion.", error)

    def keep(self, path: Path) -> None:
        """Write the gate, if there is one, into the checkpoint that predicted.

        Raises:
            OSError: it cannot be written.
        """
        if self.gate is not None:
            entry = apply_to_collection(self.gate.to_entry(), np.ndarray, torch.from_numpy)
            add_to_checkpoint(path, {CHECKPOINT_KEY: entry})


def _gathered(trainer: pl.Trainer, parts: list[Tensor]) -> Any:  # noqa: ANN401 - of any dtype
    """Return (N, ...) of all ranks together."""
    whole = torch.cat(parts).to(trainer.strategy.root_device)
    gathered = trainer.strategy.all_gather(whole).cpu()
    return gathered.reshape(-1, *whole.shape[1:]).numpy()
