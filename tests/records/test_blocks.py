import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.records import blocks as blocks_module
from lightning_melanoma.records import readahead
from lightning_melanoma.records.blocks import BlockReader, block_layout
from lightning_melanoma.records.readahead import ReadAhead, open_stream


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_SIZE", 64)


def places(lengths: list[list[int]]):
    """Return shard, offset and length of records that follow one another in shards."""
    shards = np.repeat(np.arange(len(lengths)), [len(shard) for shard in lengths])
    offsets = np.concatenate([np.cumsum([0, *shard[:-1]]) for shard in lengths])
    return shards, offsets, np.concatenate([np.array(shard) for shard in lengths])


LENGTHS = st.lists(st.lists(st.integers(16, 200), min_size=1, max_size=20), min_size=1, max_size=4)


@given(LENGTHS, st.randoms())
def test_blocks_cover_each_shard_once_whatever_the_order_of_the_records(lengths, random):
    shards, offsets, sizes = places(lengths)
    layout = block_layout(shards, offsets, sizes)
    for number, shard in enumerate(lengths):
        own = layout.shards == number
        assert layout.starts[own].tolist() == [0, *layout.stops[own][:-1].tolist()]
        assert layout.stops[own][-1] == sum(shard)
    shuffled = np.array(random.sample(range(len(shards)), len(shards)))
    again = block_layout(shards[shuffled], offsets[shuffled], sizes[shuffled])
    assert np.array_equal(again.numbers, layout.numbers[shuffled])
    assert np.array_equal(again.starts, layout.starts)


@given(LENGTHS, st.randoms())
def test_each_block_is_read_once_and_gives_every_record(lengths, random):
    shards, offsets, sizes = places(lengths)
    content = [random.randbytes(sum(shard)) for shard in lengths]
    fetched = []

    def read(shard, offset, length):
        fetched.append((shard, offset, length))
        return content[shard][offset : offset + length]

    layout = block_layout(shards, offsets, sizes)
    rows = np.array(random.sample(range(len(shards)), len(shards)))
    reader = BlockReader(layout, rows, read)
    for row in rows:
        start, length = int(offsets[row]), int(sizes[row])
        expected = content[shards[row]][start : start + length]
        assert reader.frame(int(row), start, length) == expected
    assert reader.frame(int(rows[0]), 0, 1) is None
    reader.close()
    assert len(fetched) == len(set(fetched)) == len(layout.shards)


def test_a_record_of_a_block_that_was_not_named_is_left_to_be_read_alone():
    layout = block_layout(*places([[64, 64]]))
    reader = BlockReader(layout, np.array([1]), lambda shard, offset, length: b"x" * length)
    assert reader.frame(0, 0, 64) is None
    assert reader.frame(1, 64, 64) == b"x" * 64
    reader.close()


def test_pieces_are_fetched_ahead_several_at_once_and_no_further():
    together = threading.Barrier(4)
    begun = []

    def fetch(number):
        begun.append(number)
        if number < 4:
            together.wait(timeout=60)
        return bytes([number])

    ahead = ReadAhead(fetch, [1] * 100)
    assert ahead.take(0) == b"\0"
    for number in range(1, 50):
        assert ahead.take(number) == bytes([number])
        assert max(begun) <= number + readahead._AHEAD
    assert len(ahead._pieces) <= readahead._AHEAD
    ahead.close()


def test_pieces_that_are_passed_over_are_not_fetched_until_they_are_asked_for():
    begun = []

    def fetch(number):
        begun.append(number)
        return bytes([number])

    ahead = ReadAhead(fetch, [1] * 100)
    assert ahead.take(99) == bytes([99])
    assert begun == [99]
    assert ahead.take(80) == bytes([80])
    assert ahead.take(5) == bytes([5])
    for number in range(6, 80):
        assert ahead.take(number) == bytes([number])
    ahead.close()
    assert min(begun) == 5
    assert len(begun) == len(set(begun))


def test_an_error_of_a_piece_reaches_who_asks_for_it():
    def fetch(number):
        if number == 3:
            raise OSError("shard 3 is gone")
        return b"x"

    ahead = ReadAhead(fetch, [1] * 10)
    assert ahead.take(2) == b"x"
    with pytest.raises(OSError, match="shard 3 is gone"):
        ahead.take(3)
    ahead.close()


@pytest.mark.parametrize("size", [1, 99, 100, 101, 1000])
def test_a_stream_gives_all_bytes_in_order(size, monkeypatch):
    monkeypatch.setattr(readahead, "_PIECE_SIZE", 100)
    content = np.random.default_rng(size).bytes(size)
    with open_stream(lambda offset, length: content[offset : offset + length], size) as stream:
        assert stream.read(7) == content[:7]
        assert stream.read() == content[7:]


def test_pieces_that_nobody_takes_are_let_go_and_said_to_be_gone(monkeypatch):
    monkeypatch.setattr(readahead, "_MOST_KEPT", 20)
    ahead = ReadAhead(lambda number: bytes([number]), [2] * 100)
    for number in (0, 40, 80):
        assert ahead.take(number) == bytes([number])
        assert len(ahead._pieces) <= 20
    assert ahead.take(40) is None
    ahead.close()
