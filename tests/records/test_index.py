import gzip
import json
import logging
import signal
import threading
import time
from pathlib import Path

import fsspec
import pytest
from conftest import fields, write_shards

from lightning_melanoma.records import index, index_files, readahead, remote
from lightning_melanoma.records.example import parse_example, serialize_example
from lightning_melanoma.records.frames import Records
from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.storage import Shard, find_shards
from lightning_melanoma.records.tfrecord import read_records, unframe, write_shard

GOLDEN = Path(__file__).parent / "golden"


def test_the_index_holds_place_and_fields_of_every_record(shards):
    found = find_shards(str(shards), prefix="train")
    table, faults = index.index_shards(found)
    assert not faults
    assert len(table) == 32
    assert list(table["image_name"]) == [f"ISIC_{n:07d}" for n in range(32)]
    assert "image" not in table
    row = table.iloc[13]
    reader = ShardReader(found[row["shard"]])
    frame = reader.read(int(row["offset"]), int(row["length"]))
    payload = unframe(frame, shard="", record=0, offset=0)
    assert payload == serialize_example(fields(13))
    assert reader.read(int(row["image_offset"]), int(row["image_length"])) == fields(13)["image"]


def test_an_image_is_found_in_whatever_message_tensorflow_wrote(tmp_path):
    with (GOLDEN / "tensorflow.tfrec").open("rb") as stream:
        payloads = [record.payload for record in read_records(stream, "tensorflow.tfrec")]
    images = {payload: parse_example(payload).get("image") for payload in payloads}
    payloads = [payload for payload in payloads if images[payload]]
    assert payloads
    write_shard(tmp_path / "shard.tfrec", payloads)
    shards = find_shards(str(tmp_path))
    records = Records(shards, index.index_shards(shards).table)
    assert [records.image(row) for row in range(len(payloads))] == [*map(images.get, payloads)]


def test_fields_that_are_named_as_places_do_no_harm(tmp_path):
    own = {"image": b"pixels", "image_name": "a"} | dict.fromkeys(index.PLACE, 7)
    write_shard(tmp_path / "train00-1.tfrec", [serialize_example(own)])
    shards = find_shards(str(tmp_path))
    assert Records(shards, index.index_shards(shards).table).image(0) == b"pixels"


@pytest.mark.parametrize("is_packed", [False, True])
def test_images_come_with_what_follows_them_in_the_shard(shards, is_packed):
    path = shards / "train00-8.tfrec"
    whole = path.read_bytes()
    if is_packed:
        path.write_bytes(gzip.compress(whole))
    found = find_shards(str(path))
    table = index.index_shards(found).table
    records = Records(found, table)
    for row, (start, length) in enumerate(zip(table.image_offset, table.image_length, strict=True)):
        data, found_length = records.image_and_rest(row)
        assert found_length == length
        # Up to 3 kB behind the record, fewer at the shard's end.
        end = table.offset[row] + table.length[row] + 3072
        assert data == whole[start:end]
        assert records.image(row) == whole[start : start + length]


def test_an_image_that_is_no_bytes_is_refused_with_its_place(tmp_path):
    write_shard(tmp_path / "train00-1.tfrec", [serialize_example({"image": 1, "image_name": "a"})])
    message = r"train00-1\.tfrec: record 0 at byte 0: expected `image` to hold bytes, found int"
    with pytest.raises(ValueError, match=message):
        index.index_shards(find_shards(str(tmp_path)))


def test_an_index_is_built_once_and_again_when_the_shard_changes(shards, monkeypatch):
    built = []
    build = index._build
    monkeypatch.setattr(
        index, "_build", lambda shard, *rest: built.append(shard.name) or build(shard, *rest)
    )
    index.index_shards(find_shards(str(shards), prefix="train"))
    index.index_shards(find_shards(str(shards), prefix="train"))
    assert len(built) == 4
    write_shards(shards, num_shards=1, num_records=8, start=500)
    table, _ = index.index_shards(find_shards(str(shards), prefix="train"))
    assert built[4:] == ["train00-8.tfrec"]
    assert table["image_name"][0] == "ISIC_0000500"


def test_an_index_of_a_shard_that_tells_no_version_is_never_taken_again(tmp_path):
    path = tmp_path / "train00-1.tfrec"
    for target in (0, 1):
        write_shard(path, [serialize_example(fields(0, target=target))])
        shard = Shard(str(path), path.stat().st_size, "")
        assert index.index_shards([shard]).table["target"].tolist() == [target]
        assert not index_files.index_file(shard).exists()


def test_an_index_that_an_earlier_version_kept_of_such_a_shard_is_not_taken(tmp_path):
    path = tmp_path / "train00-1.tfrec"
    write_shard(path, [serialize_example(fields(0, target=1))])
    shard = Shard(str(path), path.stat().st_size, "")
    kept = {"key": index_files._key(shard), "rows": [], "faults": []}
    index_files.index_file(shard).parent.mkdir(parents=True, exist_ok=True)
    index_files.index_file(shard).write_text(json.dumps(kept))
    assert index.index_shards([shard]).table["target"].tolist() == [1]


def test_a_damaged_cache_file_is_built_anew(shards):
    found = find_shards(str(shards / "train00-8.tfrec"))
    index.index_shards(found)
    index_files.index_file(found[0]).write_text('{"key": 1')
    assert len(index.index_shards(found).table) == 8


def test_names_are_text_and_no_other_bytes_are_the_same_text(tmp_path):
    names = [5, b"caf\xe9", b"caf\xe8", "café"]
    write_shard(
        tmp_path / "train00-4.tfrec",
        [serialize_example(fields(1, image_name=name)) for name in names],
    )
    table, _ = index.index_shards(find_shards(str(tmp_path)))
    assert table["image_name"].tolist() == ["5", "caf\\xe9", "caf\\xe8", "café"]


def test_records_of_several_schemas_share_a_table(tmp_path):
    write_shard(
        tmp_path / "train00-2.tfrec",
        [
            serialize_example({"image": b"", "image_name": "a", "target": 1}),
            serialize_example({"image": b"", "image_name": "b", "sex": "male", "width": 6000}),
        ],
    )
    table, _ = index.index_shards(find_shards(str(tmp_path)))
    assert table["sex"].tolist()[1] == "male"
    assert table["target"].isna().tolist() == [False, True]
    assert table["width"][1] == 6000


def test_a_damaged_record_is_a_fault_and_the_rest_is_there(shards):
    path = shards / "train00-8.tfrec"
    damaged = bytearray(path.read_bytes())
    damaged[30] ^= 1
    path.write_bytes(damaged)
    table, faults = index.index_shards(find_shards(str(path)))
    assert len(table) == 7
    assert [(fault.record, fault.offset) for fault in faults] == [(0, 0)]
    again = index.index_shards(find_shards(str(path))).faults
    assert [str(fault) for fault in again] == [str(fault) for fault in faults]


@pytest.mark.parametrize("missing", ["image", "image_name"])
def test_a_record_without_image_or_name_is_a_fault(tmp_path, missing):
    records = [fields(0), fields(1, **{missing: None}), fields(2)]
    write_shard(tmp_path / "train00-3.tfrec", map(serialize_example, records))
    table, (fault,) = index.index_shards(find_shards(str(tmp_path)))
    assert table["record"].tolist() == [0, 2]
    assert f"record 1 at byte {table['length'][0]}: expected a field `{missing}`, f" in str(fault)
    assert str(fault).endswith("; was the shard written for this program?")


def test_a_shard_whose_records_are_no_examples_is_an_error(tmp_path):
    write_shard(tmp_path / "train00-1.tfrec", [b"\x0a\xff\xff\xff"])
    with pytest.raises(ValueError, match=r"record 0 at byte 0: expected a tf\.train\.Example"):
        index.index_shards(find_shards(str(tmp_path)))


def test_behind_a_damaged_header_the_rest_of_a_shard_is_said_to_be_lost(shards):
    path = shards / "train00-8.tfrec"
    whole = path.read_bytes()
    _, second = index.index_shards(find_shards(str(path))).table["offset"][:2]
    path.write_bytes(whole[: second + 9] + b"?" + whole[second + 10 :])
    table, (fault,) = index.index_shards(find_shards(str(path)))
    assert len(table) == 1
    assert f"record 1 at byte {second}: length CRC" in str(fault)
    assert str(fault).endswith("; what lies behind it in the shard cannot be found, either")
    # At its end there is nothing that could be lost.
    path.write_bytes(whole[: second + 5])
    _, (fault,) = index.index_shards(find_shards(str(path)))
    assert str(fault).endswith("the file is truncated")


def test_a_count_in_the_name_that_is_not_met_is_a_warning(shards, caplog):
    path = shards / "train00-8.tfrec"
    other = path.rename(shards / "train00-2071.tfrec")
    with caplog.at_level(logging.WARNING):
        index.index_shards(find_shards(str(other)))
    assert "its name says 2071 records, found 8" in caplog.text


def test_an_index_that_cannot_be_kept_is_only_a_warning(shards, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIGHTNING_MELANOMA_CACHE", str(tmp_path / "file" / "below"))
    assert len(index.index_shards(find_shards(str(shards / "train00-8.tfrec"))).table) == 8
    assert "could not be kept" in caplog.text


@pytest.mark.slow
def test_every_flipped_bit_of_a_shard_is_a_fault_with_record_and_offset(tmp_path):
    path = tmp_path / "train00-2.tfrec"
    second = write_small(path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        index_files.index_file(find_shards(str(path))[0]).unlink(missing_ok=True)
        table, faults = index.index_shards(find_shards(str(path)))
        place = (1, second) if bit // 8 >= second else (0, 0)
        assert [(fault.record, fault.offset) for fault in faults] == [place]
        assert len(table) <= 1


def test_every_truncation_of_a_shard_is_told(tmp_path, caplog):
    path = tmp_path / "train00-2.tfrec"
    second = write_small(path)
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        index_files.index_file(find_shards(str(path))[0]).unlink(missing_ok=True)
        caplog.clear()
        faults = index.index_shards(find_shards(str(path))).faults
        if length == second:
            # Nothing in the frames tells that one more should follow; the name does.
            assert not faults
            assert "its name says 2 records, found 1" in caplog.text
        else:
            place = (1, second) if length > second else (0, 0)
            assert [(fault.record, fault.offset) for fault in faults] == [place]
            assert "truncated" in str(faults[0])
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="found an empty file"):
        find_shards(str(path))


@pytest.fixture
def slow_shard(tmp_path, monkeypatch) -> Shard:
    """A shard far away that takes a minute to read: 5,000 requests, eight at once."""
    write_shard(tmp_path / "slow.tfrec", [serialize_example(fields(0))] * 500)
    content = (tmp_path / "slow.tfrec").read_bytes()
    fsspec.filesystem("memory").pipe("/slow/slow.tfrec", content)
    monkeypatch.setattr(readahead, "_PIECE_SIZE", len(content) // 5000)
    read_range = remote.read_range

    def read_slowly(url, start, stop):
        if "slow.tfrec" in url:
            time.sleep(0.1)
        return read_range(url, start, stop)

    monkeypatch.setattr(remote, "read_range", read_slowly)
    return find_shards("memory://slow/slow.tfrec")[0]


def threads_left() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("index", "fetch"))]


@pytest.mark.parametrize("is_first", [True, False])
def test_an_error_of_one_shard_ends_the_reading_of_the_others(slow_shard, tmp_path, is_first):
    write_shard(tmp_path / "odd.tfrec", [b"\xff\xff\xff"])
    odd = find_shards(str(tmp_path / "odd.tfrec"))[0]
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"odd\.tfrec: record 0 at byte 0: "):
        index.index_shards([odd, slow_shard] if is_first else [slow_shard, odd])
    assert not threads_left()
    assert time.monotonic() - began < 20


def test_an_index_that_is_broken_off_leaves_no_thread_that_reads_on(slow_shard):
    seen = []

    def interrupt(shard, record, image):
        # As Ctrl-C does.
        if not seen:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        seen.append(record)

    with pytest.raises(KeyboardInterrupt):
        index.index_shards([slow_shard], interrupt)
    assert not threads_left()
    assert len(seen) < 100


def test_an_index_of_a_disk_that_is_broken_off_ends_amid_a_shard(shards, monkeypatch):
    scan_records, seen = index.scan_records, []

    def scan_and_interrupt(stream, url):
        for record in scan_records(stream, url):
            yield record
            seen.append(record.number)
            # Long enough for the other thread to wait, and to hear of it.
            time.sleep(0.3)
            if len(seen) == 1:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr(index, "scan_records", scan_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        index.index_shards(find_shards(str(shards), prefix="train"))
    assert not threads_left()
    assert seen[-1] < 7


def write_small(path) -> int:
    """Write a shard of two short records and return where the second begins."""
    payloads = [serialize_example({"image": b"", "image_name": name}) for name in ("a", "b")]
    write_shard(path, payloads)
    return len(payloads[0]) + 16
