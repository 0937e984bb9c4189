import logging
import math
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.trainer.states import TrainerFn

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

    def __init__(self, values, fails_at=None, metric="val_auroc", train_loss=0.1):
        super().__init__()
        self.values = values
        self.fails_at = fails_at
        self.metric = metric
        self.train_loss = train_loss
        self.epochs = EpochJudge()

    def on_train_epoch_end(self):
        value = self.values[self.current_epoch]
        metrics = {} if value is None else {self.metric: value}
        row = {"epoch": self.current_epoch, "step": self.global_step, "train_loss": self.train_loss}
        # Undefined, as where images are mixed.
        self.epochs.history.append({**row, "train_auroc": math.nan, **metrics})
        if self.metric == "val_auroc":
            self.log_dict(metrics)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["epochs"] = self.epochs.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.epochs.load_state_dict(checkpoint["epochs"], rank=0)

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


def last_of(folder):
    return folder / "checkpoints/last.ckpt"


def take_over(folder, ckpt_path, *, stage="fit", is_global_zero=True):
    """Return the callback of a process that has loaded a checkpoint."""
    best = BestCheckpoint()
    trainer = Mock(
        is_global_zero=is_global_zero, loggers=[], default_root_dir=folder, ckpt_path=ckpt_path
    )
    trainer.state.fn = TrainerFn(stage)
    trainer.strategy.broadcast = lambda value: value
    best.setup(trainer, BoringModel(), stage)
    checkpoint = torch.load(ckpt_path, weights_only=True)
    best.on_load_checkpoint(trainer, BoringModel(), checkpoint)
    best.load_state_dict(checkpoint["callbacks"][best.state_key])
    return best


def test_the_best_that_was_taken_over_has_the_name_that_a_better_one_will_have(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "first", Scripted([0.6]), epochs=1)
    # Lightning keeps the dot, and removes what the best had for a name before: a path of pathlib's
    # would lose it.
    best = take_over("./second", last_of(tmp_path / "first"))
    assert best.best_model_path == "./second/checkpoints/best.ckpt" == best.kth_best_model_path
    assert list(best.best_k_models) == [best.format_checkpoint_name({})]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_the_best_is_not_taken_over_where_nothing_is_trained(tmp_path, stage):
    fit(tmp_path / "first", Scripted([0.6, 0.8]), epochs=2)
    take_over(tmp_path / "second", last_of(tmp_path / "first"), stage=stage)
    assert not (tmp_path / "second").exists()


def test_the_first_process_alone_takes_the_best_over_whole_for_all(tmp_path, monkeypatch):
    fit(tmp_path / "first", Scripted([0.6, 0.8]), epochs=2)
    last = last_of(tmp_path / "first")
    own = tmp_path / "second/checkpoints/best.ckpt"
    other = take_over(tmp_path / "second", last, is_global_zero=False)
    assert not own.exists()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", Mock(side_effect=OSError("full")))
        with pytest.raises(OSError, match="full"):
            take_over(tmp_path / "second", last)
    assert not list(own.parent.iterdir())
    first = take_over(tmp_path / "second", last)
    assert own.read_bytes() == (tmp_path / "first/checkpoints/best.ckpt").read_bytes()
    for callback in (first, other):
        assert callback.best_model_path == callback.kth_best_model_path == str(own)
        assert callback.best_model_score == pytest.approx(0.8)


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A run of two epochs, the first of them the best, in another place than it was made in.

    The working folder is a new one, in which a run of its name has as good a first epoch.
    """
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "old")
        fit("run", Scripted([0.8, 0.6]), epochs=2)
    monkeypatch.chdir(tmp_path / "new")
    fit("run", Scripted([0.8, 0.5], train_loss=0.2), epochs=2)
    return (tmp_path / "old/run").rename(tmp_path / "moved")


@pytest.fixture
def said(caplog, monkeypatch):
    """The log, whatever `main` may have set up before."""
    monkeypatch.setattr(logging.getLogger("lightning_melanoma"), "propagate", True)
    caplog.set_level(logging.WARNING, "lightning_melanoma")
    return caplog


def test_the_best_is_looked_for_beside_the_checkpoint_first(moved, said, tmp_path):
    best = take_over(tmp_path / "second", last_of(moved))
    own = tmp_path / "second/checkpoints/best.ckpt"
    assert own.read_bytes() == (moved / "checkpoints/best.ckpt").read_bytes()
    assert best.best_model_path == str(own)
    assert best.epoch == 0
    assert not said.text


def test_the_best_is_found_where_the_run_kept_it(tmp_path, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit("run", Scripted([0.8, 0.6]), epochs=2)
    alone = shutil.copy("run/checkpoints/last.ckpt", "alone.ckpt")
    assert take_over("second", alone).best_model_score == pytest.approx(0.8)
    assert epoch_of(Path("second"), "best") == 0
    assert not said.text


@pytest.mark.parametrize("beside", ["nothing", "text", "stranger", "last", "other tensors"])
def test_nothing_else_is_taken_for_the_best_and_that_is_said(moved, said, tmp_path, beside):
    path = moved / "checkpoints/best.ckpt"
    path.unlink()
    if beside == "text":
        path.write_text("no checkpoint")
    elif beside == "stranger":
        shutil.copy("run/checkpoints/best.ckpt", path)
    elif beside == "last":
        shutil.copy(last_of(moved), path)
    elif beside == "other tensors":
        torch.save({"epoch": 0, "state_dict": {}}, path)
    second = tmp_path / "second"
    trainer = fit(second, Scripted([0, 0, 0.3]), epochs=3, ckpt_path=str(last_of(moved)))
    assert epoch_of(second, "best") == trainer.checkpoint_callback.epoch == 2
    assert trainer.checkpoint_callback.best_model_score == pytest.approx(0.3)
    (line,) = said.messages[-1:]
    assert line.startswith("checkpoint: expected the best of the epochs so far, val_auroc 0.8000, ")
    assert "the best of the epochs to come will be kept" in line


def test_a_run_may_go_on_from_its_best_alone(moved, said, tmp_path):
    alone = (moved / "checkpoints/best.ckpt").rename(tmp_path / "alone.ckpt")
    take_over(tmp_path / "second", alone)
    assert epoch_of(tmp_path / "second", "best") == 0
    assert not said.text


def test_an_undefined_metric_leaves_no_best_to_be_missed(tmp_path, said):
    fit(tmp_path / "first", Scripted([math.nan, math.nan]), epochs=2)
    (tmp_path / "first/checkpoints/best.ckpt").unlink()
    assert not take_over(tmp_path / "second", last_of(tmp_path / "first")).is_defined
    assert not said.text


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
