"""Pretend to be each of two hosts in turn; print the rows that they read, and what they gather."""

import json
import sys

import pytorch_lightning as pl

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.xla import hosts, pjrt
from lightning_melanoma.xla.registry import register

register()


def rows_of(index, count):
    pjrt.process_index, pjrt.process_count = lambda: index, lambda: count
    data = MelanomaDataModule(train=sys.argv[1], image_size=32, batch_size=8)
    data.trainer = trainer
    assert trainer.strategy.is_global_zero == (index == 0)
    return [batch.rows.tolist() for batch in data.loader("train")]


trainer = pl.Trainer(
    accelerator="xla", strategy="xla_spmd", inference_mode=False, logger=False, barebones=True
)
found = {"whole": rows_of(0, 1), "parts": [rows_of(0, 2), rows_of(1, 2)]}
pjrt.process_index, pjrt.process_count = lambda: 0, lambda: 1
payload = bytes(range(256)) * 20
found["gathered"] = hosts.gather_bytes(payload, trainer.strategy.mesh) == {0: payload}
print(json.dumps(found))
