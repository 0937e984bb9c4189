"""Train a small model by the strategy; print losses, programs, dtypes and more as JSON."""

import json
import logging
import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from recording import num_programs
from torch import nn
from torch.nn import functional
from torch_xla.debug.metrics import counter_value

from lightning_melanoma.xla.registry import register

SETTINGS = {
    "epochs": 2,
    "batches": 6,
    "dtype": "float32",
    "precision": "32-true",
    "accumulate": 1,
    "average": False,
    "dropout": 0.3,
    # The step behind which a checkpoint is kept, and the one to go on from.
    "save_at": None,
    "resume": None,
} | json.loads(sys.argv[1])


class Batches:
    """Batches of 16 with a place, as `MelanomaLoader` has one."""

    def __init__(self, dtype):
        draw = torch.Generator().manual_seed(1)
        size = (16, 3, 12, 12)
        self._batches = [
            (
                torch.randint(0, 256, size, dtype=torch.uint8, generator=draw),
                (torch.rand(16, generator=draw) < 0.3).to(dtype),
            )
            for _ in range(SETTINGS["batches"])
        ]
        self._next = 0

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        if self._next == len(self):
            self._next = 0
        while self._next < len(self):
            self._next += 1
            yield self._batches[self._next - 1]

    def state_dict(self):
        return {"next": self._next}

    def load_state_dict(self, state):
        self._next = state["next"]


class Model(pl.LightningModule):
    """Convolution, batch norm, dropout, linear: what depends on the batch or on random numbers."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(SETTINGS["dropout"]),
            nn.Linear(800, 1),
        )
        self.losses = []
        self.outside = None

    def logits(self, batch):
        return self.network(batch[0].to(self.dtype) / 255).squeeze(1)

    def training_step(self, batch, batch_idx):
        logits = self.logits(batch)
        with torch.autocast("xla", enabled=False):
            # Eight bits of mantissa could not tell it from 1.
            self.outside = torch.ones((), device=self.device) + 2.0**-10
        loss = functional.binary_cross_entropy_with_logits(logits.to(self.dtype), batch[1])
        return {"loss": loss, "logits": logits.detach()}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"])

    def validation_step(self, batch, batch_idx):
        return self.logits(batch)

    def predict_step(self, batch, batch_idx):
        return self.logits(batch).float()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 10))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def dtypes(tree):
    """Return the set of dtypes of the tensors in a tree, with the devices that they are on."""
    if isinstance(tree, torch.Tensor):
        return {f"{tree.dtype} {tree.device.type}"}
    children = tree.values() if isinstance(tree, dict) else tree
    return set().union(*map(dtypes, children)) if isinstance(tree, (dict, list, tuple)) else set()


logging.getLogger("lightning_melanoma").addHandler(logging.StreamHandler())
logging.getLogger("lightning_melanoma").setLevel(logging.INFO)
register()
pl.seed_everything(0)
dtype = getattr(torch, SETTINGS["dtype"])
callbacks = [EMAWeightAveraging(decay=0.9)] if SETTINGS["average"] else []
if SETTINGS["save_at"]:
    callbacks.append(
        ModelCheckpoint(".", "kept", every_n_train_steps=SETTINGS["save_at"], save_top_k=-1)
    )
model = Model().to(dtype)
trainer = pl.Trainer(
    accelerator="xla",
    strategy="xla_spmd",
    precision=SETTINGS["precision"],
    max_epochs=SETTINGS["epochs"],
    accumulate_grad_batches=SETTINGS["accumulate"],
    callbacks=callbacks,
    enable_checkpointing=bool(SETTINGS["save_at"]),
    inference_mode=False,
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    num_sanity_val_steps=0,
)
trainer.fit(model, Batches(dtype), Batches(dtype), ckpt_path=SETTINGS["resume"], weights_only=True)
# Values that the host has waited for until here.
num_reads = counter_value("aten::_local_scalar_dense")
losses, outside = [float(loss) for loss in model.losses], float(model.outside)
trainer.save_checkpoint("last.ckpt")
state = torch.load("last.ckpt", weights_only=True)
predictions = torch.cat(trainer.predict(model, Batches(dtype))).tolist()
print(
    json.dumps(
        {
            "losses": losses,
            "predictions": predictions,
            "programs": num_programs(),
            "dtypes": sorted(dtypes(state["state_dict"]) | dtypes(state["optimizer_states"])),
            "outside": outside,
            "reads": num_reads,
        }
    )
)
