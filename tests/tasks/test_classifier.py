import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import write_shards

from lightning_melanoma.callbacks.checkpoints import LastCheckpoint, add_to_checkpoint
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.models.pixels import pixel_statistics
from lightning_melanoma.tasks.finetune import FinetuneClassifier
from lightning_melanoma.tasks.scratch import ScratchClassifier

SMALL = {"conv_channels": [4, 8], "deconv_channels": [4], "depth": 1}


@pytest.fixture
def data(shards) -> MelanomaDataModule:
    return MelanomaDataModule(train=str(shards), test=str(shards), image_size=32, batch_size=8)


def trainer(folder, **settings) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    checkpoints = {"enable_checkpointing": False} if "callbacks" not in settings else {}
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 1,
            "default_root_dir": folder,
            **quiet,
            **checkpoints,
            **settings,
        }
    )


def scratch(**settings) -> ScratchClassifier:
    pl.seed_everything(0)
    return ScratchClassifier(**{**SMALL, **settings})


@pytest.mark.parametrize("weights", ["balanced", "none", [1.0, 3.0]])
def test_the_first_loss_is_its_closed_form(data, tmp_path, weights):
    task = scratch(augment="none", class_weights=weights, learning_rate=0.0, dropout=0.0)
    trainer(tmp_path).fit(task, data)
    benign, melanoma = data.class_counts()
    prior = melanoma / (benign + melanoma)
    w0, w1 = task.prior.weights.tolist()
    expected = -(w1 * prior * math.log(prior) + w0 * (1 - prior) * math.log(1 - prior))
    # The head's first weights have a standard deviation of 0.001, so logits differ from the bias a
    # little.
    assert task.epochs.history[0]["train_loss"] == pytest.approx(expected, rel=0.02)


def test_the_first_mean_probability_is_the_prevalence(data, tmp_path):
    task = scratch(class_weights="none", learning_rate=0.0)
    trainer(tmp_path).fit(task, data)
    probabilities = task.probabilities(task.epochs.outputs["val"].logits)
    assert probabilities.mean() == pytest.approx(task.prior.prevalence, rel=0.02)


def test_class_weights_are_undone_in_the_probability(data, tmp_path):
    task = scratch(class_weights="balanced", output_bias="balanced", learning_rate=0.0)
    trainer(tmp_path).fit(task, data)
    probabilities = task.probabilities(task.epochs.outputs["val"].logits)
    assert probabilities.mean() == pytest.approx(task.prior.prevalence, rel=0.02)


def test_masked_rows_change_nothing(data, tmp_path):
    # 27 training records in batches of 8: the last has 5 rows of fill.
    task = scratch(augment="none", learning_rate=0.0, dropout=0.0)
    trainer(tmp_path).fit(task, data)
    outputs = task.epochs.outputs["train"]
    assert outputs.rows.tolist() == list(range(len(data.table("train"))))
    losses = outputs.losses.astype(float)
    assert task.epochs.history[0]["train_loss"] == pytest.approx(losses.mean(), rel=1e-6)


def test_one_row_of_metrics_an_epoch_has_every_name_of_the_design(data, tmp_path):
    task = scratch()
    logger = pl.loggers.CSVLogger(tmp_path, name="run")
    trainer(tmp_path, logger=logger, max_epochs=2, log_every_n_steps=1).fit(task, data)
    lines = (tmp_path / "run/version_0/metrics.csv").read_text().splitlines()
    assert len(lines) == 3
    assert set(lines[0].split(",")) == {
        "epoch",
        "step",
        "lr",
        *(
            f"{split}_{name}"
            for split in ("train", "val")
            for name in (
                "loss",
                "log_loss",
                "auroc",
                "average_precision",
                "sensitivity",
                "specificity",
            )
        ),
    }
    row = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert row["epoch"] == "1"
    assert float(row["val_auroc"]) == task.epochs.history[1]["val_auroc"]


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "strong", "optimizer": "sgd", "schedule": "step", "focal_gamma": 2.0},
        {
            "augment": "none",
            "augment_changes": {"mixup_probability": 0.5, "cutmix_probability": 0.5},
            "schedule": "constant",
            "label_smoothing": 0.1,
        },
    ],
)
def test_every_kind_of_training_takes_a_step(data, tmp_path, settings):
    task = scratch(**settings)
    before = [p.clone() for p in task.network.parameters()]
    trainer(tmp_path, gradient_clip_val=1.0).fit(task, data)
    changed = [
        not torch.equal(a, b) for a, b in zip(before, task.network.parameters(), strict=True)
    ]
    assert all(changed)
    assert math.isfinite(task.epochs.history[0]["train_loss"])
    mixes = "augment_changes" in settings
    assert math.isnan(task.epochs.history[0]["train_auroc"]) == mixes


def test_test_time_augmentation_is_the_mean_over_symmetries(data, tmp_path):
    task = scratch(tta=8, learning_rate=0.1, augment="none")
    trainer(tmp_path).fit(task, data)
    task.eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        views = task.views(images, 8)
        assert torch.equal(views.logits[0], task(images))
        assert views.logits[1].tolist() == pytest.approx(task(images.flip(-1)).tolist())
        averaged = views.logits.mean(0)
        assert not torch.allclose(averaged, views.logits[0])
        for turned in (images.flip(-1), images.mT, images.flip(-2).mT):
            torch.testing.assert_close(task.views(turned, 8).logits.mean(0), averaged)


@pytest.mark.parametrize("kind", ["scratch", "finetune"])
def test_an_embedding_is_what_the_head_sees_and_what_the_pixels_are(kind):
    task = scratch()
    if kind == "finetune":
        task = FinetuneClassifier(backbone="resnet10t", weights="none")
    task.eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        views = task.views(images, 1)
        logits = task.network.head(views.embedding.features).squeeze(1)
    assert torch.equal(logits, views.logits[0])
    assert torch.equal(views.embedding.pixels, pixel_statistics(images))


def test_images_may_be_bytes_or_floats():
    task = scratch().eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(task(images), task(images.float() / 255))


def fitted_checkpoint(task, data, folder):
    run = trainer(folder, callbacks=[LastCheckpoint()], enable_checkpointing=True)
    run.fit(task, data)
    return run.checkpoint_callback.best_model_path


def test_a_checkpoint_loads_with_weights_only_and_keeps_what_probabilities_need(data, tmp_path):
    task = scratch()
    path = fitted_checkpoint(task, data, tmp_path)
    assert torch.load(path, weights_only=True)["model_class"] == "ScratchClassifier"
    loaded = ScratchClassifier.load_from_checkpoint(path, weights_only=True)
    assert loaded.prior.shift == task.prior.shift
    assert loaded.prior.prevalence == task.prior.prevalence
    assert loaded.epochs.history == task.epochs.history
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), task.eval()(images))


def test_a_calibrated_checkpoint_gives_calibrated_probabilities_until_it_is_trained_on(
    data, tmp_path
):
    path = fitted_checkpoint(scratch(), data, tmp_path)
    line = {"prior_shift": 1.0, "prevalence": 0.2, "offset": 0.5, "temperature": 2.0}
    calibration = Calibration(**line, image_size=32, tta=1, fault="")
    add_to_checkpoint(Path(path), {"calibration": calibration.to_dict()})
    loaded = ScratchClassifier.load_from_checkpoint(path, weights_only=True)
    logits = np.array([-1, 0, 4], np.float32)
    log_odds = 0.5 + (logits - 1.0) / 2
    assert loaded.probabilities(logits) == pytest.approx(1 / (1 + np.exp(-log_odds)))
    trainer(tmp_path).fit(loaded, data)
    raw = 1 / (1 + np.exp(loaded.prior.shift - logits))
    assert loaded.probabilities(logits) == pytest.approx(raw)


def test_a_checkpoint_of_another_model_is_an_error(data, tmp_path):
    path = fitted_checkpoint(scratch(), data, tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match="expected one of FinetuneClassifier, found ScratchClass"):
        finetune().on_load_checkpoint(checkpoint)


def test_a_second_fit_keeps_bias_and_weights_of_the_first(data, tmp_path, shards):
    task = scratch(learning_rate=0.0)
    trainer(tmp_path).fit(task, data)
    bias = task.network.head.bias.item()
    write_shards(shards / "more", num_shards=5, num_records=8, start=200)
    other = MelanomaDataModule(train=str(shards / "more"), image_size=32, batch_size=8)
    trainer(tmp_path).fit(task, other)
    assert task.network.head.bias.item() == bias


def finetune(**settings) -> FinetuneClassifier:
    pl.seed_everything(0)
    return FinetuneClassifier(backbone="resnet10t", weights="none", **settings)


def test_the_backbone_is_frozen_for_the_first_epochs(data, tmp_path):
    task = finetune(freeze_epochs=1)
    before = {name: value.clone() for name, value in task.network.backbone.state_dict().items()}
    head = task.network.head.weight.clone()
    trainer(tmp_path, max_epochs=1).fit(task, data)
    after = task.network.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head, task.network.head.weight)
    task = finetune(freeze_epochs=1)
    trainer(tmp_path, max_epochs=2).fit(task, data)
    after = task.network.backbone.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_finetuned_checkpoint_needs_no_pretrained_weights(data, tmp_path):
    path = fitted_checkpoint(finetune(), data, tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["weights"] == "none"


@pytest.mark.slow
def test_one_step_of_the_missions_xception(data, tmp_path):
    pl.seed_everything(0)
    task = FinetuneClassifier(weights="none", freeze_epochs=0)
    trainer(tmp_path, max_steps=1, limit_val_batches=0, num_sanity_val_steps=0).fit(task, data)
    assert task.hparams["backbone"] == "legacy_xception"
    assert task.network.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, "model.label_smoothing"),
        ({"focal_gamma": -1.0}, "model.focal_gamma"),
        ({"class_weights": [1.0]}, "model.class_weights"),
        ({"augment": "heavy"}, "augment: expected one of"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        scratch(**settings)


def test_a_training_counted_in_steps_warms_up_for_an_epoch(data, tmp_path):
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fitted = trainer(tmp_path, max_epochs=-1, max_steps=20, callbacks=[Watch()])
    fitted.fit(scratch(warmup_epochs=1.0), data)
    assert len(rates) == 20
    assert rates.index(max(rates)) == len(data.loader("train")) - 1
    assert rates[-1] < 0.1 * max(rates)


def test_no_end_of_the_training_is_an_error(data, tmp_path):
    with pytest.raises(ValueError, match=r"trainer.max_epochs: expected a number"):
        trainer(tmp_path, max_epochs=-1).fit(scratch(), data)


def test_an_undefined_auroc_does_not_end_the_run(shards, tmp_path):
    write_shards(tmp_path / "val", num_shards=1, num_records=8, start=100, target=0)
    data = MelanomaDataModule(
        train=str(shards), val=str(tmp_path / "val"), image_size=32, batch_size=8
    )
    task = scratch()
    trainer(tmp_path, max_epochs=2).fit(task, data)
    assert len(task.epochs.history) == 2
    assert math.isnan(task.epochs.history[1]["val_auroc"])
    assert np.isfinite(task.epochs.history[1]["val_log_loss"])


def test_repeated_melanomas_are_undone_in_the_probability(shards, tmp_path):
    data = MelanomaDataModule(train=str(shards), image_size=32, batch_size=8, positive_rate=0.6)
    task = scratch(class_weights="none", learning_rate=0.0)
    trainer(tmp_path).fit(task, data)
    assert task.prior.shown_prevalence == pytest.approx(0.6, abs=0.02)
    logits = task.epochs.outputs["val"].logits
    # The bias is the shown one, so that the first mean prediction is near it; undone, it is not.
    assert (1 / (1 + np.exp(-logits))).mean() == pytest.approx(0.6, abs=0.02)
    assert task.probabilities(logits).mean() == pytest.approx(task.prior.prevalence, rel=0.02)
    expected = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert task.epochs.history[0]["train_log_loss"] == pytest.approx(expected, rel=0.03)
