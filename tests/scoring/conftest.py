"""A small data set of drawn lesions, and checkpoints that were trained on it for a moment."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_melanoma.cli import main
from lightning_melanoma.data.datamodule import MelanomaDataModule
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
def train(tmp_path_factory, demo) -> Callable[..., Path]:
    """What trains for a moment by the words given, and returns the run's folder."""
    folder = tmp_path_factory.mktemp("runs")

    def train(name: str, *words: str) -> Path:
        main(
            [
                "fit",
                *("--data.train", str(demo), "--data.test", str(demo), "--data.num_folds", "2"),
                *("--data.image_size", "48", "--data.batch_size", "16"),
                *("--model.conv_channels", "[8, 16]", "--model.deconv_channels", "[]"),
                *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
                *("--trainer.max_epochs", "3", "--experiment", name),
                *("--trainer.default_root_dir", str(folder), *words),
            ]
        )
        return folder / name / "version_0"

    return train


@pytest.fixture(scope="session")
def runs(train) -> Path:
    """A folder with runs `one` and `two`, which hold out different halves of the patients."""
    train("one", "--data.fold", "0")
    return train("two", "--data.fold", "1").parents[1]


@pytest.fixture(scope="session")
def checkpoint(runs) -> str:
    """The path of a calibrated checkpoint."""
    return str(runs / "one/version_0/checkpoints/best.ckpt")


@pytest.fixture(scope="session")
def lesion_files(tmp_path_factory, demo) -> Path:
    """A folder with the 40 test images of the demo data as JPEG files: to read."""
    folder = tmp_path_factory.mktemp("lesions")
    module = MelanomaDataModule(test=str(demo), image_size=48)
    for row, name in enumerate(module.table("test")["image_name"]):
        image = module.loader("test").source.images.records.image(row)
        (folder / f"{name}.jpg").write_bytes(image)
    return folder
