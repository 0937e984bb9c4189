import re

import pandas as pd
import pytest
from PIL import Image

from lightning_melanoma.data.convert import convert
from lightning_melanoma.data.table import read_split

NAMES = ["a", "b", "c"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with images of `NAMES` in `images`."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        save_image(tmp_path / "images" / f"{name}.png")
    return tmp_path


def save_image(path):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32)).save(path)


def converted(table, *, prefix="train", **settings):
    """Records of images `NAMES` and a table with these columns, too."""
    table = pd.DataFrame({"image_name": NAMES} | table)
    table.to_csv("table.csv", index=False)
    convert("images", "table.csv", "out", num_shards=1, prefix=prefix, **settings)
    return read_split("out", prefix=prefix, metadata=None, on_corrupt="raise").table


def refusal(folder, table, **settings):
    with pytest.raises(ValueError, match=": expected ") as raised:
        converted(table, **settings)
    assert not (folder / "out").exists()
    return str(raised.value)


@pytest.mark.parametrize("second", ["thumbs/a.png", "a.jpg", "a.JPG"])
def test_two_files_of_one_image_are_refused_by_name(folder, second):
    save_image(folder / "images" / second)
    line = refusal(folder, {"target": [0, 1, 0]})
    assert re.match("images: expected one file for a, found images/.* and images/", line)
    assert "images/a.png" in line
    assert f"images/{second}" in line
    assert line.endswith("; take one of them out of images")


def test_two_files_that_the_table_does_not_want_are_let_be(folder):
    save_image(folder / "images/other.png")
    save_image(folder / "images/other.jpg")
    assert sorted(converted({"target": [0, 1, 0]})["image_name"]) == NAMES


def test_melanoma_makes_targets_of_diagnoses(folder):
    found = converted({"diagnosis": ["nv", "mel", "lm"]}, melanoma=["mel", "lm"])
    assert found.set_index("image_name")["target"].to_dict() == {"a": 0, "b": 1, "c": 1}


def test_an_image_that_the_table_has_twice_is_refused(folder):
    line = refusal(folder, {"image_name": ["a", "b", "b"], "target": [0, 1, 0]})
    assert line == "csv table.csv: expected unique ids, found ids again in 1 of 3 rows: b"


@pytest.mark.parametrize("theirs", ["target", "label"])
def test_melanoma_does_not_replace_targets(folder, theirs):
    table = {"diagnosis": ["nv", "mel", "nv"], theirs: [0, 1, 1]}
    line = refusal(folder, table, columns={"target": theirs}, melanoma=["mel"])
    assert line == "melanoma: expected no `target` in table.csv, found one; leave --melanoma out"


def test_a_melanoma_that_no_row_has_is_told_with_those_that_are_there(folder):
    line = refusal(folder, {"diagnosis": ["nv", "mel", "nv"]}, melanoma=["mel", "Mel"])
    assert line == (
        "melanoma: expected values of `diagnosis` in table.csv, found 'Mel' in no row; "
        "the nearest of 2 are mel, nv"
    )


def test_a_row_without_diagnosis_has_no_target(folder):
    table = {"diagnosis": ["mel", None, None]}
    line = refusal(folder, table, melanoma=["mel"])
    assert "expected a `diagnosis` for each row of table.csv, found none for 2, the first b" in line
    # Where no target is to be made, it is a field like others.
    assert len(converted(table)) == len(NAMES)


def test_a_column_that_is_named_for_none_of_ours_is_refused(folder):
    line = refusal(folder, {"lesion_id": NAMES}, columns={"patientid": "lesion_id"})
    assert "columns: expected names out of image_name, patient_id, target" in line
    assert "found patientid; name first ours, then the table's" in line


def test_one_column_serves_two_fields(folder):
    columns = {"patient_id": "lesion", "source": "lesion"}
    found = converted({"lesion": ["p", "q", "q"]}, columns=columns).set_index("image_name")
    for field in columns:
        assert found[field].to_dict() == {"a": "p", "b": "q", "c": "q"}


def test_the_column_of_the_target_may_be_that_of_the_diagnosis(folder):
    columns = {"diagnosis": "melanoma", "target": "melanoma"}
    found = converted({"melanoma": [0.0, 1.0, 0.0]}, columns=columns).set_index("image_name")
    assert found["target"].to_dict() == {"a": 0, "b": 1, "c": 0}
    assert found["diagnosis"].to_dict() == {"a": "0.0", "b": "1.0", "c": "0.0"}


def test_a_target_that_is_neither_0_nor_1_is_named(folder):
    line = refusal(folder, {"target": ["0", "x", "1"]})
    assert line == "csv table.csv: expected target 0 or 1, found x for b"


@pytest.mark.parametrize("image_size", [0, -5])
def test_images_have_at_least_one_pixel(folder, image_size):
    line = refusal(folder, {}, image_size=image_size)
    assert line == f"image_size: expected at least 1 pixel, found {image_size}"


@pytest.mark.parametrize("prefix", ["", "a/train", "../train", "trian"])
def test_a_prefix_that_no_setting_looks_for_is_refused(folder, prefix):
    line = refusal(folder, {}, prefix=prefix)
    assert line == f"prefix: expected one of train, val, test, found {prefix!r}"


@pytest.mark.parametrize("prefix", ["train", "val", "test"])
def test_shards_are_found_by_their_prefix(folder, prefix):
    assert len(converted({"target": [0, 1, 0]}, prefix=prefix)) == len(NAMES)
    assert [path.name for path in (folder / "out").iterdir()] == [f"{prefix}00-3.tfrec"]
