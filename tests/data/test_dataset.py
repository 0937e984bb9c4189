import os
import sys

import numpy as np
import pytest
import torch
from conftest import write_shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_melanoma.data.dataset import MelanomaDataset
from lightning_melanoma.data.decode import ImageError
from lightning_melanoma.data.draws import record_draws, record_keys
from lightning_melanoma.data.loader import MelanomaLoader
from lightning_melanoma.data.table import read_split
from lightning_melanoma.records.reader import ChangedShardError
from lightning_melanoma.records.tfrecord import CorruptRecordError


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    write_shards(folder, num_shards=5, num_records=7)
    return read_split(str(folder), prefix="train", metadata=None, on_corrupt="raise")


def dataset(split, **changes) -> MelanomaDataset:
    settings = {"image_size": 32, "batch_size": 8, "shuffle": True} | changes
    return MelanomaDataset(split.table, split.shards, **settings)


def valid_rows(batches) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows[batch.valid]]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@given(
    world_size=st.integers(1, 4),
    num_workers=st.integers(1, 3),
    per_rank=st.integers(1, 5),
    num_records=st.integers(1, 35),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_comes_once_over_ranks_and_workers(
    split, monkeypatch, world_size, num_workers, per_rank, num_records, epoch
):
    part = split._replace(table=split.table.iloc[:num_records])
    seen, steps = [], {}
    for rank in range(world_size):
        for worker in range(num_workers):
            info = type("Info", (), {"id": worker, "num_workers": num_workers})
            monkeypatch.setattr("lightning_melanoma.data.dataset.get_worker_info", lambda i=info: i)
            ours = dataset(
                part,
                batch_size=per_rank * world_size,
                rank=rank,
                world_size=world_size,
                decode_threads=2,
            )
            ours.epoch = epoch
            for number, batch in enumerate(ours):
                assert batch.images.shape == (per_rank, 3, 32, 32)
                seen += valid_rows([batch])
                steps[number * num_workers + worker, rank] = batch.rows
    assert sorted(seen) == list(range(num_records))
    monkeypatch.setattr("lightning_melanoma.data.dataset.get_worker_info", lambda: None)
    alone = dataset(part, batch_size=per_rank * world_size)
    alone.epoch = epoch
    for step, batch in enumerate(alone):
        parts = [steps[step, rank] for rank in range(world_size)]
        assert torch.equal(torch.cat(parts), batch.rows)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_four_ranks_of_three_real_workers_see_every_record_once(split):
    seen = []
    for rank in range(4):
        loader = MelanomaLoader(dataset(split, rank=rank, world_size=4), num_workers=3)
        seen += valid_rows(loader)
    assert sorted(seen) == list(range(35))


def test_a_batch_carries_pixels_target_and_draws_of_its_records(split):
    ours = dataset(split, seed=3)
    ours.epoch = 2
    keys = record_keys(split.table["image_name"])
    for batch in ours:
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        rows = batch.rows.numpy()
        assert np.array_equal(batch.targets, split.table["target"].to_numpy(np.float32)[rows])
        assert np.array_equal(batch.draws, record_draws(3, 2, keys[rows]))
        for place, row in enumerate(rows):
            assert np.array_equal(batch.images[place].permute(1, 2, 0), ours.images.decode(row))


def test_the_last_batch_is_filled_with_masked_rows_of_the_epoch(split):
    *_, last = dataset(split)
    first = next(iter(dataset(split)))
    assert last.valid.tolist() == [True] * 3 + [False] * 5
    assert torch.equal(last.rows[3:], first.rows[:5])
    assert torch.equal(last.images[3:], first.images[:5])


def test_workers_and_threads_change_nothing(split):
    plain = list(MelanomaLoader(dataset(split, decode_threads=1)))
    for loader in (
        MelanomaLoader(dataset(split, decode_threads=3)),
        MelanomaLoader(dataset(split), num_workers=2),
    ):
        for ours, theirs in zip(loader, plain, strict=True):
            assert_same(ours, theirs)


def test_a_batch_that_is_kept_is_not_overwritten_by_later_ones(split):
    ours = dataset(split, shuffle=False)
    kept = [batch for _ in range(3) for batch in ours]
    for batch in kept:
        for image, row in zip(batch.images, batch.rows, strict=True):
            assert np.array_equal(image.permute(1, 2, 0), ours.images.decode(int(row)))


def test_no_two_batches_of_a_worker_share_memory_which_moves_when_one_is_sent(split, monkeypatch):
    info = type("Info", (), {"id": 0, "num_workers": 1})
    monkeypatch.setattr("lightning_melanoma.data.dataset.get_worker_info", lambda: info)
    for batch in dataset(split):
        for field in batch:
            assert field.untyped_storage().nbytes() == field.nbytes


@pytest.mark.parametrize(("before", "after"), [(5e-3, 1e-4), (1e-5, 1e-5)])
def test_no_thread_keeps_those_that_decode_waiting_for_long(split, before, after):
    usual = sys.getswitchinterval()
    try:
        sys.setswitchinterval(before)
        next(iter(dataset(split)))
        assert sys.getswitchinterval() == pytest.approx(after)
    finally:
        sys.setswitchinterval(usual)


def test_unshuffled_rows_come_in_the_order_of_the_records(split):
    assert valid_rows(dataset(split, shuffle=False)) == list(range(35))


def test_an_epoch_mixes_the_shards(split):
    shards = split.table["shard"].to_numpy()[valid_rows(dataset(split))]
    assert len(set(shards[:8])) >= 3


def test_each_iteration_of_a_loader_is_the_next_epoch(split):
    loader = MelanomaLoader(dataset(split))
    # Lightning makes iterators that it never uses.
    iter(loader)
    first, second = valid_rows(loader), valid_rows(loader)
    assert sorted(first) == sorted(second)
    assert first != second
    again = MelanomaLoader(dataset(split))
    assert [valid_rows(again), valid_rows(again)] == [first, second]


@pytest.mark.parametrize("delivered", [0, 1, 4, 5])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_from_its_place(split, delivered, num_workers):
    loader = MelanomaLoader(dataset(split, seed=7), num_workers=num_workers)
    valid_rows(loader)
    epoch = iter(loader)
    for _ in range(delivered):
        next(epoch)
    state = loader.state_dict()
    rest = list(epoch)
    resumed = MelanomaLoader(dataset(split, seed=0))
    resumed.load_state_dict(state)
    if rest:
        for ours, theirs in zip(resumed, rest, strict=True):
            assert_same(ours, theirs)
    following = list(resumed)
    for ours, theirs in zip(following, list(loader), strict=True):
        assert_same(ours, theirs)


def test_a_place_in_other_data_is_refused(split):
    state = MelanomaLoader(dataset(split)).state_dict()
    other = MelanomaLoader(dataset(split, batch_size=4))
    with pytest.raises(ValueError, match="expected training data with batch_size 8"):
        other.load_state_dict(state)


def test_a_place_among_other_records_of_the_same_number_is_refused(split, tmp_path):
    state = MelanomaLoader(dataset(split)).state_dict()
    write_shards(tmp_path / "one", num_shards=5, num_records=7, start=1)
    others = read_split(str(tmp_path / "one"), prefix="train", metadata=None, on_corrupt="raise")
    backwards = [shard.url for shard in reversed(split.shards)]
    turned = read_split(backwards, prefix="train", metadata=None, on_corrupt="raise")
    for found in (others, turned):
        with pytest.raises(ValueError, match="expected the training records of the run"):
            MelanomaLoader(dataset(found)).load_state_dict(state)


def test_a_place_that_does_not_tell_its_records_is_taken(split):
    state = MelanomaLoader(dataset(split)).state_dict()
    del state["records"]
    MelanomaLoader(dataset(split)).load_state_dict(state)


def test_a_batch_that_the_ranks_cannot_share_is_refused(split):
    with pytest.raises(ValueError, match=r"data.batch_size: expected a multiple of 3"):
        dataset(split, rank=0, world_size=3)


@pytest.fixture
def broken(tmp_path):
    """A split in which row 2 is no image, and the record of row 5 was damaged later."""
    write_shards(tmp_path, num_shards=1, num_records=2)
    write_shards(tmp_path, num_shards=1, num_records=1, start=2, prefix="train_b", image=b"text")
    write_shards(tmp_path, num_shards=1, num_records=4, start=3, prefix="train_c")
    split = read_split(str(tmp_path), prefix="train", metadata=None, on_corrupt="raise")
    path = tmp_path / "train_c00-4.tfrec"
    damaged = bytearray(path.read_bytes())
    damaged[int(split.table["offset"][5]) + 40] ^= 1
    times = path.stat()
    path.write_bytes(damaged)
    # A disk that loses a bit leaves no time of it.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return split


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_cannot_be_read_stops_the_run(broken, num_workers):
    loader = MelanomaLoader(dataset(broken, shuffle=False), num_workers=num_workers)
    with pytest.raises(
        ImageError, match=r"record 0 at byte 0: expected a JPEG or PNG image"
    ) as error:
        list(loader)
    assert "\n" not in str(error.value)
    # Between processes only the message travels.
    assert num_workers or isinstance(error.value.__cause__, ImageError)


@pytest.mark.parametrize("count", [5, 8])
def test_the_first_rows_are_those_of_the_first_batch(split, count):
    ours = dataset(split)
    first = next(iter(ours))
    assert_same(ours.first_rows(count), (part[:count] for part in first))


def test_first_rows_that_cannot_be_read_are_black(broken):
    images = dataset(broken, shuffle=False).first_rows(100).images
    is_black = (images == 0).flatten(1).all(dim=1)
    assert is_black.nonzero().flatten().tolist() == [2, 5]


def test_a_record_that_was_damaged_since_stops_the_run(broken):
    with pytest.raises(CorruptRecordError, match=r"train_c00-4.tfrec: record 2 .*data CRC"):
        dataset(broken).images.decode(5)


def test_a_shard_that_is_overwritten_is_no_damage_to_skip(tmp_path):
    write_shards(tmp_path, num_shards=1, num_records=7)
    split = read_split(str(tmp_path), prefix="train", metadata=None, on_corrupt="skip")
    ours = dataset(split, on_corrupt="skip", batch_size=7)
    assert all(batch.valid.all() for batch in ours)
    path = next(tmp_path.glob("*.tfrec"))
    path.write_bytes(path.read_bytes()[::-1])
    # Some clocks of file systems are as slow as this test is fast.
    os.utime(path, (1, 1))
    with pytest.raises(ChangedShardError, match=f"shard {path}: .* found it changed since"):
        list(ours)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_cannot_be_read_is_skipped_and_counted_on_request(broken, num_workers):
    loader = MelanomaLoader(
        dataset(broken, on_corrupt="skip", batch_size=4), num_workers=num_workers
    )
    batches = list(loader)
    assert sorted(valid_rows(batches)) == [0, 1, 3, 4, 6]
    assert [len(batch.rows) for batch in batches] == [4, 4]
    assert loader.skipped == {2, 5}
    unread = [torch.isin(batch.rows, torch.tensor([2, 5])) for batch in batches]
    assert not any(batch.images[rows].any() for batch, rows in zip(batches, unread, strict=True))
