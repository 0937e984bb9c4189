"""A run that was stopped goes on exactly where it was, and ends as if it had never stopped."""

from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from conftest import write_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_melanoma.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.tasks.finetune import FinetuneClassifier
from lightning_melanoma.tasks.scratch import ScratchClassifier

NUM_EPOCHS = 2
# 24 records of training and 8 of validation in batches of 4.
NUM_TRAIN, NUM_VAL = 6, 2
# Everything that draws: dropout, and noise among the augmentations.
SCRATCH = {"conv_channels": [4, 8], "deconv_channels": [4], "depth": 1, "augment": "strong"}


def scratch() -> ScratchClassifier:
    return ScratchClassifier(**SCRATCH, dropout=0.5, conv_dropout=0.2, warmup_epochs=0.5)


def finetune() -> FinetuneClassifier:
    return FinetuneClassifier(
        "resnet10t", "none", freeze_epochs=1, augment="strong", warmup_epochs=0.5
    )


class Stop(pl.Callback):
    """Stops a run as a signal or an error would."""

    def __init__(self, phase: str, epoch: int, batch: int) -> None:
        self.at = (phase, epoch, batch)

    def _reached(self, trainer: pl.Trainer, phase: str, batch: int) -> bool:
        return not trainer.sanity_checking and self.at == (phase, trainer.current_epoch, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self._reached(trainer, "train", batch_idx):
            trainer._signal_connector.received_sigterm = True

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        if self._reached(trainer, "val", batch_idx):
            trainer._signal_connector.received_sigterm = True

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        # Within the step, batch norms have moved before its loss is there.
        if self._reached(trainer, "error", batch_idx):
            raise RuntimeError("power cut")


def run(task, shards, folder, *, stop=None, resume=None, every_n_steps=0, threads=2, **settings):
    pl.seed_everything(3 if resume is None else 4)
    data = MelanomaDataModule(
        train=str(shards), split="shards", num_folds=4, image_size=32, batch_size=4,
        decode_threads=threads,
    )  # fmt: skip
    callbacks = [EMAWeightAveraging(decay=0.5), BestCheckpoint(), LastCheckpoint(every_n_steps)]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=NUM_EPOCHS,
        logger=False,
        default_root_dir=folder,
        callbacks=[*callbacks, *([stop] if stop else [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    model = task()
    try:
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    except (SIGTERMException, RuntimeError):
        assert stop
    return model


@pytest.fixture(scope="module")
def whole(place_shards, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("whole")
    return {task: run(task, place_shards, folder / task.__name__) for task in (scratch, finetune)}


@pytest.fixture(scope="module")
def place_shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, num_shards=4, num_records=8)
    return folder


def assert_same(found, expected):
    rows, wanted = pd.DataFrame(found.epochs.history), pd.DataFrame(expected.epochs.history)
    pd.testing.assert_frame_equal(rows, wanted, check_exact=True)
    weights, others = found.state_dict(), expected.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in others)


STOPS = [
    (phase, epoch, batch)
    for epoch in range(NUM_EPOCHS)
    for phase, num_batches in (("train", NUM_TRAIN), ("error", NUM_TRAIN), ("val", NUM_VAL))
    for batch in range(num_batches)
    # Ahead of the first step there is nothing to go on from, behind the last nothing to go on with.
    if (phase, epoch, batch) not in {("error", 0, 0), ("val", NUM_EPOCHS - 1, NUM_VAL - 1)}
]


@settings(
    max_examples=12,
    deadline=None,
)
@given(
    stop=st.sampled_from(STOPS),
    task=st.sampled_from([scratch, finetune]),
    threads=st.integers(1, 3),
)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    stop, task, threads, whole, place_shards, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("stopped")
    run(task, place_shards, folder, stop=Stop(*stop))
    last = folder / "checkpoints/last.ckpt"
    resumed = run(task, place_shards, folder / "on", resume=last, threads=threads)
    assert_same(resumed, whole[task])


# Within a step's batches and behind it; before and at the end of an epoch.
@pytest.mark.parametrize(
    ("task", "settings", "at"),
    [
        (finetune, {"accumulate_grad_batches": 4}, (1, 4)),
        *((scratch, {"accumulate_grad_batches": 4}, at) for at in [(0, 3), (0, 4), (1, 1), (1, 4)]),
        *((scratch, {"limit_train_batches": 4}, at) for at in [(0, 2), (0, 3), (1, 0)]),
    ],
)
def test_a_run_of_other_steps_goes_on_as_well(task, settings, at, place_shards, tmp_path):
    entire = run(task, place_shards, tmp_path / "whole", **settings)
    run(task, place_shards, tmp_path, stop=Stop("train", *at), **settings)
    last = tmp_path / "checkpoints/last.ckpt"
    assert_same(run(task, place_shards, tmp_path / "on", resume=last, **settings), entire)


def test_every_n_steps_a_checkpoint_is_kept(whole, place_shards, tmp_path):
    class Watch(pl.Callback):
        steps: list[int] = []  # noqa: RUF012 - of this one test

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            path = tmp_path / "checkpoints/last.ckpt"
            if path.is_file():
                self.steps.append(torch.load(path, weights_only=True)["global_step"])

    run(scratch, place_shards, tmp_path, stop=Watch(), every_n_steps=2)
    # Six steps an epoch; seen behind each step, while the last kept is ahead of it.
    assert Watch.steps == [2, 2, 4, 4, 6, 6, 8, 8, 10, 10]


def test_a_place_is_kept_without_changing_what_the_loader_gave(place_shards, tmp_path):
    given: list[dict] = []

    class Twice(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            loader = trainer.fit_loop._combined_loader.flattened[0]
            own = {**loader.state_dict()}
            loader.state_dict = lambda: own
            for _ in range(2):
                given.append(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
            del loader.state_dict

    run(scratch, place_shards, tmp_path, stop=Twice())
    places = [kept["loops"]["fit_loop"]["state_dict"]["combined_loader"][0] for kept in given]
    # Ahead of its step a batch has been handed over, and is to come again.
    delivered = [place["delivered"] for place in places]
    assert delivered == [number for number in range(NUM_TRAIN) for _ in (0, 1)] * NUM_EPOCHS
