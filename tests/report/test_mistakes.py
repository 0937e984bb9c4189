import base64
import gzip
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import jpeg, write_shards
from PIL import Image

from lightning_melanoma.cli import main
from lightning_melanoma.predictions import prediction_table, write_predictions
from lightning_melanoma.records.example import serialize_example
from lightning_melanoma.records.tfrecord import write_shard

NUM_IMAGES = 40


@pytest.fixture
def table(tmp_path):
    """Predictions of 40 records, every fourth a melanoma, in the order of `conftest.fields`."""
    numbers = np.arange(NUM_IMAGES)
    records = {
        "image_name": [f"ISIC_{number:07d}" for number in numbers],
        "target": (numbers % 4 == 0).astype(int),
        "sex": "female",
        "age_approx": 45.0,
        "anatom_site_general_challenge": "3",
    }
    logits = np.random.default_rng(0).normal(1.0 * records["target"], 1)
    write_predictions(prediction_table(pd.DataFrame(records), logits), tmp_path / "val.csv")
    return tmp_path / "val.csv"


@pytest.fixture
def folder(tmp_path):
    shards = tmp_path / "shards"
    write_shards(shards, num_shards=4, num_records=10)
    return shards


def evaluate(table, *words, out):
    names = ["--predictions", str(table), "--out", str(out), "--num_draws", "20"]
    main(["evaluate", *names, "--sensitivity", "0.7", *map(str, words)])
    return (out / "report.html").read_text(), json.loads((out / "metrics.json").read_text())


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, words)])
    assert stopped.value.code == 2
    # Above it there may be the bar of the index.
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown.splitlines()[-1]


def test_most_confident_mistakes_are_named_and_worst_first(table, tmp_path):
    page, numbers = evaluate(table, out=tmp_path / "out")
    rows = pd.read_csv(table)
    (of_table,) = numbers["tables"]
    called = rows["probability"] >= of_table["threshold"]
    missed = rows[(rows["target"] == 1) & ~called].sort_values("probability")
    false_alarms = rows[(rows["target"] == 0) & called].sort_values("probability", ascending=False)
    found = of_table["mistakes"]
    for side, expected in (("missed", missed), ("false_alarms", false_alarms)):
        assert len(expected) > 0
        names = [one["image_name"] for one in found[side]]
        assert names == expected["image_name"].tolist()[:6]
        assert all(name in page for name in names)
    # A code says nothing to a reader.
    assert "45 years, female<" in page


def test_pictures_are_the_images_of_the_shards(table, folder, tmp_path):
    page, numbers = evaluate(table, "--images", folder, out=tmp_path / "out")
    shown = dict(re.findall(r'<img alt="(ISIC_\d+)" src="data:image/jpeg;base64,([^"]+)"', page))
    (of_table,) = numbers["tables"]
    names = [one["image_name"] for side in of_table["mistakes"].values() for one in side]
    assert list(shown) == names
    for name, data in shown.items():
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)
        original = np.asarray(Image.open(io.BytesIO(jpeg(int(name[5:])))), dtype=float)
        # Grey levels of 255: one plain colour, encoded twice.
        assert np.abs(pixels - original).max() < 6


def test_large_pictures_are_shrunk_in_their_proportions_and_lose_what_else_they_say(
    table, tmp_path
):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    Image.new("RGB", (1200, 900), (200, 150, 120)).save(stream, "JPEG", exif=exif)
    fields = [
        {"image": stream.getvalue(), "image_name": f"ISIC_{number:07d}"} for number in range(40)
    ]
    write_shard(tmp_path / "all.tfrec", map(serialize_example, fields))
    page, _ = evaluate(table, "--images", tmp_path / "all.tfrec", out=tmp_path / "out")
    (data, *_) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    picture = base64.b64decode(data)
    assert Image.open(io.BytesIO(picture)).size == (360, 270)
    assert b"Jane Doe" not in picture


def test_anonymous_report_has_no_id_and_no_picture(table, tmp_path):
    page, numbers = evaluate(table, "--anonymous", "true", out=tmp_path / "out")
    assert "mistakes" not in numbers["tables"][0]
    assert "ISIC_" not in page + json.dumps(numbers)
    assert "image/jpeg" not in page
    for path in (tmp_path / "out").glob("*.png"):
        assert b"ISIC_" not in path.read_bytes()


def test_anonymous_with_images_is_refused(table, folder, tmp_path, capsys):
    words = ["--predictions", table, "--out", tmp_path / "out"]
    line = fails(capsys, *words, "--images", folder, "--anonymous", "true")
    assert "anonymous: expected no images with it, found some" in line


def test_shards_without_the_images_are_one_line(table, tmp_path, capsys):
    write_shards(tmp_path / "others", num_shards=1, num_records=5, start=5000)
    words = ["--predictions", table, "--out", tmp_path / "out", "--images", tmp_path / "others"]
    line = fails(capsys, *words)
    assert re.search(r"found no record of ISIC_\d+, ISIC_\d+, ISIC_\d+ and \d+ more; name", line)
    assert not (tmp_path / "out").exists()


def test_shards_that_cannot_be_unpacked_are_one_line(table, folder, tmp_path, capsys):
    for path in folder.iterdir():
        path.write_bytes(gzip.compress(path.read_bytes())[:-10])
    words = ["--predictions", table, "--out", tmp_path / "out", "--images", folder]
    assert "expected a whole gzip file" in fails(capsys, *words)


def test_image_that_cannot_be_read_is_one_line(table, tmp_path, capsys):
    write_shards(tmp_path / "broken", num_shards=1, num_records=40, image=b"no image at all")
    words = ["--predictions", table, "--out", tmp_path / "out", "--images", tmp_path / "broken"]
    line = fails(capsys, *words)
    assert re.search(r"train00-40.tfrec: record \d+ at byte \d+: expected a JPEG or PNG", line)


def test_image_called_like_markup_cannot_break_the_page(table, tmp_path):
    rows = pd.read_csv(table)
    rows["image_name"] = "<script>" + rows["image_name"]
    rows["anatom_site_general_challenge"] = "<b>"
    rows.to_csv(table, index=False)
    page, _ = evaluate(table, out=tmp_path / "out")
    assert "<script>" not in page
    assert "<b>," not in page
    assert "&lt;script&gt;ISIC" in page
