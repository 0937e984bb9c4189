from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xla_processes import needs_torch_xla, run_on_xla

from lightning_melanoma.cli import main
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.scoring.command import Scores
from lightning_melanoma.scoring.command import score as score_files


@pytest.fixture(scope="module")
def aged(tmp_path_factory, demo) -> Path:
    """A run whose model uses the age."""
    folder = tmp_path_factory.mktemp("aged")
    main(
        [
            "fit",
            *("--data.train", str(demo), "--data.test", str(demo), "--data.num_folds", "2"),
            *("--data.image_size", "48", "--data.batch_size", "16"),
            *("--model.conv_channels", "[8, 16]", "--model.deconv_channels", "[]"),
            *("--model.use_age", "true", "--model.learning_rate", "0.01"),
            *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
            *("--trainer.max_epochs", "3", "--experiment", "aged"),
            *("--trainer.default_root_dir", str(folder)),
        ]
    )
    return folder / "aged/version_0"


@pytest.fixture(scope="module")
def lesions(tmp_path_factory, demo) -> Path:
    """A folder with the test images of the demo data, and `ages.csv` with what is known of them."""
    folder = tmp_path_factory.mktemp("lesions")
    module = MelanomaDataModule(test=str(demo), image_size=48)
    table = module.table("test")
    for row, name in enumerate(table["image_name"]):
        image = module.loader("test").source.images.records.image(row)
        (folder / f"{name}.jpg").write_bytes(image)
    table[["image_name", "age_approx"]].to_csv(folder.parent / "ages.csv", index=False)
    return folder


def score(lesions, run, **settings) -> Scores:
    best = run / "checkpoints/best.ckpt"
    return score_files(f"{lesions}/*", best, accelerator="cpu", views=1, **settings)


def log_odds(probabilities) -> np.ndarray:
    values = np.asarray(probabilities)
    return np.log(values) - np.log1p(-values)


def test_with_ages_probabilities_are_those_of_the_prediction_table(aged, lesions):
    scores = score(lesions, aged, metadata=str(lesions.parent / "ages.csv"))
    predicted = pd.read_csv(aged / "predictions/test.csv").set_index("image_name")["probability"]
    names = [Path(file).stem for file in scores.table["file"]]
    found, expected = log_odds(scores.table["probability"]), log_odds(predicted[names])
    assert found == pytest.approx(expected, abs=1e-3)
    assert "patient's age" not in scores.text
    # The term tells: without it these are other numbers.
    alone = score(lesions, aged)
    assert np.abs(log_odds(alone.table["probability"]) - expected).max() > 0.05
    assert "40 of 40 images came without the patient's age" in alone.text


def test_an_unknown_age_counts_as_the_middle_one(aged, lesions, tmp_path):
    names = sorted(path.stem for path in lesions.iterdir())
    ages = pd.DataFrame(
        {"image_name": names, "age_approx": [50.0] * 20 + [None] * 10 + [-1] * 5 + [999] * 5}
    )
    ages.to_csv(tmp_path / "ages.csv", index=False)
    scores = score(lesions, aged, metadata=str(tmp_path / "ages.csv"))
    pd.testing.assert_frame_equal(scores.table, score(lesions, aged).table)
    assert "20 of 40 images came without the patient's age" in scores.text


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("image_name,age\nISIC_1,50", "expected also the column age_approx"),
        ("image_name,age_approx\na,50\na,60", "expected unique ids"),
        ("image_name,age_approx\na,50", "expected the files' names without their suffix"),
        ("image_name,age_approx\na,old", "expected a CSV table"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(aged, lesions, tmp_path, csv, message):
    (tmp_path / "ages.csv").write_text(f"{csv}\n")
    with pytest.raises(ValueError, match=message):
        score(lesions, aged, metadata=str(tmp_path / "ages.csv"))


def test_ages_for_a_checkpoint_that_uses_none_are_refused(runs, lesions):
    with pytest.raises(ValueError, match=r"expected a checkpoint that uses the age"):
        score(lesions, runs / "one/version_0", metadata=str(lesions.parent / "ages.csv"))


@needs_torch_xla
@pytest.mark.slow
def test_xla_devices_take_the_age_of_each_image(aged, lesions, tmp_path):
    ages, out = lesions.parent / "ages.csv", tmp_path / "xla.csv"
    words = ["score", str(lesions), "--ckpt_path", str(aged / "checkpoints/best.ckpt")]
    words += ["--metadata", str(ages), "--views", "1", "--accelerator", "xla", "--out", str(out)]
    # 40 images on 3 devices: in one batch of 42.
    run_on_xla(f"from lightning_melanoma.cli import main; main({words})", num_devices=3)
    ours, theirs = pd.read_csv(out), score(lesions, aged, metadata=str(ages)).table
    assert log_odds(ours["probability"]) == pytest.approx(log_odds(theirs["probability"]), abs=0.02)
