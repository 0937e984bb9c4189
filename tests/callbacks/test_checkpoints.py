import shutil
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_melanoma.callbacks.checkpoints import (
    BestCheckpoint,
    LastCheckpoint,
    StopWhenFlat,
    add_to_checkpoint,
)
from lightning_melanoma.tasks.judging import ROW_METRICS, EpochJudge


class Scripted(BoringModel):
    """Reports a given value of a metric each epoch, or stops in the middle of one.

    None stands for an epoch without validation. As in a task, val_auroc alone is logged.
    """

    def __init__(self, values, fails_at=None, metric="val_auroc"):
        super().__init__()
        self.values = values
        self.fails_at = fails_at
        self.metric = metric
        self.epochs = EpochJudge()

    def on_train_epoch_end(self):
        value = self.values[self.current_epoch]
        row = {} if value is None else {self.metric: value}
        self.epochs.history.append(row)
        if self.metric == "val_auroc":
            self.log_dict(row)

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.fails_at:
            raise RuntimeError("power cut")
        return super().training_step(batch, batch_idx)


def fit(folder, model, *, epochs, ckpt_path=None, patience=10, mode="max"):
    goal = {"monitor": model.metric, "mode": mode}
    callbacks = [BestCheckpoint(**goal), StopWhenFlat(**goal, patience=patience), LastCheckpoint()]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=4,
        limit_val_batches=0,
        logger=False,
        default_root_dir=folder,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(model, ckpt_path=ckpt_path, weights_only=True)
    except RuntimeError:
        return trainer
    return trainer


def epoch_of(folder, name):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]


def test_best_and_last_are_kept_under_their_names(tmp_path):
    fit(tmp_path, Scripted([0.6, 0.8, 0.7]), epochs=3)
    assert epoch_of(tmp_path, "best") == 1
    assert epoch_of(tmp_path, "last") == 2
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_an_error_leaves_the_last_step_behind(tmp_path):
    fit(tmp_path, Scripted([0.6, 0.8, 0.7], fails_at=(1, 2)), epochs=3)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4 + 2


def test_the_best_of_the_first_run_counts_after_a_resume(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    fit(first, Scripted([0.6, 0.8, 0.7]), epochs=3)
    values = [0, 0, 0, 0.75, 0.79]
    trainer = fit(
        second, Scripted(values), epochs=5, ckpt_path=str(first / "checkpoints/last.ckpt")
    )
    assert epoch_of(second, "best") == 1
    assert epoch_of(second, "last") == 4
    assert epoch_of(first, "best") == 1
    assert trainer.checkpoint_callback.best_model_path == str(second / "checkpoints/best.ckpt")
    third = tmp_path / "third"
    fit(
        third,
        Scripted([0, 0, 0, 0.75, 0.79, 0.9]),
        epochs=6,
        ckpt_path=str(second / "checkpoints/last.ckpt"),
    )
    assert epoch_of(third, "best") == 5
    assert epoch_of(second, "best") == 1


def state_of(folder):
    """Return the state of `BestCheckpoint` in the checkpoint of a run."""
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return checkpoint["callbacks"][BestCheckpoint().state_key]


def set_up(folder, stage, *, is_global_zero):
    """Return the callback of a process that is about to load a checkpoint."""
    best = BestCheckpoint()
    trainer = Mock(is_global_zero=is_global_zero, loggers=[], default_root_dir=folder)
    trainer.strategy.broadcast = lambda value: value
    best.setup(trainer, BoringModel(), stage)
    return best


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_the_best_is_not_taken_over_where_nothing_is_trained(tmp_path, stage):
    fit(tmp_path / "first", Scripted([0.6, 0.8]), epochs=2)
    best = set_up(tmp_path / "second", stage, is_global_zero=True)
    best.load_state_dict(state_of(tmp_path / "first"))
    assert not (tmp_path / "second").exists()


def test_the_first_process_alone_takes_the_best_over_whole_for_all(tmp_path, monkeypatch):
    fit(tmp_path / "first", Scripted([0.6, 0.8]), epochs=2)
    state = state_of(tmp_path / "first")
    own = tmp_path / "second/checkpoints/best.ckpt"
    other = set_up(tmp_path / "second", "fit", is_global_zero=False)
    other.load_state_dict(state)
    assert not own.exists()
    first = set_up(tmp_path / "second", "fit", is_global_zero=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", Mock(side_effect=OSError("full")))
        with pytest.raises(OSError, match="full"):
            first.load_state_dict(state)
    assert not list(own.parent.iterdir())
    first.load_state_dict(state)
    assert own.read_bytes() == (tmp_path / "first/checkpoints/best.ckpt").read_bytes()
    for callback in (first, other):
        assert callback.best_model_path == callback.kth_best_model_path == str(own)
        assert callback.best_model_score == pytest.approx(0.8)


def test_a_flat_metric_stops_the_run_but_an_undefined_one_does_not(tmp_path):
    flat = fit(tmp_path, Scripted([0.6, 0.8, 0.7, 0.7, 0.7, 0.7]), epochs=6, patience=2)
    assert flat.current_epoch == 4
    undefined = fit(tmp_path / "again", Scripted([float("nan")] * 6), epochs=6, patience=2)
    assert undefined.current_epoch == 6
    assert not undefined.checkpoint_callback.is_defined


@pytest.mark.parametrize("metric", ROW_METRICS)
def test_every_metric_of_the_row_tells_the_best_epoch_and_stops_the_run(tmp_path, metric):
    values = [0.6, 0.2, 0.3, 0.4, 0.5, 0.5]
    trainer = fit(tmp_path, Scripted(values, metric=metric), epochs=6, patience=2, mode="min")
    assert epoch_of(tmp_path, "best") == 1
    assert trainer.current_epoch == 4


def test_values_are_compared_as_the_row_has_them(tmp_path):
    # They differ by less than float32 can tell.
    fit(tmp_path, Scripted([0.9, 0.9 + 1e-9, 0.9]), epochs=3)
    assert epoch_of(tmp_path, "best") == 1


@pytest.mark.parametrize("callback", [BestCheckpoint, StopWhenFlat])
@pytest.mark.parametrize(
    ("name", "nearest"),
    [("val_aurc", "val_auroc"), ("log_loss", "val_log_loss, .*train_log_loss"), ("lr", "")],
)
def test_unknown_metric_raises_with_the_nearest(callback, name, nearest):
    with pytest.raises(
        ValueError,
        match=rf"\.monitor: expected a metric of metrics\.csv, found '{name}'; .* {nearest}",
    ):
        callback(name)


def test_an_epoch_without_validation_is_not_compared(tmp_path):
    values = [0.8, None, None, 0.7, None, None, 0.7, None]
    trainer = fit(tmp_path, Scripted(values), epochs=8, patience=2)
    assert trainer.current_epoch == 7
    assert epoch_of(tmp_path, "best") == 0
    again = tmp_path / "again"
    trainer = fit(again, Scripted([0.7, None, 0.8, None]), epochs=4, patience=1)
    assert trainer.current_epoch == 4
    assert epoch_of(again, "best") == 2
    last = str(again / "checkpoints/last.ckpt")
    values = [0, 0, 0, 0, None, 0.8]
    trainer = fit(tmp_path / "on", Scripted(values), epochs=8, patience=1, ckpt_path=last)
    assert trainer.current_epoch == 6
    assert epoch_of(tmp_path / "on", "best") == 2


def test_added_entry_changes_nothing_else_in_a_checkpoint(tmp_path):
    path = tmp_path / "best.ckpt"
    before = {"state_dict": {"weight": torch.rand(3)}, "epoch": 2}
    torch.save(before, path)
    add_to_checkpoint(path, {"calibration": {"offset": 0.5}})
    after = torch.load(path, weights_only=True)
    assert after.pop("calibration") == {"offset": 0.5}
    assert torch.equal(after["state_dict"].pop("weight"), before["state_dict"].pop("weight"))
    assert after == before
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


def test_entry_that_cannot_be_written_leaves_the_checkpoint_as_it_was(tmp_path):
    path = tmp_path / "best.ckpt"
    torch.save({"epoch": 2}, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="local object"):
        add_to_checkpoint(path, {"calibration": lambda: None})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]
