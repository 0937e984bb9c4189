import gzip
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import jpeg, write_shards

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.decode import decode_image
from lightning_melanoma.data.skipped import SkippedRecords
from lightning_melanoma.data.table import read_split, require_targets
from lightning_melanoma.records.tfrecord import CorruptRecordError


def datamodule(folder, **changes) -> MelanomaDataModule:
    settings = {"train": str(folder), "test": str(folder), "image_size": 32, "batch_size": 8}
    return MelanomaDataModule(**{**settings, **changes})


def test_tables_tell_records_patients_targets_and_metadata(shards):
    table = datamodule(shards).table("train")
    assert set(table["image_name"]) < {f"ISIC_{n:07d}" for n in range(32)}
    assert {"image_name", "patient_id", "patient", "target", "fold", "sex", "source"} < set(table)
    assert set(table["source"]) == {"shards"}
    assert table["patient"].str.startswith("shards/").all()


def test_patients_are_held_out_whole_by_default(shards):
    data = datamodule(shards)
    train, val = data.table("train"), data.table("val")
    assert len(train) + len(val) == 32
    assert not set(train["patient"]) & set(val["patient"])
    assert set(val["fold"]) == {0}


def test_each_fold_holds_out_other_records(shards):
    held_out = [set(datamodule(shards, fold=fold).table("val")["image_name"]) for fold in range(5)]
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == 32


def test_shards_are_held_out_by_their_number(shards):
    data = datamodule(shards, split="shards", num_folds=4, fold=1)
    assert list(data.table("val")["image_name"]) == [f"ISIC_{n:07d}" for n in range(8, 16)]


def test_validation_shards_of_their_own_are_taken_whole(shards, tmp_path):
    write_shards(tmp_path / "other", num_shards=1, num_records=8, start=100)
    data = datamodule(shards, val=str(tmp_path / "other"))
    assert len(data.table("train")) == 32
    assert len(data.table("val")) == 8


def test_records_without_patients_are_split_by_shards_and_that_is_said_once(tmp_path, caplog):
    write_shards(tmp_path, num_shards=5, num_records=8, patient_id=None)
    data = datamodule(tmp_path, test=None)
    with caplog.at_level(logging.WARNING):
        assert len(data.table("val")) == 8
        data.loader("train")
    assert caplog.text.count("cannot be ruled out") == 1
    assert "data.metadata" in caplog.text


def test_an_image_that_the_metadata_have_twice_is_refused(shards, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("image_name,target\nISIC_0000001,0\nISIC_0000001,1\n")
    line = r"^data\.metadata .*train\.csv: expected unique ids, found ids again in 1 of 2 rows: "
    with pytest.raises(ValueError, match=line + "ISIC_0000001$"):
        datamodule(shards, metadata=str(path)).table("train")


@pytest.mark.parametrize("unknown", [-1, "", "-1"])
def test_an_unknown_patient_is_nobody(tmp_path, unknown):
    write_shards(tmp_path, num_shards=5, num_records=8, patient_id=unknown)
    assert len(datamodule(tmp_path, split="shards").table("train")) == 32


def overlapping(folder):
    write_shards(folder / "a", num_shards=2, num_records=8, patient_id=7)
    return folder / "a"


def test_a_patient_on_both_sides_stops_the_run_with_both_ways_out(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"found 1: a/7; give --data.split patients .* --data.allow_patient_overlap true",
    ):
        datamodule(overlapping(tmp_path), split="shards", num_folds=2).table("train")


def test_an_overlap_can_be_allowed(tmp_path):
    data = datamodule(
        overlapping(tmp_path), split="shards", num_folds=2, allow_patient_overlap=True
    )
    assert len(data.table("train")) == 8


def test_equal_codes_of_different_sources_are_different_patients(tmp_path):
    train = overlapping(tmp_path)
    write_shards(tmp_path / "b", num_shards=1, num_records=8, start=100, patient_id=7)
    assert len(datamodule(train, val=str(tmp_path / "b")).table("val")) == 8


def test_an_image_on_both_sides_stops_the_run(shards, tmp_path):
    write_shards(tmp_path / "b", num_shards=1, num_records=8)
    with pytest.raises(ValueError, match=r"no images in both training and validation, found 8"):
        datamodule(shards, val=str(tmp_path / "b")).table("train")


@pytest.mark.parametrize("parts", [("train", "val"), ("one/TFRecords", "one/valid")])
def test_folders_of_parts_of_a_data_set_do_not_part_its_patients(tmp_path, parts):
    train, val = (tmp_path / "two" / part for part in parts)
    write_shards(train, num_shards=1, num_records=8, patient_id=7)
    write_shards(val, num_shards=1, num_records=8, start=900, patient_id=7)
    with pytest.raises(ValueError, match=r"found 1: (two|one)/7; leave data.val out"):
        datamodule(train, val=str(val)).table("train")


def test_metadata_gives_names_and_the_patient(shards, tmp_path):
    names = [f"ISIC_{n:07d}" for n in range(32)]
    csv = tmp_path / "train.csv"
    pd.DataFrame(
        {"image_name": names, "patient_id": "IP_1", "sex": "male", "age_approx": 45.0}
    ).assign(patient_id=[f"IP_{n // 4:07d}" for n in range(32)]).to_csv(csv, index=False)
    table = datamodule(shards, metadata=str(csv)).table("train")
    assert set(table["sex"]) == {"male"}
    assert table["patient"].str.fullmatch(r"shards/IP_000000\d").all()


def test_metadata_of_the_training_images_leaves_test_images_as_they_are(shards, tmp_path, caplog):
    csv = tmp_path / "train.csv"
    names = [f"ISIC_{n:07d}" for n in range(32)]
    pd.DataFrame({"image_name": names, "sex": "male"}).to_csv(csv, index=False)
    data = datamodule(shards, metadata=str(csv))
    assert set(data.table("train")["sex"]) == {"male"}
    assert set(data.table("test")["sex"]) == {0, 1}
    assert "no row for 10 of 10 records" in caplog.text


def test_metadata_of_the_training_images_alone_cannot_tell_the_patients_of_others(tmp_path):
    csv = tmp_path / "train.csv"
    names = [f"ISIC_{n:07d}" for n in range(16)]
    pd.DataFrame({"image_name": names, "patient_id": names}).to_csv(csv, index=False)
    write_shards(tmp_path, num_shards=2, num_records=8)
    write_shards(tmp_path, num_shards=2, num_records=8, start=900, prefix="val")
    for setting in ("val", "extra_train"):
        others = {setting: str(tmp_path / "val*"), "split": "shards", "num_folds": 2}
        with pytest.raises(ValueError, match="found none for 16 of 16, the first ISIC_0000900"):
            datamodule(tmp_path, metadata=str(csv), **others).table("train")


def test_metadata_of_some_records_cannot_tell_their_patients_from_the_others(shards, tmp_path):
    csv = tmp_path / "train.csv"
    some = pd.DataFrame({"image_name": [f"ISIC_{n:07d}" for n in range(31)], "patient_id": "IP_1"})
    some.to_csv(csv, index=False)
    with pytest.raises(ValueError, match="none for 1 of 32, the first ISIC_0000031"):
        datamodule(shards, metadata=str(csv)).table("train")


def test_metadata_need_not_know_images_of_nobody(tmp_path):
    write_shards(tmp_path, num_shards=4, num_records=8)
    write_shards(tmp_path, num_shards=1, num_records=8, start=900, prefix="trainx", patient_id=-1)
    csv = tmp_path / "train.csv"
    some = pd.DataFrame({"image_name": [f"ISIC_{n:07d}" for n in range(32)], "patient_id": "IP_1"})
    some.assign(patient_id=some["image_name"]).to_csv(csv, index=False)
    split = read_split(
        str(tmp_path), prefix="train", metadata=str(csv), on_corrupt="raise", must_know="some"
    )
    assert split.table["patient"].tolist()[32:] == [""] * 8


def test_metadata_need_not_know_the_sets_beside_the_training_records(shards, tmp_path, caplog):
    write_shards(tmp_path / "more", num_shards=1, num_records=8, start=500, patient_id=None)
    write_shards(tmp_path / "val", num_shards=1, num_records=8, start=600, patient_id=None)
    names = [f"ISIC_{n:07d}" for n in range(32)]
    csv = tmp_path / "train.csv"
    pd.DataFrame({"image_name": names, "sex": "male"}).to_csv(csv, index=False)
    others = {"extra_train": str(tmp_path / "more"), "val": str(tmp_path / "val")}
    table = datamodule(shards, metadata=str(csv), **others).table("train")
    assert table["sex"].tolist() == ["male"] * 32 + [0, 1] * 4
    assert caplog.text.count("no row for 8 of 8 records") == 2
    # But where it tells patients, theirs might be the same under another name.
    write_shards(tmp_path / "more", num_shards=1, num_records=8, start=500, patient_id=7)
    pd.DataFrame({"image_name": names, "patient_id": "IP_1"}).to_csv(csv, index=False)
    with pytest.raises(ValueError, match=r"found none for 8 of 8, the first ISIC_0000500"):
        datamodule(shards, metadata=str(csv), **others).table("train")


def test_records_that_metadata_do_not_know_keep_their_own(shards, tmp_path, caplog):
    csv = tmp_path / "train.csv"
    names = [f"ISIC_{n:07d}" for n in range(0, 32, 2)]
    pd.DataFrame({"image_name": names, "sex": "male"}).to_csv(csv, index=False)
    table = read_split(str(shards), prefix="train", metadata=str(csv), on_corrupt="raise").table
    assert table["sex"].tolist() == ["male", 1] * 16
    assert "no row for 16 of 32 records" in caplog.text


def test_targets_of_metadata_take_the_place_of_the_records(tmp_path):
    # One shard without labels.
    write_shards(tmp_path, num_shards=1, num_records=4, target=0)
    write_shards(tmp_path, num_shards=1, num_records=4, start=4, prefix="trainx", target=None)
    csv = tmp_path / "train.csv"
    names = [f"ISIC_{n:07d}" for n in range(8)]
    targets = [1, None, 0, 1, 1, 0, 1, None]
    pd.DataFrame({"image_name": names, "target": targets}).to_csv(csv, index=False)
    split = read_split(str(tmp_path), prefix="train", metadata=str(csv), on_corrupt="raise")
    known = [1, 0, 0, 1, 1, 0, 1]
    assert split.table["target"].tolist()[:7] == known
    with pytest.raises(ValueError, match=r"found none in 1 of 8, the first ISIC_0000007"):
        require_targets(split, "data.train")


def test_metadata_without_the_id_column_is_an_error(shards, tmp_path):
    csv = tmp_path / "train.csv"
    csv.write_text("image,sex\nISIC_0000000,male\n")
    with pytest.raises(ValueError, match=r"expected a column `image_name`, found image, sex"):
        datamodule(shards, metadata=str(csv)).table("train")


def test_metadata_of_other_images_is_an_error(shards, tmp_path):
    csv = tmp_path / "train.csv"
    csv.write_text("image_name,sex\nother,male\n")
    with pytest.raises(ValueError, match=r"such as ISIC_0000000, found none of them"):
        datamodule(shards, metadata=str(csv)).table("train")


def test_whole_numbers_stay_what_they_are_beside_records_that_lack_them(tmp_path):
    write_shards(tmp_path / "a", num_shards=2, num_records=4, patient_id=7, start=100)
    write_shards(tmp_path / "b", num_shards=1, num_records=4, patient_id=None, source="a")
    write_shards(tmp_path / "c", num_shards=1, num_records=4, patient_id=7, start=50, source="a")
    data = datamodule(str(tmp_path / "a"), val=[str(tmp_path / "b"), str(tmp_path / "c")])
    with pytest.raises(ValueError, match="found 1: a/7"):
        data.table("train")


def test_metadata_stored_as_text_are_numbers(tmp_path):
    write_shards(tmp_path / "a", num_shards=4, num_records=4, age_approx="55", width="")
    data = datamodule(tmp_path / "a", split="shards", num_folds=4)
    assert set(data.table("val")["age_approx"]) == {55}
    assert data.table("val")["width"].isna().all()
    write_shards(tmp_path / "b", num_shards=4, num_records=4, age_approx="85+")
    with pytest.raises(ValueError, match=r"record 0 .*expected age_approx a number, found 85\+"):
        datamodule(tmp_path / "b", split="shards", num_folds=4).table("train")
    # A prediction table could not hold it, which nobody should hear behind a training.
    write_shards(tmp_path / "c", num_shards=4, num_records=4, width="100.5")
    with pytest.raises(ValueError, match=r"expected width a whole number, found 100\.5"):
        datamodule(tmp_path / "c", split="shards", num_folds=4).table("train")


def test_a_target_other_than_0_or_1_is_an_error(tmp_path):
    write_shards(tmp_path, num_shards=1, num_records=2, target=2)
    with pytest.raises(
        ValueError, match=r"record 0 at byte 0 \(ISIC_0000000\): expected target 0 or 1"
    ):
        datamodule(tmp_path).table("train")


def test_training_records_without_a_target_are_an_error(shards):
    with pytest.raises(ValueError, match=r"data.train: expected a `target` in every record"):
        datamodule(shards, train=str(shards / "test*")).table("train")


def test_one_class_in_training_is_an_error(tmp_path):
    write_shards(tmp_path, num_shards=5, num_records=4, target=0)
    with pytest.raises(
        ValueError, match=r"expected both classes, found 16 records of target 0 only"
    ):
        datamodule(tmp_path).table("train")


def test_one_class_in_validation_is_a_warning(shards, tmp_path, caplog):
    write_shards(tmp_path / "b", num_shards=1, num_records=8, start=100, target=0)
    datamodule(shards, val=str(tmp_path / "b")).table("val")
    assert "its AUROC is undefined" in caplog.text


@pytest.mark.parametrize("named", [[], ""])
def test_an_empty_list_of_shards_is_an_error(shards, named):
    with pytest.raises(ValueError, match=r"data.train: expected shards, found none"):
        datamodule(shards, train=named).table("train")


def test_too_few_shards_for_the_folds_is_an_error(shards):
    with pytest.raises(ValueError, match=r"4 shards are too few"):
        datamodule(shards, split="shards", num_folds=5, fold=4).table("val")


@pytest.mark.parametrize(
    ("setting", "value"), [("fold", 5), ("batch_size", 0), ("image_size", -1), ("num_folds", 1)]
)
def test_settings_out_of_range_are_errors(shards, setting, value):
    with pytest.raises(ValueError, match=r"data\..*expected"):
        datamodule(shards, **{setting: value})


def test_a_test_image_that_comes_twice_is_an_error(shards):
    twice = [str(shards / "test*"), str(shards / "test00-5.tfrec")]
    assert len(datamodule(shards, test=twice).table("test")) == 10
    write_shards(shards / "again", num_shards=1, num_records=2, start=1000, prefix="test")
    with pytest.raises(ValueError, match=r"found 2 again, the first ISIC_0001000"):
        datamodule(shards, test=[*twice, str(shards / "again")]).table("test")


def test_damaged_records_stop_the_run_or_are_skipped(shards, caplog):
    path = shards / "train02-8.tfrec"
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"train02-8.tfrec: record 0 at byte 0: data CRC"):
        datamodule(shards).table("train")
    data = datamodule(shards, on_corrupt="skip")
    assert len(data.table("train")) + len(data.table("val")) == 31
    data.teardown("fit")
    assert "train: skipped, as they cannot be read: 1" in caplog.text
    assert "record 0 at byte 0" in caplog.text


def test_a_shard_that_cannot_be_unpacked_stops_the_run_or_is_skipped(shards, caplog):
    path = shards / "train01-8.tfrec"
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(CorruptRecordError, match=r"train01-8.tfrec: .* a whole gzip file"):
        datamodule(shards).table("train")
    data = datamodule(shards, on_corrupt="skip")
    assert len(data.table("train")) + len(data.table("val")) == 24
    data.teardown("fit")
    assert "expected a whole gzip file" in caplog.text
    assert "its name says 8 records, found 1" in caplog.text


def test_an_image_that_cannot_be_read_is_told_once_by_whichever_process_met_it(shards, caplog):
    split = read_split(str(shards), prefix="train", metadata=None, on_corrupt="skip")
    skipped = SkippedRecords()
    # What processes behind the first one are heard of.
    caplog.set_level(logging.ERROR, "lightning_melanoma")
    for _ in range(2):
        skipped.report("train", split, {3})
    assert caplog.messages == [
        "train: skipped, as they cannot be read: 1",
        "  ISIC_0000003: its image cannot be read",
    ]


def test_images_are_those_of_the_rows(shards):
    data = datamodule(shards)
    images = data.images("val", [2, 0])
    names = data.table("val")["image_name"]
    for image, row in zip(images, [2, 0], strict=True):
        assert np.array_equal(image, decode_image(jpeg(int(names[row][-7:])), 32))


def test_class_counts_are_those_of_the_training_split(shards):
    data = datamodule(shards)
    benign, melanoma = data.class_counts()
    assert melanoma == data.table("train")["target"].sum()
    assert benign + melanoma == len(data.table("train"))


def test_extra_records_are_trained_on_and_never_validated_on(shards, tmp_path):
    write_shards(tmp_path / "more", num_shards=1, num_records=10, start=500)
    data = datamodule(shards, extra_train=str(tmp_path / "more"), positive_rate=0.5)
    table = data.table("train")
    assert table["is_extra"].sum() == 10
    assert not set(table["image_name"]) & set(data.table("val")["image_name"])
    own = table[~table["is_extra"]]
    assert data.class_counts() == (int((own["target"] == 0).sum()), int(own["target"].sum()))
    benign, melanoma = data.shown_counts()
    assert benign == melanoma == (table["target"] == 0).sum()
    batches = list(data.train_dataloader())
    rows = np.concatenate([batch.rows[batch.valid].numpy() for batch in batches])
    assert len(rows) == benign + melanoma
    draws = np.concatenate([batch.draws[batch.valid].numpy() for batch in batches])
    # A record that comes again is not augmented as it was before.
    assert len(np.unique(draws, axis=0)) == len(rows) > len(np.unique(rows))
    extra = table["is_extra"].to_numpy()[rows]
    images = torch.cat([batch.images[batch.valid] for batch in batches])
    place = int(np.flatnonzero(extra)[0])
    name = table["image_name"][rows[place]]
    assert np.array_equal(images[place].permute(1, 2, 0), decode_image(jpeg(int(name[-7:])), 32))


def test_an_extra_record_that_is_validated_on_is_an_error(shards):
    with pytest.raises(ValueError, match=r"data\.extra_train: expected no patients that are val"):
        datamodule(shards, extra_train=str(shards)).setup("fit")
