import io
import pickle
import struct
from pathlib import Path

import pytest
import tfrecord
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.records.example import parse_example, serialize_example
from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.storage import Shard
from lightning_melanoma.records.tfrecord import (
    CorruptRecordError,
    masked_crc32c,
    read_records,
    scan_records,
    unframe,
    write_shard,
)

GOLDEN = Path(__file__).parent / "golden"
PAYLOADS = [b"first", b"", b"third" * 100]


def payloads_of(path: Path) -> list[bytes]:
    with path.open("rb") as stream:
        return [record.payload for record in read_records(stream, path.name)]


def test_a_shard_by_tensorflow_is_read():
    fields = [parse_example(payload) for payload in payloads_of(GOLDEN / "tensorflow.tfrec")]
    assert fields[0] == {
        "image": b"\xff\xd8\xff pixels",
        "image_name": b"ISIC_0000000",
        "target": 0,
        "sex": -1,
    }
    assert fields[1]["image_name"] == "ISIC_é".encode()
    assert fields[1]["age_approx"] == 45.5
    assert fields[2] == {}


def test_a_gzip_shard_by_tensorflow_is_read_by_its_magic_bytes(tmp_path):
    # The name says nothing of gzip.
    path = tmp_path / "train00-3.tfrec"
    path.write_bytes((GOLDEN / "tensorflow.gz.tfrec").read_bytes())
    reader = ShardReader(Shard(str(path), path.stat().st_size, ""))
    with reader.stream() as stream:
        unpacked = [record.payload for record in read_records(stream, path.name)]
    assert unpacked == payloads_of(GOLDEN / "tensorflow.tfrec")


def test_our_shard_is_tensorflows_to_the_byte(tmp_path):
    payloads = payloads_of(GOLDEN / "tensorflow.tfrec")
    fields = [parse_example(payload) for payload in payloads]
    write_shard(tmp_path / "ours.tfrec", [serialize_example(field) for field in fields])
    theirs = (GOLDEN / "tensorflow.tfrec").read_bytes()
    assert (tmp_path / "ours.tfrec").read_bytes() == theirs


def test_our_shard_is_read_by_the_tfrecord_package(tmp_path):
    path = tmp_path / "ours.tfrec"
    write_shard(path, [serialize_example({"image_name": f"ISIC_{n}", "target": n}) for n in (0, 1)])
    read = list(tfrecord.tfrecord_loader(str(path), None, {"image_name": "byte", "target": "int"}))
    assert [bytes(fields["image_name"]) for fields in read] == [b"ISIC_0", b"ISIC_1"]
    assert [int(fields["target"][0]) for fields in read] == [0, 1]


def test_a_shard_by_the_tfrecord_package_is_read(tmp_path):
    path = tmp_path / "theirs.tfrec"
    writer = tfrecord.TFRecordWriter(str(path))
    writer.write({"image_name": (b"ISIC_0", "byte"), "target": (1, "int"), "age": (2.5, "float")})
    writer.close()
    assert [parse_example(payload) for payload in payloads_of(path)] == [
        {"image_name": b"ISIC_0", "target": 1, "age": 2.5}
    ]


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("shards") / "shard.tfrec"
    assert write_shard(path, payloads) == len(payloads)
    assert payloads_of(path) == payloads


@pytest.mark.parametrize("length", [2**50, 2**63])
def test_a_length_beyond_all_memory_is_damage(tmp_path, length):
    stored = struct.pack("<Q", length)
    path = tmp_path / "train.tfrec"
    path.write_bytes(stored + struct.pack("<I", masked_crc32c(stored)) + b"some bytes")
    with pytest.raises(CorruptRecordError, match=f"memory can hold, found one of {length} bytes"):
        payloads_of(path)


def test_every_flipped_bit_and_every_truncation_is_detected(tmp_path):
    path = tmp_path / "shard.tfrec"
    write_shard(path, [b"first", b"second"])
    whole = path.read_bytes()
    boundary = len(b"first") + 16
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecordError) as error:
            list(read_records(io.BytesIO(damaged), "shard.tfrec"))
        assert error.value.record == (bit // 8 >= boundary)
        assert error.value.offset == (boundary if bit // 8 >= boundary else 0)
    for length in set(range(1, len(whole))) - {boundary}:
        with pytest.raises(CorruptRecordError, match="truncated"):
            list(read_records(io.BytesIO(whole[:length]), "shard.tfrec"))


def test_an_error_says_shard_record_offset_and_reason(tmp_path):
    path = tmp_path / "train00-2.tfrec"
    write_shard(path, [b"first", b"second"])
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    with pytest.raises(CorruptRecordError) as error:
        list(read_records(io.BytesIO(damaged), "train00-2.tfrec"))
    message = str(error.value)
    assert message.startswith("shard train00-2.tfrec: record 1 at byte 21: data CRC 0x")
    assert "\n" not in message
    assert str(pickle.loads(pickle.dumps(error.value))) == message


def test_scanning_goes_on_behind_a_record_with_damaged_data(tmp_path):
    path = tmp_path / "shard.tfrec"
    write_shard(path, PAYLOADS)
    damaged = bytearray(path.read_bytes())
    damaged[12] ^= 1
    first, *rest = scan_records(io.BytesIO(damaged), "shard.tfrec")
    assert isinstance(first, CorruptRecordError)
    assert [record.payload for record in rest] == PAYLOADS[1:]


def test_a_file_that_is_no_tfrecord_is_named_as_such():
    with pytest.raises(CorruptRecordError, match="no TFRecord file"):
        list(read_records(io.BytesIO(b"image_name,target\nISIC_0,0\n"), "train.csv"))


def test_a_frame_of_another_length_is_refused(tmp_path):
    path = tmp_path / "shard.tfrec"
    write_shard(path, [b"first", b"second"])
    with pytest.raises(CorruptRecordError, match="has changed since it was indexed"):
        unframe(path.read_bytes(), shard="shard.tfrec", record=0, offset=0)


def test_a_shard_appears_whole_or_not_at_all(tmp_path):
    def failing():
        yield b"first"
        raise RuntimeError("the disk is full")

    write_shard(tmp_path / "shard.tfrec", [b"earlier"])
    with pytest.raises(RuntimeError, match="full"):
        write_shard(tmp_path / "shard.tfrec", failing())
    assert payloads_of(tmp_path / "shard.tfrec") == [b"earlier"]
    assert list(tmp_path.iterdir()) == [tmp_path / "shard.tfrec"]


def test_a_field_of_several_values_is_refused():
    from tfrecord import example_pb2

    example = example_pb2.Example()
    example.features.feature["target"].int64_list.value.extend([0, 1])
    with pytest.raises(ValueError, match="field target: expected one value, found 2"):
        parse_example(example.SerializeToString())


def test_bytes_that_are_no_example_are_refused():
    with pytest.raises(ValueError, match=r"expected a tf\.train\.Example"):
        parse_example(b"\x0a\xff\xff\xff")


def test_a_field_of_another_type_is_refused():
    with pytest.raises(TypeError, match="field sex: expected bytes, str, int or float, found list"):
        serialize_example({"sex": [1]})
