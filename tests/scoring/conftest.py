"""A small data set of drawn lesions, and checkpoints that were trained on it for a moment."""

from pathlib import Path

import pytest

from lightning_melanoma.cli import main
from lightning_melanoma.data.synthetic import synthesize


@pytest.fixture(scope="session")
def demo(tmp_path_factory, _own_cache) -> Path:
    """A folder with 4 shards of 40 drawn lesions, 64 of them melanomas."""
    folder = tmp_path_factory.mktemp("demo") / "shards"
    synthesize(
        folder,
        num_train=160,
        num_test=40,
        image_size=48,
        prevalence=0.4,
        num_shards=4,
        num_test_shards=1,
    )
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, demo) -> Path:
    """A folder with runs `one` and `two`, which hold out different halves of the patients."""
    folder = tmp_path_factory.mktemp("runs")
    for fold, name in enumerate(("one", "two")):
        main(
            [
                "fit",
                *("--data.train", str(demo), "--data.test", str(demo), "--data.num_folds", "2"),
                *("--data.fold", str(fold), "--data.image_size", "48", "--data.batch_size", "16"),
                *("--model.conv_channels", "[8, 16]", "--model.deconv_channels", "[]"),
                *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
                *("--trainer.max_epochs", "3", "--experiment", name),
                *("--trainer.default_root_dir", str(folder)),
            ]
        )
    return folder


@pytest.fixture(scope="session")
def checkpoint(runs) -> str:
    """The path of a calibrated checkpoint."""
    return str(runs / "one/version_0/checkpoints/best.ckpt")
