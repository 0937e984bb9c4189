import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from image_files import encoded, huge_png
from PIL import Image
from scipy.special import logit
from xla_processes import needs_torch_xla, run_on_xla

import lightning_melanoma
from lightning_melanoma.cli import main
from lightning_melanoma.scoring.judging import NUMBERS

REAL = Path(__file__).parents[3] / "shared/data/native/jpeg"


def run(*words, status=0) -> pd.DataFrame:
    """Run the command, and return the table that it wrote."""
    with pytest.raises(SystemExit) as exit_:
        main(["score", *map(str, words), "--accelerator", "cpu", "--out", "scores.csv"])
    assert exit_.value.code == status
    return pd.read_csv("scores.csv", keep_default_na=False, na_values=[""])


def error_of(capsys, *words) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["score", *map(str, words), "--accelerator", "cpu"])
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lesions(lesion_files, folder) -> Path:
    """A folder with the 40 test images of the demo data as JPEG files."""
    return Path(shutil.copytree(lesion_files, folder / "lesions"))


def test_images_have_a_probability_an_interval_a_range_and_a_decision(lesions, checkpoint, capsys):
    table = run("lesions", "--ckpt_path", checkpoint, "--miss_rate", 0.2)
    assert list(table.columns) == ["file", *NUMBERS, "decision", "note"]
    assert list(table["file"]) == [f"lesions/{path.name}" for path in sorted(lesions.iterdir())]
    assert table[list(NUMBERS)].stack().between(0, 1).all()
    assert (table["lower"] <= table["upper"]).all()
    assert (table["views_lower"] <= table["probability"]).all()
    assert (table["probability"] <= table["views_upper"]).all()
    assert set(table["decision"]) <= {"melanoma", "benign", "refer"}
    assert table.loc[table["note"].notna(), "decision"].eq("refer").all()
    text = capsys.readouterr().out
    assert "melanomas among" in text
    assert "40 images: " in text
    assert text.rstrip().endswith("no medical device: it takes the place of no examination.")


def test_probabilities_are_those_of_the_prediction_table(lesions, runs, checkpoint):
    table = run("lesions", "--ckpt_path", checkpoint, "--views", 1)
    assert table["views_lower"].isna().all()
    predicted = pd.read_csv(runs / "one/version_0/predictions/test.csv")
    expected = predicted.set_index("image_name")["probability"]
    names = [Path(file).stem for file in table["file"]]
    # Sums in another order, of other batches.
    assert logit([*table["probability"]]) == pytest.approx(logit([*expected[names]]), abs=1e-3)


def test_what_cannot_be_scored_has_its_reason_and_the_rest_is_scored(lesions, checkpoint, capsys):
    alone = run(lesions, "--ckpt_path", checkpoint)
    whole = next(lesions.iterdir()).read_bytes()
    contents = {
        "notes.txt": b"no image",
        "truncated.jpg": whole[: len(whole) // 2],
        "huge.png": huge_png(),
        "empty.jpg": b"",
    }
    for name, data in contents.items():
        (lesions / name).write_bytes(data)
    table = run(lesions, "--ckpt_path", checkpoint, status=1)
    is_fault = table["file"].map(lambda file: Path(file).name in contents)
    faults = table[is_fault].set_index(table["file"].map(lambda file: Path(file).name)[is_fault])
    assert faults[[*NUMBERS, "decision"]].isna().all(axis=None)
    for name, reason in {
        "notes.txt": "expected a JPEG or PNG image, found 8 bytes",
        "truncated.jpg": "expected a whole JPEG, found a damaged one",
        "huge.png": "expected at most 100,000,000 pixels",
        "empty.jpg": "found 0 bytes",
    }.items():
        assert reason in faults.loc[name, "note"]
    assert "4 of 44 files could not be scored." in capsys.readouterr().out
    scored = table[~is_fault].reset_index(drop=True)
    assert scored["probability"].to_numpy() == pytest.approx(alone["probability"], abs=1e-6)
    assert scored["decision"].equals(alone["decision"])


def test_kind_and_rotation_of_a_file_change_nothing(lesions, checkpoint, folder):
    picture = Image.open(sorted(lesions.iterdir())[0]).convert("RGB")
    exif = Image.Exif()
    # 6: to be turned by a quarter, clockwise.
    exif[0x0112] = 6
    grey = picture.convert("L")
    files = {
        "plain.png": encoded(picture, "PNG"),
        "alpha.png": encoded(picture.convert("RGBA"), "PNG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG", quality=100, subsampling=0),
        "turned.jpg": encoded(
            picture.transpose(Image.Transpose.ROTATE_90),
            "JPEG",
            quality=100,
            subsampling=0,
            exif=exif,
        ),
        "grey.png": encoded(grey, "PNG"),
        "grey_rgb.png": encoded(grey.convert("RGB"), "PNG"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    odds = logit([*run(*files, "--ckpt_path", checkpoint)["probability"]])
    assert odds[1] == odds[0]
    assert odds[5] == odds[4]
    # JPEG at its best is off by a grey level, CMYK by some.
    assert odds[2:4] == pytest.approx(odds[:1].repeat(2), abs=0.2)


def test_several_checkpoints_say_the_mean_of_their_log_odds(lesions, runs, checkpoint):
    other = str(runs / "two/version_0/checkpoints/best.ckpt")
    single = [run(lesions, "--ckpt_path", path)["probability"] for path in (checkpoint, other)]
    both = run(lesions, "--ckpt_path", checkpoint, other)
    expected = np.mean([logit([*each]) for each in single], axis=0)
    assert logit([*both["probability"]]) == pytest.approx(expected, abs=1e-9)
    twice = run(lesions, "--ckpt_path", checkpoint, checkpoint)
    once = run(lesions, "--ckpt_path", checkpoint)
    pd.testing.assert_frame_equal(twice, once)


def test_another_prevalence_moves_the_probability_and_no_decision(lesions, checkpoint):
    here = run(lesions, "--ckpt_path", checkpoint)
    there = run(lesions, "--ckpt_path", checkpoint, "--prevalence", 0.02)
    moved = logit([*there["probability"]]) - logit([*here["probability"]])
    assert moved == pytest.approx(moved[0], abs=1e-9)
    assert moved[0] < -2
    assert (there["upper"] <= here["upper"]).all()
    assert there["decision"].equals(here["decision"])


@pytest.fixture
def uncalibrated(checkpoint, folder) -> str:
    """A checkpoint without calibration and gate."""
    content = torch.load(checkpoint, weights_only=True)
    for name in ("calibration", "novelty"):
        del content[name]
    torch.save(content, folder / "raw.ckpt")
    return "raw.ckpt"


def test_a_checkpoint_without_calibration_gives_marked_raw_probabilities(
    lesions, uncalibrated, capsys
):
    table = run(lesions, "--ckpt_path", uncalibrated)
    assert table["probability"].between(0, 1).all()
    assert table[["lower", "upper", "decision"]].isna().all(axis=None)
    assert table["note"].eq("raw probability: no calibration").all()
    text = capsys.readouterr().out
    assert "raw.ckpt has no calibration" in text
    assert "Nothing was checked for a lesion in view" in text
    line = error_of(capsys, lesions, "--ckpt_path", uncalibrated, "--miss_rate", "0.1")
    assert "miss_rate: expected checkpoints with a calibration, found none in raw.ckpt" in line


def test_json_tells_what_the_table_goes_by(lesions, checkpoint):
    (lesions / "empty.jpg").write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["score", "lesions", "--ckpt_path", checkpoint, "--out", "scores.json"])
    table = run(lesions.name, "--ckpt_path", checkpoint, status=1)
    found = json.loads(Path("scores.json").read_text())
    assert found["checkpoints"] == [checkpoint]
    assert 0 < found["melanoma_from"] == found["benign_below"] < 1
    assert "no medical device" in found["notice"]
    rows = {row["file"]: row for row in found["images"]}
    assert rows["lesions/empty.jpg"]["probability"] is None
    for row in table.dropna(subset="probability").to_dict("records"):
        assert rows[row["file"]]["probability"] == pytest.approx(row["probability"], abs=1e-6)


def test_it_is_there_from_python_without_torch_before(lesions, checkpoint):
    scores = lightning_melanoma.score(lesions, checkpoint, accelerator="cpu")
    assert len(scores.table) == 40
    assert scores.exit_status == 0
    assert scores.text.endswith("no examination.")
    code = (
        "import sys, lightning_melanoma; assert not {'torch', 'pandas'} & set(sys.modules); "
        "assert callable(lightning_melanoma.score)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        _ = lightning_melanoma.other


def test_a_rate_that_the_calibration_does_not_support_is_refused(lesions, checkpoint, capsys):
    line = error_of(capsys, lesions, "--ckpt_path", checkpoint, "--miss_rate", "0.001")
    assert "miss_rate: expected at least 0.0" in line
    assert "melanomas of the calibration set support, found 0.001" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.jpg", "--ckpt_path", "no.ckpt"], "ckpt_path: expected a checkpoint, found no file"),
        (["a.jpg"], "ckpt_path: expected at least one path, found none; give --ckpt_path"),
        (["a.jpg", "--ckpt_path", "other.ckpt"], "expected a checkpoint of lightning_melanoma"),
        (["no.jpg", "--ckpt_path", "CHECKPOINT"], "images: expected image files, found none at"),
        (["a.jpg", "--ckpt_path", "CHECKPOINT", "--out", "a.txt"], "ends with .csv or .json"),
        (["a.jpg", "--ckpt_path", "CHECKPOINT", "--sensitivity", "2"], "sensitivity: expected"),
        (
            ["a.jpg", "--ckpt_path", "CHECKPOINT", "--prevalence", "1"],
            "prevalence: expected a share",
        ),
        (["a.jpg", "--ckpt_path", "CHECKPOINT", "--views", "3"], "views"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(folder, checkpoint, capsys, words, message):
    torch.save({"state_dict": {}}, "other.ckpt")
    Path("a.jpg").write_bytes(b"")
    words = [checkpoint if word == "CHECKPOINT" else word for word in words]
    assert message in error_of(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "old.csv"], "out: expected a file, found a folder: old.csv; name a file in it"),
        (["--out", "a.txt/s.csv"], "out: expected a place that can be written, found a.txt/s.csv"),
        (["--out", f"{'s' * 300}.csv"], "(File name too long); name another"),
        (["--explain", "a.txt"], "explain: expected a place that can be written, found a.txt (Not"),
        (["--explain", "a.txt/b"], "explain: expected a place that can be written, found a.txt/b"),
        (["--explain", "s.csv"], "out: expected a file, found a folder: s.csv; name a file in it"),
        (["--prevalence", "1.5"], "prevalence: expected a share between 0 and 1, found 1.5"),
        pytest.param(
            ["--explain", "looked_at", "--accelerator", "cuda"],
            "`CUDAAccelerator` can not run on your system",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without"),
        ),
    ],
)
def test_nothing_is_scored_whose_outcome_would_be_lost(lesions, checkpoint, capsys, words, message):
    Path("old.csv").mkdir()
    Path("a.txt").write_text("not to be replaced")
    before = {"lesions", "old.csv", "a.txt"}
    where = ["--accelerator", "cpu", "--out", "s.csv"]
    with pytest.raises(SystemExit) as exit_:
        main(["score", "lesions", "--ckpt_path", checkpoint, *where, *words])
    assert exit_.value.code == 2
    found = capsys.readouterr()
    assert message in found.err
    # The bar of the prediction.
    assert "Predicting" not in found.out + found.err
    assert {path.name for path in Path().iterdir() if path.name != "s.csv"} == before
    assert not Path("s.csv").is_file()


def test_folders_of_what_is_written_are_made(lesions, checkpoint):
    words = ["score", "lesions", "--ckpt_path", checkpoint, "--accelerator", "cpu"]
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--out", "looked_at/tables/s.csv", "--explain", "looked_at"])
    assert exit_.value.code == 0
    assert [path.name for path in Path("looked_at/tables").iterdir()] == ["s.csv"]
    assert len(list(Path("looked_at").iterdir())) == 41


@needs_torch_xla
@pytest.mark.slow
def test_xla_devices_say_what_the_cpu_says(lesions, checkpoint):
    words = ["score", "lesions", "--ckpt_path", checkpoint, "--accelerator", "xla"]
    program = f"from lightning_melanoma.cli import main; main({[*words, '--out', 'xla.csv']})"
    # 40 images on 3 devices: in one batch of 42.
    run_on_xla(program, num_devices=3)
    theirs, ours = run("lesions", "--ckpt_path", checkpoint), pd.read_csv("xla.csv")
    # Sums of float32 in another order, stretched by a temperature far below 1.
    assert logit([*ours["probability"]]) == pytest.approx(logit([*theirs["probability"]]), abs=0.02)
    assert (ours["decision"] == theirs["decision"]).mean() > 0.9


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images beside the checkout")
def test_real_images_are_scored(folder, checkpoint):
    table = run(REAL, "--ckpt_path", checkpoint)
    assert len(table) == 30
    assert table["probability"].between(0, 1).all()
