"""Fit and predict on each of the named devices in turn; print their losses, or the error."""

import json
import sys

import pytorch_lightning as pl
from recording import StepLosses, num_programs
from watching import Batches, Model

from lightning_melanoma.xla.registry import register


def losses_on(device):
    """Return the losses of the steps, and the programs compiled so far."""
    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator=device,
        strategy="xla_spmd" if device == "xla" else "auto",
        max_epochs=2,
        callbacks=[recorder := StepLosses()],
        enable_checkpointing=False,
        inference_mode=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Model("none")
    trainer.fit(model, Batches(), Batches())
    trainer.predict(model, Batches(), return_predictions=False)
    return {"losses": [float(loss) for loss in recorder.losses], "programs": num_programs()}


register()
try:
    print(json.dumps([losses_on(device) for device in sys.argv[1:]]))
except ValueError as error:
    print(json.dumps(str(error)))
