from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from xla_processes import needs_torch_xla, run_on_xla

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.scoring.command import Scores
from lightning_melanoma.scoring.command import score as score_files


@pytest.fixture(scope="module")
def aged(train) -> Path:
    """A run whose model uses the age."""
    return train("aged", "--model.use_age", "true", "--model.learning_rate", "0.01")


@pytest.fixture(scope="module")
def ages(tmp_path_factory, demo) -> str:
    """A CSV with the ages that the demo data tells of its test images."""
    path = tmp_path_factory.mktemp("ages") / "ages.csv"
    table = MelanomaDataModule(test=str(demo), image_size=48).table("test")
    table[["image_name", "age_approx"]].to_csv(path, index=False)
    return str(path)


def score(lesion_files, run, **settings) -> Scores:
    best = run / "checkpoints/best.ckpt"
    return score_files(f"{lesion_files}/*", best, accelerator="cpu", views=1, **settings)


def test_with_ages_probabilities_are_those_of_the_prediction_table(aged, lesion_files, ages):
    scores = score(lesion_files, aged, metadata=ages)
    predicted = pd.read_csv(aged / "predictions/test.csv").set_index("image_name")["probability"]
    names = [Path(file).stem for file in scores.table["file"]]
    expected = logit([*predicted[names]])
    assert logit([*scores.table["probability"]]) == pytest.approx(expected, abs=1e-3)
    assert "patient's age" not in scores.text
    # The term tells: without it these are other numbers.
    alone = score(lesion_files, aged)
    assert np.abs(logit([*alone.table["probability"]]) - expected).max() > 0.05
    assert "40 of 40 images came without the patient's age" in alone.text


def test_an_unknown_age_counts_as_the_middle_one(aged, lesion_files, tmp_path):
    names = sorted(path.stem for path in lesion_files.iterdir())
    ages = pd.DataFrame(
        {"image_name": names, "age_approx": [50.0] * 20 + [None] * 10 + [-1] * 5 + [999] * 5}
    )
    ages.to_csv(tmp_path / "ages.csv", index=False)
    scores = score(lesion_files, aged, metadata=str(tmp_path / "ages.csv"))
    without = score(lesion_files, aged).table
    pd.testing.assert_frame_equal(scores.table.drop(columns="note"), without.drop(columns="note"))
    is_noted = scores.table["note"].str.contains("age unknown, counts as 50")
    assert is_noted.tolist() == [False] * 20 + [True] * 20
    assert without["note"].str.contains("age unknown").all()
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
def test_a_table_that_does_not_fit_is_one_line(aged, lesion_files, tmp_path, csv, message):
    (tmp_path / "ages.csv").write_text(f"{csv}\n")
    with pytest.raises(ValueError, match=message):
        score(lesion_files, aged, metadata=str(tmp_path / "ages.csv"))


def test_ages_for_a_checkpoint_that_uses_none_are_refused(runs, lesion_files, ages):
    with pytest.raises(ValueError, match=r"expected a checkpoint that uses the age"):
        score(lesion_files, runs / "one/version_0", metadata=ages)


@needs_torch_xla
@pytest.mark.slow
def test_xla_devices_take_the_age_of_each_image(aged, lesion_files, ages, tmp_path):
    out = tmp_path / "xla.csv"
    words = ["score", str(lesion_files), "--ckpt_path", str(aged / "checkpoints/best.ckpt")]
    words += ["--metadata", ages, "--views", "1", "--accelerator", "xla", "--out", str(out)]
    # 40 images on 3 devices: in one batch of 42.
    run_on_xla(f"from lightning_melanoma.cli import main; main({words})", num_devices=3)
    ours, theirs = pd.read_csv(out), score(lesion_files, aged, metadata=ages).table
    assert logit([*ours["probability"]]) == pytest.approx(logit([*theirs["probability"]]), abs=0.02)
