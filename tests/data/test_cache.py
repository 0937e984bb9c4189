import itertools
import logging
import mmap
import os
import resource
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
import torch
from conftest import jpeg, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_melanoma.data import cache as cache_module
from lightning_melanoma.data import early_pixels
from lightning_melanoma.data.cache import CacheSettings, parse_size
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.dataset import MelanomaDataset
from lightning_melanoma.data.decode import decode_image
from lightning_melanoma.data.early_pixels import EarlyFiles, EarlyMemory
from lightning_melanoma.data.loader import MelanomaLoader
from lightning_melanoma.data.pixel_files import PixelFiles
from lightning_melanoma.data.pixel_memory import MemoryCache
from lightning_melanoma.data.table import read_split
from lightning_melanoma.records.storage import Shard

NUM_RECORDS = 21
# The records of these rows cannot be read.
BROKEN = {4, 13}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """21 records in 3 shards, two of which are damaged behind the index's back."""
    folder = tmp_path_factory.mktemp("split")
    paths = write_shards(folder, num_shards=3, num_records=7)
    found = read_split(str(folder), prefix="train", metadata=None, on_corrupt="raise")
    for row in BROKEN:
        shard, offset = found.table[["shard", "offset"]].iloc[row]
        damaged = bytearray(paths[shard].read_bytes())
        damaged[offset + 40] ^= 1
        status = paths[shard].stat()
        paths[shard].write_bytes(damaged)
        os.utime(paths[shard], ns=(status.st_atime_ns, status.st_mtime_ns))
    return found


def loader(split, kind, folder, *, num_workers=0, **changes) -> MelanomaLoader:
    cache = CacheSettings(kind, None, str(folder)).open(split, 32, num_workers=num_workers)
    settings = {"image_size": 32, "batch_size": 6, "shuffle": True, "on_corrupt": "skip"}
    dataset = MelanomaDataset(split.table, split.shards, cache=cache, **settings | changes)
    return MelanomaLoader(dataset, num_workers=num_workers)


@given(
    kind=st.sampled_from(["none", "ram", "disk"]),
    decode_threads=st.integers(1, 4),
    world_size=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 3),
    restarts=st.booleans(),
)
@settings(max_examples=40)
def test_batches_do_not_depend_on_cache_threads_or_ranks(
    split, tmp_path_factory, kind, decode_threads, world_size, seed, restarts
):
    folder = tmp_path_factory.mktemp("cache")
    plain = loader(split, "none", folder, seed=seed)
    ranks = [
        loader(
            split,
            kind,
            folder,
            seed=seed,
            rank=rank,
            world_size=world_size,
            decode_threads=decode_threads,
        )
        for rank in range(world_size)
    ]
    for epoch in range(3):
        expected = list(plain)
        found = [list(rank) for rank in ranks]
        for step, batch in enumerate(expected):
            for name, theirs in zip(batch._fields, batch, strict=True):
                ours = torch.cat([getattr(batches[step], name) for batches in found])
                assert torch.equal(ours, theirs), (epoch, step, name)
        seen = [int(row) for batch in expected for row in batch.rows[batch.valid]]
        assert sorted(seen) == sorted(set(range(NUM_RECORDS)) - BROKEN)
        if restarts:
            for rank in ranks:
                rank.source.images.cache = CacheSettings(kind, None, str(folder)).open(split, 32)


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_later_epochs_need_no_shards(tmp_path, kind, num_workers):
    paths = write_shards(tmp_path / "shards", num_shards=2, num_records=6)
    whole = read_split(str(tmp_path / "shards"), prefix="train", metadata=None, on_corrupt="raise")
    (tmp_path / "cache").mkdir()
    ours = loader(whole, kind, tmp_path / "cache", num_workers=num_workers, on_corrupt="raise")
    first = torch.cat([batch.images[batch.rows.argsort()] for batch in ours])
    for path in paths:
        path.write_bytes(b"")
    ours.source.images.records._readers.clear()
    second = torch.cat([batch.images for batch in ours])
    assert first.sum() == second.sum()


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_memory_cache_says_no_until_it_was_told(is_shared):
    cache = MemoryCache(4, 2, is_shared=is_shared)
    wanted = np.array([3, 1, 0])
    out = np.empty((3, 2, 2, 3), np.uint8)
    assert not cache.read(wanted, out).any()
    for row, seen in ((1, [False, True, False]), (0, [False, True, True]), (3, [True] * 3)):
        cache.write(row, np.full((2, 2, 3), row, np.uint8))
        out[:] = 99
        assert cache.read(wanted, out).tolist() == cache.is_kept(wanted).tolist() == seen
        assert all((out[place] == wanted[place]).all() for place in np.flatnonzero(seen))
    assert not cache.is_kept(np.array([2])).any()


@pytest.mark.parametrize("kind", ["none", "ram"])
def test_memory_does_not_grow_with_epochs(tmp_path, kind):
    write_shards(tmp_path, num_shards=1, num_records=64, image=jpeg(0, size=256))
    whole = read_split(str(tmp_path), prefix="train", metadata=None, on_corrupt="raise")
    ours = loader(whole, kind, tmp_path, image_size=256, batch_size=16)
    ours.source.images.cache = CacheSettings(kind, None, None).open(whole, 256)
    sizes = [resident_size() for _ in range(6) if all(len(batch) for batch in ours)]
    # A batch has 3 MB: losing one an epoch would be 12.
    assert sizes[-1] - sizes[1] < 6e6


def resident_size() -> int:
    with open("/proc/self/statm") as numbers:  # noqa: PTH123 - no file of ours
        return int(numbers.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        (12, 12),
        ("12", 12),
        ("8GB", 8 * 10**9),
        ("1.5 gib", 3 * 2**29),
        ("500M", 5 * 10**8),
        ("2KiB", 2048),
        ("7b", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "8XB", "-1", 0, "8 G B", "8ib", "9" * 400])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"data.cache_size: expected bytes, such as 8GB, found"):
        parse_size(text)


def datamodule(folder, **changes) -> MelanomaDataModule:
    settings = {"train": str(folder), "image_size": 32, "batch_size": 8, "num_folds": 4}
    return MelanomaDataModule(**settings | changes)


def test_a_cache_that_is_too_small_is_refused_in_one_line(shards):
    message = (
        r"data.cache_size: expected at least 98,304 bytes for 32 images of 32 x 32 pixels, "
        r"found 50,000; give more, or a smaller data.image_size, or data.cache none"
    )
    with pytest.raises(ValueError, match=message):
        datamodule(shards, cache="ram", cache_size=50_000).setup("fit")
    datamodule(shards, cache="ram", cache_size="0.1MB").setup("fit")


def test_more_than_the_memory_of_the_machine_is_refused(shards):
    with pytest.raises(ValueError, match=r"data.cache ram: expected memory for .* available"):
        datamodule(shards, cache="ram", image_size=200_000).setup("fit")


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A container that may use 100,000 bytes: of 99,000 used, 90,000 are files that were read."""
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.current").write_text("99000\n")
    (tmp_path / "memory.stat").write_text(
        "anon 9000\nfile 90000\ninactive_file 40000\nactive_file 50000\n"
    )
    monkeypatch.setattr(cache_module, "_CGROUP", tmp_path)
    return tmp_path


def test_files_that_were_read_take_no_memory_from_the_cache_in_a_container(container):
    ram = CacheSettings("ram", None, None)
    ram.check(29, 32)
    with pytest.raises(ValueError, match=r"memory for 92,160 bytes .*, found 91,000 available"):
        ram.check(30, 32)


def test_a_container_without_a_limit_has_the_memory_of_the_machine(container):
    (container / "memory.max").write_text("max\n")
    CacheSettings("ram", None, None).check(30, 32)


def test_more_than_the_room_on_the_disk_is_refused(shards, tmp_path):
    with pytest.raises(ValueError, match=r"data.cache_dir .*: expected room for .* bytes free"):
        datamodule(shards, cache="disk", cache_dir=str(tmp_path / "c"), image_size=1_000_000).setup(
            "fit"
        )


def test_a_file_that_goes_while_the_room_is_counted_is_no_error(tmp_path):
    # A link that leads nowhere is there to be listed and not to be asked, as another run's
    # temporary file may be.
    (tmp_path / ".x.pixels").symlink_to("nowhere")
    CacheSettings("disk", None, str(tmp_path)).check(1, 32)


def test_a_folder_that_cannot_be_made_is_refused(shards, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"data.cache_dir: expected a folder that can be written"):
        datamodule(shards, cache="disk", cache_dir=str(tmp_path / "file" / "c")).setup("fit")


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_training_and_validation_are_kept_and_test_is_not(shards, tmp_path, kind):
    data = datamodule(shards, test=str(shards), cache=kind, cache_dir=str(tmp_path / "c"))
    plain = datamodule(shards)
    for split in ("train", "val"):
        for _ in range(2):
            for ours, theirs in zip(data.loader(split), plain.loader(split), strict=True):
                assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert data.loader("train").source.images.cache is not None
    assert data.loader("test").source.images.cache is None


@contextmanager
def file_size_limit(size: int):
    """Let writes behind `size` bytes of any file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_disk_that_becomes_full_is_said_once_and_training_goes_on(shards, tmp_path, num_workers):
    changes = {"cache": "disk", "cache_dir": str(tmp_path / "c"), "num_workers": num_workers}
    # Batches that small, as workers hand them over in files, under the same limit.
    data = datamodule(shards, batch_size=2, **changes)
    plain = datamodule(shards, batch_size=2)
    # A file, so that what workers say is in it as well.
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger("lightning_melanoma").addHandler(handler)
    # Room for two of a shard's eight images, and part of the third.
    with file_size_limit(12_000):
        for _ in range(2):
            for ours, theirs in zip(data.loader("train"), plain.loader("train"), strict=True):
                assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    logging.getLogger("lightning_melanoma").removeHandler(handler)
    handler.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("cannot be used (File too large); going on without keeping more.")


def test_early_pixels_take_the_room_that_there_is_and_leave_what_is_no_image(tmp_path):
    shard = Shard("gs://bucket/train00.tfrec", 1000, "2")
    early = EarlyFiles(tmp_path, 32, room=2 * 32 * 32 * 3)
    for record, image in enumerate([b"no image", jpeg(1), jpeg(2)]):
        early.keep(shard, record, image)
    places = np.array([[0, record] for record in range(3)])
    kept = PixelFiles(places, [shard], folder=tmp_path, image_size=32)
    out = np.empty((3, 32, 32, 3), np.uint8)
    assert kept.read(np.arange(3), out).tolist() == [False, True, False]
    assert np.array_equal(out[1], decode_image(jpeg(1), 32))


def test_early_pixels_in_memory_are_handed_over_to_the_tables_that_have_their_rows():
    shards = [Shard(f"gs://bucket/train0{number}.tfrec", 1000, "") for number in range(2)]
    # A page for each of five images: the last has no room.
    early = EarlyMemory(32, room=5 * mmap.PAGESIZE)
    for record, image in enumerate([b"no image", jpeg(1), jpeg(2)]):
        for shard in shards:
            early.keep(shard, record, image)
    assert early.bytes_kept == 3 * mmap.PAGESIZE
    for places in [[1, 1], [0, 2], [0, 0]], [[1, 2], [0, 1]]:
        cache = MemoryCache(len(places), 32)
        early.hand_over(np.array(places), shards, cache)
        out = np.empty((len(places), 32, 32, 3), np.uint8)
        is_kept = [record > 0 and [shard, record] != [1, 2] for shard, record in places]
        assert cache.read(np.arange(len(places)), out).tolist() == is_kept
        for (_, record), pixels in itertools.compress(zip(places, out, strict=True), is_kept):
            assert np.array_equal(pixels, decode_image(jpeg(record), 32))
    assert early.bytes_kept == 0


def test_early_pixels_that_the_system_gives_no_memory_for_are_left_out(monkeypatch):
    # More than addresses can tell apart.
    monkeypatch.setattr(early_pixels, "_SLOTS_A_BLOCK", 2**40)
    early = EarlyMemory(32, room=5 * mmap.PAGESIZE)
    for record in range(2):
        early.keep(Shard("gs://bucket/train00.tfrec", 1000, ""), record, jpeg(record))
    assert early.bytes_kept == 0


def test_memory_that_early_pixels_take_counts_as_available(monkeypatch):
    ram = CacheSettings("ram", None, None)
    early = EarlyMemory(32, room=10 * mmap.PAGESIZE)
    for record in range(3):
        early.keep(Shard("gs://bucket/train00.tfrec", 1000, "1"), record, jpeg(record))
    monkeypatch.setattr(cache_module, "_available_memory", lambda: 2 * 32 * 32 * 3)
    ram.check(5, 32, early=early)
    with pytest.raises(ValueError, match=r"data.cache ram: expected memory"):
        ram.check(7, 32, early=early)
    assert early.bytes_kept == 0


def test_processes_that_share_memory_keep_no_early_pixels_in_it(monkeypatch):
    monkeypatch.setattr(cache_module, "_available_memory", lambda: 10**6)
    ram = CacheSettings("ram", None, None)
    assert ram.early(32) is not None
    assert ram.early(32, num_processes=2) is None


def test_early_pixels_of_a_cache_that_does_not_fit_are_removed(shards, tmp_path):
    memory = fsspec.filesystem("memory")
    for path in shards.glob("train*"):
        memory.pipe(f"/too_many/{path.name}", path.read_bytes())
    settings = {"cache": "disk", "cache_dir": str(tmp_path / "kept"), "image_size": 32}
    with pytest.raises(ValueError, match=r"data.cache_size: expected at least 98,304 bytes"):
        MelanomaDataModule(
            "memory://too_many", split="shards", num_folds=4, cache_size=50_000, **settings
        ).table("train")
    assert not list((tmp_path / "kept").iterdir())


def test_what_an_earlier_run_kept_outlives_a_cache_that_does_not_fit(tmp_path):
    old, new = (Shard(f"gs://bucket/{name}.tfrec", 1000, "1") for name in ("old", "new"))
    kept = PixelFiles(np.array([[0, 0]]), [old], folder=tmp_path, image_size=32)
    kept.write(0, decode_image(jpeg(1), 32))
    early = EarlyFiles(tmp_path, 32, room=10**6)
    early.keep(old, 1, jpeg(2))
    early.keep(new, 0, jpeg(3))
    early.undo()
    assert kept.read(np.array([0]), np.empty((1, 32, 32, 3), np.uint8)).all()
    assert len(list(tmp_path.iterdir())) == 1
