"""Every fault that `audit` looks for is put into real shards, found and named."""

import gzip
import io
import json
import time
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import simplejpeg
from conftest import write_shards
from PIL import Image

from lightning_melanoma.cli import main
from lightning_melanoma.data.audit import audit
from lightning_melanoma.data.audit_checks import CHECKS
from lightning_melanoma.data.exclusion import Exclusion
from lightning_melanoma.data.table import read_split
from lightning_melanoma.records.example import serialize_example
from lightning_melanoma.records.tfrecord import write_shard

REAL = Path(__file__).parents[3] / "shared/data"


def picture(seed: int, size: int = 32) -> np.ndarray:
    """Return (size, size, 3) uint8 smooth random colours, unlike those of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size)))


def encoded(pixels: np.ndarray, quality: int = 94) -> bytes:
    return simplejpeg.encode_jpeg(pixels, quality=quality)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def record(number: int, **changes) -> dict:
    """Return the fields of one record; None takes one out."""
    own = {
        "image": encoded(picture(number)),
        "image_name": f"ISIC_{number:07d}",
        "patient_id": number // 2,
        "target": int(number % 4 == 0),
        "sex": number % 3 - 1,
        "age_approx": number % 100,
        "anatom_site_general_challenge": number % 6,
    } | changes
    return {name: value for name, value in own.items() if value is not None}


def write(folder: Path, shards: list[list[dict]], prefix: str = "train") -> Path:
    """Write shards named by their counts; an earlier set of that prefix goes."""
    for path in folder.glob(f"{prefix}*"):
        path.unlink()
    for number, records in enumerate(shards):
        path = folder / f"{prefix}{number:02d}-{len(records)}.tfrec"
        write_shard(path, map(serialize_example, records))
    return folder


def records(*counts: int, start: int = 0) -> list[list[dict]]:
    """Return clean records for shards of so many."""
    numbers = iter(range(start, start + sum(counts)))
    return [[record(next(numbers)) for _ in range(count)] for count in counts]


@pytest.fixture
def given(tmp_path) -> Path:
    return write(tmp_path / "set", records(6, 6))


@pytest.fixture
def val(tmp_path) -> Path:
    # Of the same name as the given folder, so of the same source.
    return write(tmp_path / "held_out/set", records(6, start=100), prefix="val")


def report_of(tmp_path: Path, given: Path, **settings) -> dict:
    outcome = audit([str(given)], json=str(tmp_path / "report.json"), **settings)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exit_status"] == outcome.exit_status
    for finding in report["findings"]:
        assert finding["message"] in outcome.text
    return report


def messages(report: dict, check: str, level: str = "fault") -> list[str]:
    found = [f for f in report["findings"] if (f["check"], f["level"]) == (check, level)]
    return [finding["message"] for finding in found]


def checks_with_faults(report: dict) -> set[str]:
    return {check["check"] for check in report["checks"] if check["faults"]}


def test_a_clean_set_has_no_finding_and_is_counted(tmp_path, given, val):
    report = report_of(tmp_path, given, val=[str(val)], drop=str(tmp_path / "drop.csv"))
    assert report["exit_status"] == 0
    assert report["findings"] == []
    assert [check["check"] for check in report["checks"]] == list(CHECKS)
    assert (report["records"], report["shards"]) == (12, 2)
    assert (report["val_records"], report["val_shards"]) == (6, 1)
    assert (tmp_path / "drop.csv").read_text() == "image_name,shard,record,reason\n"


def test_prevalence_is_told_by_side_source_sex_age_site_and_shard(tmp_path, given, val):
    report = report_of(tmp_path, given, val=[str(val)])
    found = {(p["by"], p["value"]): (p["records"], p["melanomas"]) for p in report["prevalence"]}
    assert found["side", "given"] == (12, 3)
    assert found["side", "--val"] == (6, 2)
    assert found["source", "set"] == (18, 5)
    # Codes of -1 are unknown: numbers 0, 3, 6, 9, and of --val 102 and 105.
    assert found["sex", "unknown"] == (6, 1)
    assert found["age", "0-19"] == (18, 5)
    assert found["site", "0"][0] == 3
    assert found["shard", "set/train01-6.tfrec"] == (6, 1)
    assert {by for by, _ in found} == {"side", "source", "sex", "age", "site", "shard"}


def test_fields_are_listed_with_their_kinds(tmp_path, given):
    fields = {f["field"]: f for f in report_of(tmp_path, given)["fields"]}
    assert fields["image"]["kinds"] == "bytes"
    assert fields["target"] == {
        "shards": "set/train*",
        "field": "target",
        "kinds": "int64",
        "found": 12,
        "records": 12,
    }


def test_every_damaged_record_of_a_shard_is_named(tmp_path, given):
    path = given / "train01-6.tfrec"
    damaged = bytearray(path.read_bytes())
    size = len(serialize_example(record(6))) + 16
    damaged[100] ^= 1
    damaged[size + 100] ^= 1
    # The last byte is of the last record's checksum.
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    report = report_of(tmp_path, given)
    found = messages(report, "framing")
    assert len(found) == 3
    for message, place in zip(
        found, ["0 at byte 0", f"1 at byte {size}", "5 at byte"], strict=True
    ):
        assert f"{path}: record {place}" in message
        assert "data CRC" in message
    assert (report["exit_status"], report["damaged"], report["records"]) == (1, 3, 9)


def test_what_lies_behind_a_damaged_header_is_said_to_be_unseen(tmp_path, given):
    path = given / "train00-6.tfrec"
    damaged = bytearray(path.read_bytes())
    damaged[3] ^= 1
    path.write_bytes(damaged)
    first, second = messages(report_of(tmp_path, given), "framing")
    assert f"{path}: record 0 at byte 0: length CRC" in first
    assert "what follows was not looked at" in second


def test_without_pixels_only_what_needs_none_is_checked(tmp_path, given):
    again = png(simplejpeg.decode_jpeg(encoded(picture(1))))
    write(given, [[record(0), record(1), record(2, image=again), record(3, image=b"text")]])
    write(given, [[record(40, image=encoded(picture(0)))]], prefix="other")
    report = report_of(tmp_path, given, pixels=False)
    assert "expected a JPEG or PNG image" in messages(report, "images")[0]
    assert "found the bytes of ISIC_0000040" in messages(report, "duplicates")[0]
    assert len(messages(report, "duplicates")) == 1
    assert report["checks"][-1]["warnings"] is None


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_shard_that_is_cut_off_is_named(tmp_path, given, pack):
    path = given / "train00-6.tfrec"
    path.write_bytes(pack(path.read_bytes())[:-40])
    report = report_of(tmp_path, given)
    assert len(messages(report, "framing")) == 1
    assert str(path) in messages(report, "framing")[0]


def test_flips_and_cuts_all_over_a_shard_are_found(tmp_path):
    small = {"image": png(picture(0, 1)), "image_name": "a", "target": 0}
    path = write(tmp_path / "set", [[small, small | {"image_name": "b"}]]) / "train00-2.tfrec"
    whole = path.read_bytes()
    half = len(whole) // 2
    # Every place of a shard is test_tfrecord's; here, that what the reader says is passed on. The
    # step is no multiple of a word's size, so that all parts of the framing are met.
    for place in range(0, len(whole), 13):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        text = audit([str(path)], pixels=False).text
        number = place // half
        assert f"{path}: record {number} at byte {number * half}: " in text
    for length in [*range(1, len(whole), 29), half]:
        path.write_bytes(whole[:length])
        assert audit([str(path)], pixels=False).exit_status == 1


def test_a_count_other_than_the_names_is_named(tmp_path, given):
    (given / "train00-6.tfrec").rename(given / "train00-7.tfrec")
    report = report_of(tmp_path, given)
    assert checks_with_faults(report) == {"counts"}
    assert "train00-7.tfrec: expected 7 records by its name, found 6" in str(report["findings"])


@pytest.mark.parametrize("name", ["train-00000-of-00002.tfrecord", "isic-2019.tfrec"])
def test_other_numbers_in_a_name_are_no_counts(tmp_path, given, name):
    (given / "train00-6.tfrec").rename(given / name)
    assert not checks_with_faults(report_of(tmp_path, given))


FAULTS = {
    "no example": (b"\xff\xff", "fields", "expected a tf.train.Example"),
    "no image": ({"image": None}, "fields", "record 2 at byte"),
    "no name": ({"image_name": None}, "fields", "expected fields image:bytes and image_name"),
    "a number for a name": ({"image_name": 3}, "fields", "image_name: expected text or numbers"),
    "text for a code": ({"sex": "male"}, "fields", "sex: expected text or numbers throughout"),
    "a target of 2": ({"target": 2}, "targets", "ISIC_0000002 (set/train00-6.tfrec: record 2 at"),
    "a target of -1": ({"target": -1}, "targets", "expected target 0 or 1, found -1"),
    "no target": ({"target": None}, "targets", "found none in 1 of 12, the first ISIC_0000002"),
    "no image file": ({"image": b"text"}, "images", "expected a JPEG or PNG image, found 4 bytes"),
    "half an image": ({"image": encoded(picture(2))[:400]}, "images", "ISIC_0000002"),
    "an oblong image": (
        {"image": encoded(picture(2)[:20])},
        "images",
        "expected a square image, found 32 x 20",
    ),
    "an id again": (
        {"image_name": "ISIC_0000001"},
        "ids",
        "ISIC_0000001: expected each image_name once",
    ),
    "an image again": (
        {"image": encoded(picture(1))},
        "duplicates",
        "ISIC_0000002 (set/train00-6.tfrec: record 2 at byte",
    ),
    "pixels again": (
        {"image": png(simplejpeg.decode_jpeg(encoded(picture(1))))},
        "duplicates",
        "found the pixels of ISIC_0000001",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_one_record_is_found_and_named(tmp_path, given, fault):
    changes, check, message = FAULTS[fault]
    shards = records(6, 6)
    payloads = [serialize_example(fields) for fields in shards[0]]
    payloads[2] = changes if isinstance(changes, bytes) else serialize_example(record(2, **changes))
    write_shard(given / "train00-6.tfrec", payloads)
    report = report_of(tmp_path, given)
    assert report["exit_status"] == 1
    assert checks_with_faults(report) == {check}
    assert message in messages(report, check)[0]


def test_targets_that_disagree_for_one_id_are_named_and_all_dropped(tmp_path, given):
    write(given, [*records(6), [record(0, target=0), record(20)]])
    report = report_of(tmp_path, given, drop=str(tmp_path / "drop.csv"))
    assert "1 in set/train00-6.tfrec: record 0" in messages(report, "targets")[0]
    table = pd.read_csv(tmp_path / "drop.csv")
    assert list(table["shard"]) == ["set/train00-6.tfrec", "set/train01-2.tfrec"]
    assert list(table["reason"]) == ["targets", "targets, ids"]


def test_duplicates_with_other_targets_say_so(tmp_path, given):
    write(given, [[record(0), record(1, image=encoded(picture(0)))]])
    report = report_of(tmp_path, given, drop=str(tmp_path / "drop.csv"))
    assert messages(report, "duplicates")[0].endswith("copies of it have different targets")
    # Nobody can tell which is right.
    assert len(pd.read_csv(tmp_path / "drop.csv")) == 2


def test_an_equal_image_without_a_target_contradicts_nothing(tmp_path, given):
    image = encoded(picture(0))
    write(given, [[record(0)], [record(1, image=image, target=None)]])
    report = report_of(tmp_path, given, drop=str(tmp_path / "drop.csv"))
    assert "different" not in messages(report, "duplicates")[0]
    assert list(pd.read_csv(tmp_path / "drop.csv")["image_name"]) == ["ISIC_0000001"]


def test_contradicting_copies_of_an_image_without_a_target_are_all_dropped(tmp_path, given):
    image = encoded(picture(0))
    targets = (None, 0, 1)
    copies = [record(n, image=image, target=target) for n, target in enumerate(targets)]
    write(given, [copies])
    report_of(tmp_path, given, drop=str(tmp_path / "drop.csv"))
    assert set(pd.read_csv(tmp_path / "drop.csv")["image_name"]) == {
        f"ISIC_{n:07d}" for n in range(3)
    }


def test_ids_and_patients_on_both_sides_are_named(tmp_path, given, val):
    write(val, [[record(3, patient_id=-1), record(101, patient_id=4)]], prefix="val")
    report = report_of(tmp_path, given, val=[str(val)], drop=str(tmp_path / "drop.csv"))
    assert checks_with_faults(report) == {"ids", "patients"}
    assert "ISIC_0000003: expected each image_name on one side" in messages(report, "ids")[0]
    assert messages(report, "patients")[0].startswith(
        "patient set/4: expected on one side, found 2 records of the given shards and 1 in --val"
    )
    # What is dropped is the given side's.
    table = pd.read_csv(tmp_path / "drop.csv")
    assert list(table["image_name"]) == ["ISIC_0000003", "ISIC_0000008", "ISIC_0000009"]
    assert set(table["shard"]) == {"set/train00-6.tfrec", "set/train01-6.tfrec"}


def test_equal_patient_codes_of_two_sources_are_two_patients(tmp_path, given):
    other = write(tmp_path / "other", [[record(n, patient_id=n - 50) for n in range(50, 56)]])
    assert report_of(tmp_path, given, val=[str(other)])["exit_status"] == 0
    unknown = write(tmp_path / "u/set", [[record(n, patient_id=-1) for n in range(60, 63)]])
    assert report_of(tmp_path, given, val=[str(unknown)])["exit_status"] == 0


@pytest.mark.parametrize("field", ["target", "patient_id", "age_approx"])
def test_a_field_that_a_whole_shard_lacks_is_named(tmp_path, given, field):
    write(given, [*records(6), [record(n, **{field: None}) for n in range(6, 12)]])
    report = report_of(tmp_path, given)
    # Without the age of some, training goes on as it should.
    level = "warning" if field == "age_approx" else "fault"
    assert (
        f"{field}: expected in all shards of a set or in none"
        in (messages(report, "fields", level)[0])
    )
    assert "not in set/train01-6.tfrec" in messages(report, "fields", level)[0]


def test_test_shards_without_targets_are_a_set_of_their_own(tmp_path, given):
    write(given, [[record(n, target=None) for n in range(20, 26)]], prefix="test")
    assert report_of(tmp_path, given)["findings"] == []


def test_sets_that_differ_in_fields_and_sizes_are_a_warning(tmp_path, given, val):
    image = encoded(picture(200, 48))
    write(val, [[record(200, image=image, sex="male", age_approx=None)]], prefix="val")
    report = report_of(tmp_path, given, val=[str(val)])
    assert report["exit_status"] == 0
    warnings = messages(report, "fields", "warning")
    assert "age_approx: found in set/train*, not in set/val*" in warnings
    assert "sex: text in set/val*, numbers in set/train*, taken as different" in warnings
    assert messages(report, "images", "warning") == [
        "expected one size, found 32 x 32 pixels (12), 48 x 48 pixels (1)"
    ]


def test_an_image_encoded_anew_is_a_near_duplicate_and_no_fault(tmp_path, given, val):
    again = Image.fromarray(picture(5, 64)).resize((48, 48), Image.Resampling.BILINEAR)
    write(given, [[*records(6)[0], record(40, image=encoded(np.asarray(again), quality=60))]])
    report = report_of(tmp_path, given, drop=str(tmp_path / "drop.csv"))
    assert report["exit_status"] == 0
    (warning,) = messages(report, "near duplicates", "warning")
    assert warning.startswith("ISIC_0000040 (set/train00-7.tfrec: record 6")
    assert "of 256 bits from ISIC_0000005" in warning
    assert list(pd.read_csv(tmp_path / "drop.csv")["reason"]) == ["near duplicates"]


def test_flat_images_are_no_near_duplicates(tmp_path):
    write_shards(tmp_path / "set", num_shards=1, num_records=40)
    assert messages(report_of(tmp_path, tmp_path / "set"), "near duplicates", "warning") == []


def test_without_what_the_drop_file_names_a_set_is_clean(tmp_path, given, val):
    shards = [
        [*records(6)[0], record(0), record(6, target=7)],
        [record(20, image=b"text"), record(21, image=encoded(picture(3))), record(100)],
        [record(22, image=encoded(picture(22)[:20])), record(23, patient_id=50), record(24)],
    ]
    write(given, shards)
    drop = str(tmp_path / "drop.csv")
    settings = {"val": [str(val)], "drop": drop}
    assert report_of(tmp_path, given, **settings)["exit_status"] == 1
    again = report_of(tmp_path, given, exclude=drop, **settings | {"drop": None})
    assert again["findings"] == []
    # The first copy of a record that is there twice stays.
    assert (again["records"], again["val_records"]) == (7, 6)


def test_sets_in_folders_named_alike_are_looked_at_apart(tmp_path):
    odd = [[record(n, patient_id=None) for n in range(4)], [record(n) for n in range(4, 8)]]
    write(tmp_path / "siim/tfrecords", odd)
    write(tmp_path / "isic/tfrecords", records(4, start=100))
    report = report_of(tmp_path, tmp_path / "*/tfrecords/*")
    (message,) = messages(report, "fields")
    assert message.endswith("found in 1 of 2, not in siim/tfrecords/train00-4.tfrec")
    assert {entry["shards"] for entry in report["fields"]} == {
        "isic/tfrecords/train*",
        "siim/tfrecords/train*",
    }
    by_shard = [entry for entry in report["prevalence"] if entry["by"] == "shard"]
    assert [(entry["value"], entry["records"]) for entry in by_shard] == [
        ("isic/tfrecords/train00-4.tfrec", 4),
        ("siim/tfrecords/train00-4.tfrec", 4),
        ("siim/tfrecords/train01-4.tfrec", 4),
    ]


@pytest.mark.parametrize("folder", ["tfrecords", "set"])
def test_of_a_shard_that_is_there_twice_one_stays(tmp_path, folder):
    for copy in ("a", "b"):
        write(tmp_path / copy / folder, records(6))
    pattern, drop = tmp_path / f"*/{folder}/*", str(tmp_path / "drop.csv")
    report = report_of(tmp_path, pattern, drop=drop)
    places = f"a/{folder}/train00-6.tfrec: record 0 at byte 0; b/{folder}/train00-6.tfrec: record 0"
    assert places in messages(report, "ids")[0]
    again = report_of(tmp_path, pattern, exclude=drop)
    assert (again["exit_status"], again["records"]) == (0, 6)


def test_shards_behind_urls_are_audited(tmp_path, given):
    filesystem = fsspec.filesystem("memory")
    for path in given.iterdir():
        filesystem.pipe(f"/audited/{path.name}", path.read_bytes())
    report = report_of(tmp_path, "memory://audited")
    assert (report["exit_status"], report["records"]) == (0, 12)
    damaged = bytearray((given / "train01-6.tfrec").read_bytes())
    damaged[50] ^= 1
    filesystem.pipe("/audited/train01-6.tfrec", bytes(damaged))
    report = report_of(tmp_path, "memory://audited/*.tfrec")
    assert "/audited/train01-6.tfrec: record 0 at byte 0" in messages(report, "framing")[0]


def test_a_shard_of_nothing_but_damage_is_reported(tmp_path):
    (tmp_path / "train00-8.tfrec").write_bytes(bytes(range(100)))
    report = report_of(tmp_path, tmp_path)
    assert "this is no TFRecord file" in messages(report, "framing")[0]
    assert (report["exit_status"], report["prevalence"]) == (1, [])


def test_a_packed_shard_of_nothing_is_reported(tmp_path):
    (tmp_path / "train00.tfrec").write_bytes(gzip.compress(b""))
    report = report_of(tmp_path, tmp_path)
    assert "train00.tfrec: expected records, found none" in messages(report, "framing")[0]
    assert report["exit_status"] == 1


def test_what_audit_cannot_drop_is_skipped_by_training(tmp_path):
    shard = records(12)[0]
    shard[7].pop("image")
    given, drop = write(tmp_path / "set", [shard]), str(tmp_path / "drop.csv")
    report = report_of(tmp_path, given, drop=drop)
    assert "record 7 at byte" in messages(report, "fields")[0]
    split = read_split(
        str(given), prefix="train", metadata=None, on_corrupt="skip", exclusion=Exclusion(drop)
    )
    assert split.table["record"].tolist() == [n for n in range(12) if n != 7]


def test_long_lists_are_cut_in_the_text_alone(tmp_path, given):
    write(given, [[record(n, target=5) for n in range(30)]])
    outcome = audit([str(given)], json=str(tmp_path / "report.json"))
    assert "and 10 more, all of them in --json FILE" in outcome.text
    assert len(json.loads((tmp_path / "report.json").read_text())["findings"]) == 30


def status_of(*words) -> int:
    try:
        main(["audit", *map(str, words)])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_the_command_says_clean_faulty_or_unreadable_by_its_status(tmp_path, given, val, capsys):
    out = tmp_path / "out"
    words = ["--json", out / "report.json", "--drop", out / "drop.csv"]
    assert status_of(given / "train00*", given / "train01*", "--val", val, *words) == 0
    assert "0 faults, 0 warnings." in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"report.json", "drop.csv"}
    assert status_of(given, "--val", val, given / "train00*") == 1
    assert "6 faults" not in capsys.readouterr().err
    for wrong, message in {
        (tmp_path / "nowhere",): "nowhere: expected a shard",
        (given, "--val", tmp_path / "nowhere"): "nowhere: expected a shard",
        (): "the following arguments are required: paths",
        (given, "--nosuch", "1"): "nosuch",
        (given, "--json", tmp_path): "json: expected a file, found a folder",
        (given, "--exclude", tmp_path / "no.csv"): "found no file",
    }.items():
        assert status_of(*wrong) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert errors.count("error:") == 1
        assert "Traceback" not in errors
    (given / "train00-6.tfrec").write_bytes(b"")
    assert status_of(given) == 2
    assert "train00-6.tfrec: expected TFRecords, found an empty file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "old"], "json: expected a file, found a folder: old; name a file in it"),
        (["--json", "a.txt/b.json"], "json: expected a place that can be written, found a.txt/b"),
        (["--drop", "a.txt/b/c.csv"], "drop: expected a place that can be written, found a.txt/b"),
        (
            ["--json", "both", "--drop", "old/../both"],
            "drop: expected another file than json, foun",
        ),
    ],
)
def test_no_shard_is_read_whose_report_would_be_lost(
    tmp_path, monkeypatch, capsys, given, words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "a.txt").write_text("not to be replaced")
    assert status_of(given, *words) == 2
    errors = capsys.readouterr().err
    assert message in errors
    # The bar of the reading.
    assert "Auditing" not in errors
    assert {path.name for path in tmp_path.iterdir()} == {"set", "old", "a.txt"}


def test_what_is_excluded_is_counted_and_unknown_ids_are_a_warning(tmp_path, given, capsys):
    path = tmp_path / "list.txt"
    path.write_text("ISIC_0000003\nISIC_0000009\n")
    assert status_of(given, "--exclude", path) == 0
    errors = capsys.readouterr().err
    assert "\nexclude: 2 records are left out.\n" in errors
    assert "ids are" not in errors
    path.write_text("ISIC_0000003\nISIC_7\nISIC_8\n")
    assert status_of(given, "--exclude", path) == 0
    errors = capsys.readouterr().err
    assert "exclude: 1 records are left out." in errors
    assert "exclude: 2 of 3 ids are in none of the shards' records, the first ISIC_7;" in errors


def test_a_list_that_is_another_table_is_refused(tmp_path, given, capsys):
    path = tmp_path / "list.csv"
    path.write_text("isic_id,reason\nISIC_0000003,ids\n")
    assert status_of(given, "--exclude", path) == 2
    assert "list.csv: expected a column `image_name` and commas" in capsys.readouterr().err


def test_5000_records_take_seconds(tmp_path):
    image = [encoded(picture(number, 16)) for number in range(5000)]
    shards = [[record(n, image=image[n]) for n in range(s, s + 500)] for s in range(0, 5000, 500)]
    write(tmp_path / "set", shards)
    before = time.process_time()
    assert audit([str(tmp_path / "set")]).exit_status == 0
    # CPU time, so that what else the machine does counts little; 2.3 s were measured.
    assert time.process_time() - before < 15


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not on this machine")
def test_real_shards_of_two_sources_are_clean():
    outcome = audit([str(REAL / "ham10000")], val=[str(REAL / "isic2017")])
    assert outcome.exit_status == 0
    assert "0 faults, 1 warning." in outcome.text
