import gzip
import logging

import fsspec
import pytest
from conftest import write_shards

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.exclusion import Exclusion
from lightning_melanoma.records.storage import Shard

SHARD = Shard("/data/set/train00-8.tfrec", 1, "")


def datamodule(folder, exclude, **changes) -> MelanomaDataModule:
    settings = {"train": str(folder), "test": str(folder), "image_size": 32, "batch_size": 8}
    return MelanomaDataModule(**{**settings, **changes}, exclude=exclude)


def names_of(data: MelanomaDataModule) -> set[str]:
    return set(data.table("train")["image_name"]) | set(data.table("val")["image_name"])


@pytest.mark.parametrize(
    "content",
    [
        None,
        "ISIC_0000003\n\nISIC_0000009\n",
        "image_name\r\nISIC_0000003\r\nISIC_0000009\r\n",
        "reason,image_name\nbecause,ISIC_0000003\n,ISIC_0000009\n",
        "\ufeffimage_name,shard,record,reason\n"
        "ISIC_0000003,shards/train00-8.tfrec,3,ids\nISIC_0000009,shards/train01-8.tfrec,1,ids\n",
    ],
    ids=["list", "text", "csv", "columns", "places"],
)
def test_excluded_records_are_neither_trained_nor_validated_on(shards, tmp_path, caplog, content):
    exclude = ["ISIC_0000003", "ISIC_0000009"]
    if content is not None:
        exclude = str(tmp_path / "drop.csv")
        (tmp_path / "drop.csv").write_bytes(content.encode())
    with caplog.at_level(logging.INFO):
        names = names_of(datamodule(shards, exclude))
    assert len(names) == 30
    assert not {"ISIC_0000003", "ISIC_0000009"} & names
    assert "data.exclude: 2 records are left out." in caplog.text
    assert "neither" not in caplog.text


def test_validation_shards_of_their_own_are_excluded_from_as_well(shards, tmp_path, caplog):
    write_shards(tmp_path / "val", num_shards=1, num_records=8, start=100, prefix="val")
    data = datamodule(shards, ["ISIC_0000102", "ISIC_0000002"], val=str(tmp_path / "val"))
    assert (len(data.table("train")), len(data.table("val"))) == (31, 7)
    assert "neither" not in caplog.text


def test_test_records_are_not_excluded(shards):
    assert len(datamodule(shards, ["ISIC_0001000"]).table("test")) == 10


def test_unknown_ids_are_a_warning(shards, caplog):
    assert len(names_of(datamodule(shards, ["ISIC_0000003", "ISIC_7", "ISIC_8"]))) == 31
    assert "data.exclude: 2 of 3 ids are in neither the training nor the validation" in caplog.text
    assert "the first ISIC_7" in caplog.text


def test_a_record_that_training_refuses_can_be_excluded(tmp_path):
    write_shards(tmp_path, num_shards=5, num_records=8)
    write_shards(tmp_path / "wrong", num_shards=1, num_records=1, start=90, target=2)
    train = [str(tmp_path / "train*"), str(tmp_path / "wrong")]
    with pytest.raises(ValueError, match=r"ISIC_0000090\): expected target 0 or 1"):
        datamodule(tmp_path, None, train=train).table("train")
    assert len(names_of(datamodule(tmp_path, ["ISIC_0000090"], train=train))) == 40


def test_places_of_a_folder_that_was_renamed_are_a_warning(shards, tmp_path, caplog):
    drop = tmp_path / "drop.csv"
    rows = ("ISIC_0000003,shards/train00-8.tfrec,3", "ISIC_0000009,once/train01-8.tfrec,1")
    drop.write_text("\n".join(["image_name,shard,record", *rows]))
    assert "ISIC_0000009" in names_of(datamodule(shards, str(drop)))
    assert "data.exclude: 1 of 2 records of the list are not where it says" in caplog.text
    assert "the first ISIC_0000009 (once/train01-8.tfrec: record 1)" in caplog.text
    assert "neither" not in caplog.text


def test_a_place_leaves_the_other_copy_of_an_image(tmp_path):
    path = tmp_path / "drop.csv"
    path.write_text("image_name,shard,record\na,set/train00-8.tfrec,3\n")
    exclusion = Exclusion(str(path))
    assert exclusion.covers("a", shard=SHARD, record=3)
    assert not exclusion.covers("a", shard=SHARD, record=4)
    assert not exclusion.covers("b", shard=SHARD, record=3)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "found no file"),
        (b"\xff\xd8\xff", ValueError, "expected a text file"),
        (b"image_name,shard,record\na,b/c,\n", ValueError, "line 2: expected both a shard and"),
        (b"image_name,shard,record\na,b/c,-1\n", ValueError, "found 'b/c' and '-1'"),
        (b"isic_id,target\na,1\n", ValueError, "a line, found the first line 'isic_id,target'"),
        (b"image_name;reason\na;ids\n", ValueError, "commas between columns, or an id a line"),
        (b"id\treason\na\tids\n", ValueError, "expected a column `image_name`"),
        (b"image_name\n" + b"a" * 200_000, ValueError, "field larger than field limit"),
        (b",image,target\n0,a,1\n", ValueError, "expected a column `image_name`"),
    ],
)
def test_a_file_that_is_no_list_is_an_error(tmp_path, content, error, message):
    path = tmp_path / "drop.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        Exclusion(str(path))


def test_a_list_may_lie_elsewhere(tmp_path):
    fsspec.filesystem("memory").pipe("/lists/drop.csv.gz", gzip.compress(b"image_name\r\na\r\n"))
    assert Exclusion("memory://lists/drop.csv.gz").covers("a", shard=SHARD, record=0)
    with pytest.raises(FileNotFoundError, match=r"found no file memory://lists/no.csv"):
        Exclusion("memory://lists/no.csv")
    with pytest.raises(FileNotFoundError, match="expected a list of ids or a file of them"):
        Exclusion(str(tmp_path))
    with pytest.raises(ValueError, match=r"foo://drop.csv: expected a path, gs://"):
        Exclusion("foo://drop.csv")


def test_an_id_in_a_table_is_taken_as_it_is(tmp_path):
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", num_shards=1, num_records=1, image_name="S ")
    write_shards(tmp_path / "shards", num_shards=4, num_records=8, prefix="train1", start=100)
    (tmp_path / "drop.csv").write_text("image_name,reason\nS ,ids\n")
    names = names_of(datamodule(tmp_path / "shards", str(tmp_path / "drop.csv")))
    assert len(names) == 32
    assert "S " not in names


def test_an_id_that_looks_like_columns_is_taken_from_a_table(tmp_path):
    (tmp_path / "drop.csv").write_text('image_name\n"DOE,LEFT"\n')
    exclusion = Exclusion(str(tmp_path / "drop.csv"))
    assert exclusion.covers("DOE,LEFT", shard=SHARD, record=0)


def test_spaces_around_the_ids_of_a_list_are_none_of_them(tmp_path):
    (tmp_path / "drop.txt").write_text("DOE\t\n LEFT\n")
    exclusion = Exclusion(str(tmp_path / "drop.txt"))
    for name in ("DOE", "LEFT"):
        assert exclusion.covers(name, shard=SHARD, record=0)


def test_an_id_with_a_comma_is_one_id(tmp_path):
    (tmp_path / "drop.txt").write_text("S,1\n")
    exclusion = Exclusion(str(tmp_path / "drop.txt"))
    assert exclusion.covers("S,1", shard=SHARD, record=0)
    assert not exclusion.covers("S", shard=SHARD, record=0)


def test_shards_of_which_nothing_is_left_are_an_error(shards, tmp_path):
    write_shards(tmp_path / "val", num_shards=1, num_records=2, start=100)
    names = ["ISIC_0000100", "ISIC_0000101"]
    with pytest.raises(ValueError, match="data: expected val records, found none in 1"):
        datamodule(shards, names, val=str(tmp_path / "val")).table("val")
