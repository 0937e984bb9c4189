import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import simplejpeg
import timm
import torch
from conftest import fields, write_shards
from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from safetensors.torch import save_file

from lightning_melanoma import training
from lightning_melanoma.callbacks.submission import SubmissionWriter
from lightning_melanoma.cli import _users_error, main
from lightning_melanoma.data.table import read_split
from lightning_melanoma.predictions import read_predictions
from lightning_melanoma.records.example import serialize_example
from lightning_melanoma.records.tfrecord import write_shard

SMOKE = Path(__file__).parents[1] / "conf/experiment/smoke.yaml"
SMALL = [
    *("--model.conv_channels", "[4, 8]"),
    *("--model.deconv_channels", "[4]"),
    *("--data.image_size", "32"),
    *("--data.batch_size", "8"),
    *("--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder, in which runs land."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(shards, *words, epochs=2):
    data = ["--data.train", str(shards), "--data.test", str(shards)]
    main(["fit", *data, *SMALL, "--trainer.max_epochs", str(epochs), *words])


def files(run):
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


RUN_FILES = {
    "config.yaml",
    "metrics.csv",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "plots/curves.png",
    "plots/roc.png",
    "plots/precision_recall.png",
    "plots/probabilities.png",
    "plots/augmentations.png",
    "plots/mistakes.png",
    "predictions/val.csv",
    "predictions/test.csv",
    "submission.csv",
}


def test_a_fit_leaves_the_files_of_the_design(shards, folder):
    fit(shards)
    run = folder / "runs/melanoma/version_0"
    assert files(run) == RUN_FILES
    submission = pd.read_csv(run / "submission.csv")
    assert list(submission.columns) == ["image_name", "target"]
    assert list(submission["image_name"]) == [f"ISIC_{n:07d}" for n in range(1000, 1010)]
    assert submission["target"].between(0, 1).all()
    table = pd.read_csv(run / "predictions/val.csv")
    assert list(table.columns[:6]) == [
        "image_name",
        "patient_id",
        "fold",
        "target",
        "logit",
        "probability",
    ]
    assert table["fold"].eq(0).all()
    assert pd.read_csv(run / "predictions/test.csv")["target"].isna().all()


def test_a_run_may_go_by_a_metric_of_training(shards, folder):
    words = ["--checkpoint.monitor", "train_log_loss", "--checkpoint.mode", "min"]
    words += ["--early_stopping.monitor", "train_log_loss", "--early_stopping.mode", "min"]
    # No later epoch is that much better than the first.
    words += ["--early_stopping.min_delta", "9", "--early_stopping.patience", "2"]
    fit(shards, *words, "--predict_after_fit", "false", epochs=6)
    run = folder / "runs/melanoma/version_0"
    losses = pd.read_csv(run / "metrics.csv")["train_log_loss"]
    assert len(losses) == 3
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == losses.idxmin()


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.check_val_every_n_epoch", "2"],
        ["--trainer.val_check_interval", "0.5"],
        ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "3"],
        ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "6"],
    ],
    ids=" ".join,
)
def test_the_best_epoch_is_that_of_its_last_validation(shards, folder, words):
    goal = ["--checkpoint.monitor", "val_log_loss", "--checkpoint.mode", "min"]
    fit(shards, *words, *goal, "--predict_after_fit", "false", epochs=5)
    run = folder / "runs/melanoma/version_0"
    losses = pd.read_csv(run / "metrics.csv")["val_log_loss"]
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == losses.idxmin()
    (state,) = (each for key, each in best["callbacks"].items() if "BestCheckpoint" in key)
    assert state["best_model_score"] == losses.min()


def test_an_epoch_that_ends_unvalidated_is_one_line(shards, folder, capsys):
    words = ["fit", "--data.train", str(shards), *SMALL, "--trainer.max_epochs", "1"]
    for interval in ("0.7", "2", "00:00:00:01"):
        line = error_of(capsys, *words, "--trainer.val_check_interval", interval)
        assert "val_check_interval: expected batches that divide the 3 of an epoch" in line
    line = error_of(capsys, *words, "--trainer.val_check_interval", "5")
    assert "(5) must be less than or equal to the number of the training batches (3)" in line
    assert not files(folder / "runs")


def test_a_training_without_an_end_is_one_line(shards, folder, capsys):
    words = ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:09"]
    line = error_of(capsys, "fit", "--data.train", str(shards), *SMALL, *words)
    assert "trainer.max_epochs: expected a number for the schedule to end at" in line


def test_two_runs_with_one_seed_are_identical(shards, folder):
    fit(shards, "--model.augment", "strong")
    fit(shards, "--model.augment", "strong")
    first, second = (folder / f"runs/melanoma/version_{n}" for n in (0, 1))
    for name in ("metrics.csv", "submission.csv", "predictions/val.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    fit(shards, "--model.augment", "strong", "--seed_everything", "1")
    other = folder / "runs/melanoma/version_2/metrics.csv"
    assert other.read_bytes() != (first / "metrics.csv").read_bytes()


def test_predict_takes_model_and_data_from_the_checkpoint(shards, folder):
    fit(shards, "--experiment", "one")
    run = folder / "runs/one/version_0"
    best = str(run / "checkpoints/best.ckpt")
    main(["predict", "--ckpt_path", best, "--experiment", "two"])
    again = folder / "runs/two/version_0"
    assert (again / "submission.csv").read_bytes() == (run / "submission.csv").read_bytes()
    main(
        [
            "predict",
            f"--ckpt_path={best}",
            "--model.tta",
            "8",
            "--data.test",
            str(shards / "test00*"),
        ]
    )
    other = pd.read_csv(folder / "runs/melanoma/version_0/submission.csv")
    assert len(other) == 5
    main(["validate", "--ckpt_path", best, "--experiment", "three"])
    row = pd.read_csv(folder / "runs/three/version_0/metrics.csv").iloc[0]
    best_row = pd.read_csv(run / "metrics.csv")["val_auroc"].max()
    assert row["val_auroc"] == pytest.approx(best_row, abs=1e-6)


def test_a_run_goes_on_where_it_is_told_to_write(shards, folder):
    fit(shards, "--experiment", "one", "--predict_after_fit", "false", epochs=1)
    run = folder / "runs/one/version_0"
    last = ["fit", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--trainer.max_epochs", "2"]
    main([*last, "--experiment", "two"])
    main([*last, "--trainer.default_root_dir", "elsewhere"])
    main(last)
    for again in ("runs/two/version_0", "elsewhere/one/version_0", "runs/one/version_1"):
        assert (folder / again / "checkpoints/last.ckpt").is_file()
    fit(shards, "-c", str(run / "config.yaml"), "--experiment", "three", epochs=1)
    assert (folder / "runs/three/version_0/metrics.csv").is_file()
    assert len(list(folder.rglob("version_*"))) == 5


def test_a_run_goes_on_from_within_its_folder(shards, folder, monkeypatch):
    words = ["--trainer.gradient_clip_val", "0.5", "--predict_after_fit", "false"]
    fit(shards.resolve(), *words, "--trainer.default_root_dir", str(folder / "runs"), epochs=1)
    monkeypatch.chdir(folder / "runs/melanoma/version_0/checkpoints")
    main(["fit", "--ckpt_path", "last.ckpt", "--trainer.max_epochs", "2"])
    # A link to another disk.
    monkeypatch.chdir(folder)
    kept = (folder / "runs/melanoma/version_0/checkpoints").rename(folder / "elsewhere")
    (folder / "runs/melanoma/version_0/checkpoints").symlink_to(kept)
    last = "runs/melanoma/version_0/checkpoints/last.ckpt"
    main(["fit", "--ckpt_path", last, "--trainer.max_epochs", "2"])
    for version in (1, 2):
        again = (folder / f"runs/melanoma/version_{version}/config.yaml").read_text()
        assert "gradient_clip_val: 0.5" in again


def test_settings_of_a_run_that_are_not_there_are_missed(shards, folder, capsys):
    fit(shards, "--predict_after_fit", "false", epochs=1)
    last = (folder / "runs/melanoma/version_0/checkpoints/last.ckpt").rename("alone.ckpt")
    main(["fit", "--ckpt_path", str(last), "--trainer.max_epochs", "2"])
    assert "alone.ckpt: found no settings of its run in" in capsys.readouterr().err


def test_a_run_that_named_its_logger_goes_on_there(shards, folder):
    named = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    named += ["--trainer.logger.name", "mine", "--predict_after_fit", "false"]
    fit(shards, *named, epochs=1)
    last = folder / "logs/mine/version_0/checkpoints/last.ckpt"
    main(["fit", "--ckpt_path", str(last), "--trainer.max_epochs", "2"])
    assert (folder / "logs/mine/version_1/checkpoints/last.ckpt").is_file()
    assert not files(folder / "runs")


def test_a_fine_tuned_model_goes_on_without_the_weights_that_it_began_with(shards, folder):
    weights = folder / "resnet10t.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), weights)
    words = ["--model", "FinetuneClassifier", "--model.backbone", "resnet10t", *SMALL[4:]]
    words += ["--data.train", str(shards), "--predict_after_fit", "false"]
    main(["fit", *words, "--model.weights", str(weights), "--trainer.max_epochs", "1"])
    weights.unlink()
    for version in (0, 1):
        last = folder / f"runs/melanoma/version_{version}/checkpoints/last.ckpt"
        main(["fit", "--ckpt_path", str(last), "--trainer.max_epochs", str(version + 2)])
    assert (folder / "runs/melanoma/version_2/checkpoints/last.ckpt").is_file()
    # Another run by this config begins as the first one did.
    assert str(weights) in (folder / "runs/melanoma/version_2/config.yaml").read_text()


def calibration_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["calibration"]


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory):
    """Shards of 60 validation records that a line can be fitted to: brightness tells a little."""
    folder = tmp_path_factory.mktemp("overlapping")
    rng = np.random.default_rng(0)
    for prefix, start in (("train", 0), ("test", 1000)):
        for shard in range(4):
            records = []
            for number in range(start + 60 * shard, start + 60 * shard + 60):
                melanoma = int(rng.random() < 0.4)
                gray = np.clip(rng.normal(110 + 40 * melanoma, 40, (1, 1, 3)), 0, 255)
                pixels = np.tile(gray.astype(np.uint8), (32, 32, 1))
                image = simplejpeg.encode_jpeg(pixels, quality=94)
                records.append(serialize_example(fields(number, image=image, target=melanoma)))
            write_shard(folder / f"{prefix}{shard:02d}-60.tfrec", records)
    return folder


def log_odds_of(path):
    probabilities = pd.read_csv(path, float_precision="round_trip")["probability"]
    return np.log(probabilities) - np.log1p(-probabilities)


def test_fit_calibrates_its_best_checkpoint_and_predict_uses_that(overlapping, folder, capsys):
    fit(overlapping, "--model.augment", "none", "--model.learning_rate", "0.01", "--model.tta", "4")
    run = folder / "runs/melanoma/version_0"
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    found = calibration_of(best)
    assert "calibration" not in torch.load(last, weights_only=True)
    assert found["fault"] == ""
    assert (found["image_size"], found["tta"]) == (32, 4)
    table = read_predictions(run / "predictions/val.csv")
    assert found["logits"] == table["logit"].tolist()
    assert found["targets"] == table["target"].tolist()
    # The line is the most likely one, so that it brings the mean to the split's share.
    assert table["probability"].mean() == pytest.approx(table["target"].mean(), abs=1e-6)
    assert "calibration" not in table
    assert "Calibration, cross-fitted over 25 patients: log loss" in capsys.readouterr().err

    main(["predict", "--ckpt_path", str(best), "--experiment", "again"])
    again = folder / "runs/again/version_0"
    assert (again / "submission.csv").read_bytes() == (run / "submission.csv").read_bytes()
    main(["predict", "--ckpt_path", str(best), "--experiment", "rare", "--prevalence", "0.01"])
    rare = log_odds_of(folder / "runs/rare/version_0/predictions/test.csv")
    moved = rare - log_odds_of(run / "predictions/test.csv")
    share = table["target"].mean()
    np.testing.assert_allclose(moved, np.log(0.01 / 0.99) - np.log(share / (1 - share)))
    assert "calibration:" not in capsys.readouterr().err

    main(["predict", "--ckpt_path", str(last), "--experiment", "last"])
    assert capsys.readouterr().err.count("calibration: the checkpoint has none") == 1
    table = read_predictions(folder / "runs/last/version_0/predictions/test.csv")
    assert set(table["calibration"]) == {"prior correction only"}
    main(["predict", "--ckpt_path", str(best), "--experiment", "other", "--model.tta", "1"])
    assert "calibration: expected images of 32 pixels and model.tta 4" in capsys.readouterr().err


def test_a_run_that_goes_on_from_a_calibrated_checkpoint_calibrates_anew(overlapping, folder):
    words = ["--model.augment", "none", "--model.learning_rate", "0.01"]
    fit(overlapping, *words)
    best = folder / "runs/melanoma/version_0/checkpoints/best.ckpt"
    before = best.read_bytes()
    main(["fit", "--ckpt_path", str(best), "--trainer.max_epochs", "4"])
    assert best.read_bytes() == before
    second = folder / "runs/melanoma/version_1"
    found = calibration_of(second / "checkpoints/best.ckpt")
    assert found["logits"] == read_predictions(second / "predictions/val.csv")["logit"].tolist()
    assert "calibration" not in torch.load(second / "checkpoints/last.ckpt", weights_only=True)


def test_too_few_melanomas_leave_the_prior_correction_and_are_said(shards, folder, capsys):
    fit(shards, "--model.focal_gamma", "2", epochs=1)
    run = folder / "runs/melanoma/version_0"
    line = "calibration: expected at least 10 melanomas and as many benign images"
    assert line in capsys.readouterr().err
    best = run / "checkpoints/best.ckpt"
    assert line in calibration_of(best)["fault"]
    table = read_predictions(run / "predictions/test.csv")
    assert set(table["calibration"]) == {"prior correction only"}
    main(["predict", "--ckpt_path", str(best)])
    assert "no more, which is not exact with focal loss" in capsys.readouterr().err


def test_the_auroc_of_a_single_melanoma_has_no_interval(shards, folder, capsys):
    # One of four is a melanoma.
    write_shards(folder / "one", num_shards=1, num_records=4, start=800)
    fit(shards, "--data.val", "one", epochs=1)
    assert re.search(r"val.csv: 4 rows, AUROC \d\.\d{3} \(1 melanomas\)", capsys.readouterr().err)


@pytest.mark.slow
def test_balanced_weights_are_undone_on_images_that_nobody_fitted(folder):
    main(["synthesize", "--out", "demo", "--image_size", "64"])
    words = ["--data.train", "demo", "--data.test", "demo", "--trainer.max_epochs", "6"]
    main(["fit", "-c", str(SMOKE), *words, "--model.class_weights", "balanced", *SMALL[-4:]])
    table = read_predictions(folder / "runs/smoke/version_0/predictions/test.csv")
    targets = pd.read_csv("demo/solution.csv").set_index("image_name")["target"]
    prevalence = targets.loc[table["image_name"]].mean()
    # Of a binomial share of as many images: 95 % lie within 1.96 standard errors.
    band = 1.96 * np.sqrt(prevalence * (1 - prevalence) / len(table))
    assert (1 / (1 + np.exp(-table["logit"]))).mean() > 2 * prevalence
    assert abs(table["probability"].mean() - prevalence) < band


def test_a_submission_takes_the_order_of_a_sample(shards, folder):
    names = [f"ISIC_{n:07d}" for n in reversed(range(1000, 1010))]
    pd.DataFrame({"image_name": names, "target": 0}).to_csv("sample.csv", index=False)
    fit(shards, "--submission.sample", "sample.csv", epochs=1)
    submission = pd.read_csv(folder / "runs/melanoma/version_0/submission.csv")
    assert list(submission["image_name"]) == names


def test_a_csv_of_the_training_images_lets_the_test_images_be_predicted(shards, folder):
    names = [f"ISIC_{n:07d}" for n in range(32)]
    patients = [f"IP_{n // 4}" for n in range(32)]
    pd.DataFrame({"image_name": names, "patient_id": patients}).to_csv("train.csv", index=False)
    fit(shards, "--data.metadata", "train.csv", epochs=1)
    assert files(folder / "runs/melanoma/version_0") == RUN_FILES


def test_what_is_wrong_with_test_data_is_said_before_the_training(shards, folder, capsys):
    pd.DataFrame({"image_name": ["other"], "target": 0}).to_csv("sample.csv", index=False)
    words = ["--data.train", str(shards), *SMALL, "--data.test"]
    sample = ["--submission.sample", "sample.csv"]
    line = error_of(capsys, "fit", *words, str(shards), *sample)
    assert "expected the ids of sample.csv, found 1 missing" in line
    assert "nowhere: expected a shard" in error_of(capsys, "fit", *words, "nowhere")
    assert not list(folder.rglob("version_*"))
    main(["fit", *words, "nowhere", "--predict_after_fit", "false", "--trainer.max_epochs", "1"])
    main(["fit", *words, "nowhere", "--trainer.fast_dev_run", "true"])


def test_a_run_that_could_not_begin_leaves_no_folder(shards, folder, capsys):
    words = ["--data.train", "nofile", *SMALL]
    assert "expected a shard" in error_of(capsys, "fit", *words)
    assert not list(folder.rglob("version_*"))
    words = ["--data.train", str(shards), "--data.positive_rate", "0.001", *SMALL]
    assert "data.positive_rate" in error_of(capsys, "fit", *words)
    assert not list(folder.rglob("version_*"))


def test_a_fit_without_prediction_writes_none(shards, folder):
    fit(shards, "--predict_after_fit", "false", epochs=1)
    assert not {name for name in files(folder / "runs") if "submission" in name}


def start(shards, folder, *words):
    data = ["--data.train", str(shards), "--data.test", str(shards)]
    command = [sys.executable, "-m", "lightning_melanoma", "fit", *data, *SMALL, *words]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "Ctrl-C"]
)
def test_a_signal_leaves_the_last_step_and_the_run_goes_on(tmp_path, folder, number, status):
    write_shards(tmp_path / "many", num_shards=5, num_records=200)
    write_shards(tmp_path / "many", num_shards=1, num_records=5, prefix="test", start=5000)
    words = ["--trainer.max_epochs", "12"]
    process = start(tmp_path / "many", folder, *words)
    metrics = folder / "runs/melanoma/version_0/metrics.csv"
    for _ in range(1200):
        if metrics.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(number)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    last = folder / "runs/melanoma/version_0/checkpoints/last.ckpt"
    stopped = torch.load(last, weights_only=True)
    main(["fit", "--ckpt_path", str(last)])
    second = folder / "runs/melanoma/version_1"
    assert files(second) == RUN_FILES
    ended = torch.load(second / "checkpoints/last.ckpt", weights_only=True)
    # Nothing lost, nothing twice: 800 training records in batches of 8, twelve epochs.
    assert stopped["global_step"] < ended["global_step"] == 12 * 100
    assert [row["epoch"] for row in ended["epochs"]["history"]] == list(range(12))


@pytest.fixture
def signalled(monkeypatch):
    """Return a function that lets the first batch of a prediction send this process a signal."""

    def send(number):
        def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            if not batch_idx and not dataloader_idx:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(SubmissionWriter, "on_predict_batch_start", on_predict_batch_start)

    return send


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "Ctrl-C"]
)
def test_a_signal_ends_a_prediction_which_leaves_nothing(
    shards, folder, capsys, signalled, number, status
):
    fit(shards, "--predict_after_fit", "false", epochs=1)
    run = folder / "runs/melanoma/version_0"
    before = files(folder)
    signalled(number)
    with pytest.raises(SystemExit) as exit_:
        main(["predict", "--ckpt_path", str(run / "checkpoints/best.ckpt")])
    assert exit_.value.code == status
    assert capsys.readouterr().err.splitlines()[-1] == "Stopped."
    assert files(folder) == before


def test_a_signal_ends_the_prediction_of_fit(shards, folder, capsys, signalled):
    fit(shards, "--predict_after_fit", "false", epochs=1)
    last = folder / "runs/melanoma/version_0/checkpoints/last.ckpt"
    signalled(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_:
        # Nothing is left to train, so that there is no last step to keep either.
        main(["fit", "--ckpt_path", str(last), "--predict_after_fit", "true"])
    assert exit_.value.code == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "Stopped ahead of the predictions; .../checkpoints/best.ckpt is there."
    left = files(folder / "runs/melanoma/version_1")
    assert left == {"config.yaml", "checkpoints/best.ckpt"}


@pytest.mark.slow
def test_ctrl_c_ahead_of_the_training_leaves_no_demo_data_in_part(folder):
    command = [sys.executable, "-m", "lightning_melanoma", "fit", *SMALL]
    environment = {**os.environ, "LIGHTNING_MELANOMA_CACHE": str(folder / "cache")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    for _ in range(2400):
        if list(folder.glob("cache/.partial*")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not list(folder.glob("cache/*"))
    assert not files(folder / "runs")


def test_a_run_in_the_background_leaves_ctrl_c_to_others(monkeypatch):
    found = []
    monkeypatch.setattr(
        training, "MelanomaCLI", lambda words: found.append(signal.getsignal(signal.SIGINT))
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        training.run_trainer_command(["fit"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [signal.SIG_IGN]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_steps_to_the_same_end(tmp_path, folder):
    write_shards(tmp_path / "many", num_shards=5, num_records=40)
    write_shards(tmp_path / "many", num_shards=1, num_records=5, prefix="test", start=5000)
    # Every step: a process of this size ends before it can be killed between others.
    words = ["--trainer.max_epochs", "8", "--last_checkpoint.every_n_steps", "1"]
    process = start(tmp_path / "many", folder, *words)
    run = folder / "runs/melanoma"
    for _ in range(1200):
        if (run / "version_0/metrics.csv").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    process.stderr.close()
    last = run / "version_0/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] < 8 * 20
    main(["fit", "--ckpt_path", str(last)])
    fit(tmp_path / "many", *words, epochs=8)
    histories = [
        torch.load(run / f"version_{n}/checkpoints/last.ckpt", weights_only=True)["epochs"]
        for n in (1, 2)
    ]
    assert histories[0]["history"] == histories[1]["history"]
    submissions = [(run / f"version_{n}/submission.csv").read_bytes() for n in (1, 2)]
    assert submissions[0] == submissions[1]


@pytest.mark.slow
def test_two_processes_share_every_batch(shards, folder):
    words = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "1"]
    process = start(shards, folder, *words)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    run = folder / "runs/melanoma/version_0"
    assert files(run) == RUN_FILES
    names = list(pd.read_csv(run / "submission.csv")["image_name"])
    assert names == [f"ISIC_{n:07d}" for n in range(1000, 1010)]
    assert len(list((folder / "runs/melanoma").iterdir())) == 1


@pytest.mark.slow
def test_processes_that_freeze_a_backbone_need_to_know(shards, folder):
    backbone = ["--model", "FinetuneClassifier", "--model.backbone", "resnet10t"]
    words = [*backbone, "--model.weights", "none", *SMALL[4:], "--trainer.max_epochs", "2"]
    words += ["--data.train", str(shards), "--data.test", str(shards), "--trainer.devices", "2"]
    program = [sys.executable, "-m", "lightning_melanoma", "fit", *words, "--trainer.strategy"]
    refused = subprocess.run([*program, "ddp"], check=False, stderr=subprocess.PIPE, text=True)
    assert refused.returncode == 2
    assert "expected ddp_find_unused_parameters_true" in refused.stderr
    subprocess.run([*program, "ddp_find_unused_parameters_true"], check=True)
    # The refused run left no folder behind.
    assert files(folder / "runs/melanoma/version_0") >= RUN_FILES


# `validate` and `predict` need no average: the checkpoint's weights are the averaged ones.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_an_average_of_the_weights_is_validated_and_kept_and_predicts(shards, folder):
    callback = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"
    # Averages that decay so take 18 and 6, the records of this training, for 17 and 5.
    fit(shards, callback, "--trainer.callbacks.decay", "0.9")
    run = folder / "runs/melanoma/version_0"
    assert files(run) == RUN_FILES
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    name = "network.head.weight"
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
    num_validated = len(pd.read_csv(run / "predictions/val.csv"))
    assert checkpoint["state_dict"]["prior.counts"].sum() == 32 - num_validated
    best = str(run / "checkpoints/best.ckpt")
    main(["validate", "--ckpt_path", best, "--experiment", "again"])
    row = pd.read_csv(folder / "runs/again/version_0/metrics.csv").iloc[0]
    history = pd.read_csv(run / "metrics.csv")
    best_row = history.loc[history["val_auroc"].idxmax()]
    assert row["val_log_loss"] == pytest.approx(best_row["val_log_loss"], abs=1e-6)
    main(["predict", "--ckpt_path", best, "--experiment", "later"])
    at_once, later = (
        pd.read_csv(folder / f"runs/{name}/version_0/predictions/test.csv")
        for name in ("melanoma", "later")
    )
    pd.testing.assert_frame_equal(at_once, later)


def error_of(capsys, *words) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(list(words))
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bogus"], "command: expected one of fit"),
        (["fit", "--data.train", "nowhere/*"], "nowhere/*: expected shards"),
        (["fit", "--data.batch_size", "x"], "data.batch_size"),
        (["fit", "--nosuch", "1"], "nosuch"),
        (["fit", "-c", "nofile.yaml"], "nofile.yaml"),
        (
            ["fit", "--model", "FinetuneClassifier", "--model.backbone", "xcepton"],
            "the nearest are",
        ),
        (["fit", "--submission.sample", "nofile.csv"], "submission.sample: expected a CSV"),
        (["fit", "--model.augment_changes", "{hair: 1}"], "the nearest are hair_"),
        (
            ["fit", "--checkpoint.monitor", "val_aurc"],
            "checkpoint.monitor: expected a metric of metrics.csv, found 'val_aurc'; the nearest "
            "are val_auroc, ",
        ),
        (["fit", "--early_stopping.monitor", "val_los"], "early_stopping.monitor: expected a"),
        (["fit", "--prevalence", "2"], "prevalence: expected a share between 0 and 1, found 2"),
        (["fit", "--model.learning_rate", "-1"], "learning_rate: expected 0 or more, found -1"),
        (["fit", "--model.weight_decay", "-1"], "weight_decay: expected 0 or more, found -1"),
        (["fit", "--model.warmup_epochs", "-1"], "warmup_epochs: expected 0 or more, found -1"),
        (["fit", "--model.conv_dropout", "2"], "conv_dropout: expected a probability in [0, 1]"),
        (["fit", "--early_stopping.patience", "-1"], "patience: expected 0 or more, found -1"),
        (["fit", "--trainer.max_epochs", "0"], "trainer.max_epochs: expected at least 1, found 0"),
        (["fit", "--trainer.accumulate_grad_batches", "0"], "expected at least 1, found 0"),
        (["fit", "--trainer.gradient_clip_val", "-1"], "expected at least 0, found -1"),
        (["fit", "--trainer.limit_train_batches", "0"], "expected batches to train on, found 0"),
        (["fit", "--trainer.precision", "bf16-true"], "trainer.precision: expected 32-true, "),
        (["fit", "--trainer.precision", "64-true"], "found 64-true; parameters are float32"),
        (["fit", "--trainer.enable_checkpointing", "false"], "enable_checkpointing=False"),
        (["fit", "--trainer.accelerator", "mps"], "MPSAccelerator"),
        (["fit", "--seed_everything", "-3"], "-3 is not in bounds"),
        (["fit", "--trainer.logger", "CometLogger"], "comet-ml"),
        (["predict"], "ckpt_path: expected the checkpoint to predict with"),
        (
            ["predict", "--ckpt_path", "nofile.ckpt"],
            "ckpt_path: expected a checkpoint, found no file",
        ),
        (["fit", "--ckpt_path", "nofile.ckpt"], "ckpt_path: expected a checkpoint, found no file"),
        (
            ["convert", "--images", ".", "--csv", "nofile.csv", "--out", "o"],
            "csv: expected a table",
        ),
        (
            ["convert", "--images", ".", "--csv", "t.csv", "--out", "o", "--image_size", "0"],
            "image_size: expected at least 1 pixel, found 0",
        ),
        (
            ["synthesize", "--out", "o", "--num_train", "3"],
            "num_train: expected at least one image",
        ),
    ],
)
def test_what_the_user_got_wrong_is_one_line(folder, capsys, words, message):
    assert message in error_of(capsys, *words)
    assert not files(folder)


def test_a_checkpoint_in_a_config_file_is_one_line(folder, capsys):
    Path("again.yaml").write_text("ckpt_path: runs/one/version_0/checkpoints/best.ckpt\n")
    line = error_of(capsys, "validate", "-c", "again.yaml")
    assert "ckpt_path: expected it on the command line" in line


def test_a_file_that_is_no_checkpoint_is_one_line(folder, capsys):
    (folder / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, folder / "other.ckpt")
    for name in ("text.ckpt", "other.ckpt"):
        line = error_of(capsys, "predict", "--ckpt_path", name)
        assert f"expected a checkpoint of lightning_melanoma, found another file: {name}" in line


def test_a_checkpoint_of_another_model_is_one_line(shards, folder, capsys):
    fit(shards, epochs=1)
    best = str(folder / "runs/melanoma/version_0/checkpoints/best.ckpt")
    other = ["--model", "FinetuneClassifier", "--model.backbone", "resnet10t"]
    line = error_of(
        capsys, "predict", "--ckpt_path", best, *other, "--model.weights", "none", *SMALL[4:]
    )
    assert "expected one of FinetuneClassifier, found ScratchClassifier" in line
    line = error_of(capsys, "predict", "--ckpt_path", best, "--model.conv_channels", "[4, 16]")
    assert "expected network.features.1.0.weight of shape (16, 4, 3, 3), found (8, 4, 3, 3)" in line
    assert " and 10 more that differ; give the model settings" in line
    assert line.endswith("of the run that it is of: conv_channels [4, 8]")
    line = error_of(capsys, "predict", "--ckpt_path", best, "--model.use_age", "true")
    assert "expected age_term.slope of shape (), found none; give" in line
    assert line.endswith("settings of the run that it is of: use_age False")
    checkpoint = torch.load(best, weights_only=True)
    del checkpoint["hyper_parameters"]["use_age"]
    torch.save(checkpoint, "old.ckpt")
    line = error_of(capsys, "predict", "--ckpt_path", "old.ckpt", "--model.use_age", "true")
    assert line.endswith("settings of the run that it is of: no use_age")


def test_a_run_goes_on_by_its_own_optimizer_alone(shards, folder, capsys):
    fit(shards, epochs=1)
    last = "runs/melanoma/version_0/checkpoints/last.ckpt"
    line = error_of(capsys, "fit", "--ckpt_path", last, "--model.optimizer", "sgd")
    assert "expected model.optimizer adamw, whose state it holds, found sgd" in line
    assert [path.name for path in Path("runs/melanoma").iterdir()] == ["version_0"]


def test_a_damaged_shard_is_one_line_and_leaves_nothing(shards, folder, capsys):
    path = shards / "train01-8.tfrec"
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    line = error_of(capsys, "fit", "--data.train", str(shards), "--data.test", str(shards), *SMALL)
    assert "train01-8.tfrec: record 0 at byte 0: data CRC" in line
    assert not [name for name in files(folder) if "submission" in name or "ckpt" in name]


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"a,b\n1,2,3,4\n1\n1,2,3,4,5\n"])
def test_a_table_that_is_no_csv_is_one_line(shards, folder, capsys, content):
    (folder / "table.csv").write_bytes(content)
    data = ["--data.train", str(shards), "--data.metadata", "table.csv"]
    assert "table.csv: expected a CSV table, found: " in error_of(capsys, "fit", *data, *SMALL)
    words = ["convert", "--images", ".", "--csv", "table.csv", "--out", "out"]
    assert "table.csv: expected a CSV table, found: " in error_of(capsys, *words)
    assert not (folder / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line(shards, folder, capsys):
    (folder / "runs").write_text("a file")
    line = error_of(capsys, "fit", "--data.train", str(shards), "--data.test", str(shards), *SMALL)
    assert "runs" in line


def test_traceback_shows_where_an_error_was_found(folder):
    with pytest.raises(FileNotFoundError):
        main(["fit", "--traceback", "--data.train", "nowhere/*"])


class Faulty(pl.LightningModule):
    def training_step(self, batch):
        return {"no": "loss"}

    def configure_optimizers(self):
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_what_lightning_says_of_a_step_is_no_error_of_the_users(folder):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with pytest.raises(MisconfigurationException, match="training_step") as raised:
        trainer.fit(Faulty(), [torch.zeros(1)])
    assert _users_error(raised.value) is None


def test_help_tells_every_command(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "synthesize", "convert", "audit"):
        assert f"  {command}" in text


def test_a_command_may_open_as_many_files_as_the_system_allows(capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        main(["--version"])
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_neither_package_nor_help_imports_torch():
    code = (
        "import sys; from lightning_melanoma.cli import main; main(['--help']); "
        "assert not {'torch', 'pytorch_lightning', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_convert_writes_shards_that_fit_reads(folder):
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    names = [f"ISIC_{n:07d}" for n in range(24)]
    for number, name in enumerate(names):
        pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
        suffix = "png" if number % 2 else "jpg"
        Image.fromarray(pixels).save(folder / "images" / f"{name}.{suffix}")
    pd.DataFrame(
        {
            "image_id": names,
            "lesion_id": [f"HAM_{n // 2}" for n in range(24)],
            "dx": ["mel" if n % 3 == 0 else "nv" for n in range(24)],
            "age": [None if n == 5 else 40.0 + n for n in range(24)],
        }
    ).to_csv("ham.csv", index=False)
    columns = "{image_name: image_id, patient_id: lesion_id, diagnosis: dx, age_approx: age}"
    words = ["--columns", columns, "--melanoma", "[mel]", "--num_shards", "4", "--image_size", "32"]
    main(["convert", "--images", "images", "--csv", "ham.csv", "--out", "shards", *words])
    assert len(list((folder / "shards").glob("train0*.tfrec"))) == 4
    main(["fit", "--data.train", "shards", *SMALL, "--trainer.max_epochs", "1"])
    table = pd.read_csv(folder / "runs/melanoma/version_0/predictions/val.csv")
    assert set(table["patient_id"].str[:4]) == {"HAM_"}
    assert os.environ["LIGHTNING_MELANOMA_CACHE"]


def test_convert_keeps_ids_and_codes_that_look_like_numbers(folder):
    names = ["0012", "12", "007", "1e3"]
    plain_images(folder, *names)
    words = ["--columns", "{image_name: id}", "--melanoma", "['1']", "--num_shards", "1"]
    given = pd.DataFrame({"id": names, "diagnosis": [1, 2, 1, 2]})
    table = convert(given, "shards", *words)
    targets = dict(zip(table["image_name"], table["target"], strict=True))
    assert targets == {"0012": 1, "12": 0, "007": 1, "1e3": 0}


def plain_images(folder, *names):
    (folder / "images").mkdir()
    for name in names:
        Image.new("RGB", (32, 32)).save(folder / "images" / f"{name}.png")


def convert(table, out, *words):
    table.to_csv("table.csv", index=False)
    main(["convert", "--images", "images", "--csv", "table.csv", "--out", out, *words])
    return read_split(out, prefix="train", metadata=None, on_corrupt="raise").table


def test_convert_spreads_images_of_nobody_and_keeps_patients_whole(folder, capsys):
    names = [f"a{n}" for n in range(6)]
    plain_images(folder, *names)
    table = pd.DataFrame({"image_name": names, "target": 0, "patient_id": -1})
    found = convert(table, "out", "--num_shards", "3")
    assert found["shard"].value_counts().tolist() == [2, 2, 2]
    table.assign(patient_id=["p", "q"] * 3).to_csv("table.csv", index=False)
    words = ["--images", "images", "--csv", "table.csv", "--out", "two", "--num_shards", "3"]
    assert "num_shards: expected at most 2, found 3" in error_of(capsys, "convert", *words)
    assert not (folder / "two").exists()


def test_convert_takes_the_column_that_is_named_for_one_of_ours(folder):
    plain_images(folder, "a", "b")
    table = pd.DataFrame({"image_name": ["a", "b"], "diagnosis": "x", "dx": ["mel", "nv"]})
    words = ["--columns", "{diagnosis: dx}", "--melanoma", "[mel]", "--num_shards", "1"]
    assert set(convert(table, "out", *words)["diagnosis"]) == {"mel", "nv"}
    # One of our names may be what another of them is called there.
    table = pd.DataFrame({"image_name": ["p", "q"], "file": ["a", "b"], "target": [0, 1]})
    columns = "{image_name: file, patient_id: image_name}"
    found = convert(table, "other", "--columns", columns, "--num_shards", "1")
    assert dict(zip(found["image_name"], found["patient_id"], strict=True)) == {"a": "p", "b": "q"}


def test_shards_that_are_trained_on_are_not_the_test_shards(shards, folder, capsys):
    for path in shards.glob("test*"):
        path.unlink()
    words = ["--data.train", str(shards), "--data.test", str(shards), *SMALL]
    assert "data.test: expected shards of its own" in error_of(capsys, "fit", *words)
    assert not list(folder.rglob("version_*"))
