import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lightning_melanoma.data import pixel_files, pixel_slots
from lightning_melanoma.data.pixel_files import PixelFiles
from lightning_melanoma.records.storage import Shard

SIZE = 33  # The row is no multiple of 8 bytes.
SHARDS = [Shard("/data/train00.tfrec", 1000, "1"), Shard("gs://bucket/train01.tfrec", 1000, "2")]
PLACES = np.array([[0, 0], [1, 5], [0, 7], [1, 0]])


def pixels(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def files(folder, shards=SHARDS, places=PLACES) -> PixelFiles:
    return PixelFiles(places, shards, folder=folder, image_size=SIZE)


def kept(cache: PixelFiles, num_rows: int = len(PLACES)) -> list[int]:
    """Return the rows that are there, each of them checked."""
    out = np.full((num_rows, SIZE, SIZE, 3), 99, np.uint8)
    found = cache.read(np.arange(num_rows), out)
    rows = np.flatnonzero(found).tolist()
    assert all(np.array_equal(out[row], pixels(row)) for row in rows)
    return rows


def test_what_was_written_is_there_for_the_next_run(tmp_path):
    first = files(tmp_path)
    assert kept(first) == []
    first.write(1, pixels(1))
    first.write(2, pixels(2))
    assert kept(first) == kept(first) == kept(files(tmp_path)) == [1, 2]
    assert first.is_kept(np.array([2, 0, 1])).tolist() == [True, False, True]


def test_what_an_earlier_run_kept_is_known_by_its_marks_alone(tmp_path):
    files(tmp_path).write(1, pixels(1))
    files(tmp_path).write(2, pixels(2))
    again = files(tmp_path)
    assert again.is_kept(np.array([3, 2, 0, 1, 2])).tolist() == [False, True, False, True, True]
    # The pixels are still to be compared with their mark.
    assert not again._is_known.any()


def test_black_pixels_are_kept_too(tmp_path):
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    files(tmp_path).write(0, black)
    out = np.full((1, *black.shape), 99, np.uint8)
    assert files(tmp_path).read(np.array([0]), out).all()
    assert not out.any()


def test_rows_of_another_split_find_the_records_of_the_same_shard(tmp_path):
    files(tmp_path).write(2, pixels(0))
    assert kept(files(tmp_path, places=np.array([[0, 7]])), 1) == [0]


@pytest.mark.parametrize("change", [{"size": 1001}, {"version": "1b"}])
def test_pixels_of_a_shard_that_changed_are_never_read(tmp_path, change):
    files(tmp_path).write(0, pixels(0))
    url, size, version = SHARDS[0].url, SHARDS[0].size, SHARDS[0].version
    changed = Shard(**{"url": url, "size": size, "version": version} | change)
    assert kept(files(tmp_path, [changed, SHARDS[1]])) == []
    # The file was replaced: there is one a shard and size, whatever happens.
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_goes_on_with_its_file_when_another_replaces_it(tmp_path):
    first = files(tmp_path)
    first.write(0, pixels(0))
    changed = files(tmp_path, [Shard(SHARDS[0].url, 2000, "9"), SHARDS[1]])
    changed.write(0, pixels(5))
    assert kept(first) == [0]


def test_pixels_of_another_decoder_are_never_read(tmp_path, monkeypatch):
    files(tmp_path).write(0, pixels(0))
    monkeypatch.setattr(pixel_files.simplejpeg, "__version__", "0.0.1")
    assert kept(files(tmp_path)) == []
    files(tmp_path).write(0, pixels(0))
    assert kept(files(tmp_path)) == [0]


def test_pixels_of_a_shard_that_tells_no_version_are_kept_for_one_run(tmp_path):
    unknown = [Shard("memory://train00.tfrec", 1000, ""), SHARDS[1]]
    first = files(tmp_path, unknown)
    first.write(0, pixels(0))
    assert kept(first) == [0]
    assert kept(files(tmp_path, unknown)) == []


@pytest.mark.parametrize("at", [0, 1, SIZE * SIZE * 3 - 1, SIZE * SIZE * 3, SIZE * SIZE * 3 + 7])
def test_any_changed_byte_of_a_slot_makes_it_one_that_is_not_there(tmp_path, at):
    cache = files(tmp_path)
    cache.write(0, pixels(0))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[pixel_slots.slot_start(0, SIZE * SIZE * 3) + at] ^= 1
    path.write_bytes(content)
    again = files(tmp_path)
    assert kept(again) == []
    again.write(0, pixels(0))
    assert kept(files(tmp_path)) == [0]


@pytest.mark.parametrize("length", [0, 10, 4096, 5000, 4096 + SIZE * SIZE * 3 + 4])
def test_a_file_cut_anywhere_is_filled_anew(tmp_path, length):
    files(tmp_path).write(0, pixels(0))
    (path,) = tmp_path.iterdir()
    os.truncate(path, length)
    assert kept(files(tmp_path)) == []
    files(tmp_path).write(0, pixels(0))
    assert kept(files(tmp_path)) == [0]


def test_a_disk_that_cannot_be_read_keeps_nothing_and_says_so_once(tmp_path, caplog):
    cache = files(tmp_path)
    cache.write(0, pixels(0))
    # Reading what is a folder by now is an error of the system's.
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, cache._files[0])
    os.close(folder)
    assert kept(cache) == kept(cache) == []
    assert caplog.text.count("cannot be used (Is a directory)") == 1


def test_a_file_that_cannot_be_opened_keeps_nothing_and_says_so_once(tmp_path, caplog):
    files(tmp_path).write(0, pixels(0))
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    cache = files(tmp_path)
    cache.write(0, pixels(0))
    assert kept(cache) == []
    assert caplog.text.count("cannot be used (Is a directory)") == 1


def test_a_disk_too_full_for_a_new_file_is_left_as_it_was_and_said_once(
    tmp_path, monkeypatch, caplog
):
    # Of one shard pixels are kept, from an earlier run.
    files(tmp_path).write(1, pixels(1))
    before = list(tmp_path.iterdir())
    three = [*SHARDS, Shard("/data/train02.tfrec", 1000, "3")]
    cache = files(tmp_path, three, np.array([[0, 0], [1, 5], [2, 0]]))

    def write_in_part(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_in_part)
    for row in (0, 2):
        cache.write(row, pixels(row))
    # What was kept is read on.
    assert kept(cache, 3) == [1]
    assert list(tmp_path.iterdir()) == before
    assert caplog.text.count("cannot be used (No space left on device)") == 1


NUM_MANY = 400
MANY = np.stack([np.arange(NUM_MANY) % 2, np.arange(NUM_MANY) // 2], axis=1)


def fill(folder, backwards: bool) -> None:
    cache = files(folder, places=MANY)
    for row in range(NUM_MANY)[:: -1 if backwards else 1]:
        cache.write(row, pixels(row))


def test_two_processes_fill_one_cache_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    fillers = [context.Process(target=fill, args=(tmp_path, way)) for way in (False, True)]
    for filler in fillers:
        filler.start()
    reader = files(tmp_path, places=MANY)
    while any(filler.is_alive() for filler in fillers):
        kept(reader, NUM_MANY)
    assert [filler.exitcode for filler in fillers] == [0, 0]
    assert kept(files(tmp_path, places=MANY), NUM_MANY) == list(range(NUM_MANY))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_process_killed_while_it_fills_leaves_no_wrong_pixels(tmp_path):
    context = multiprocessing.get_context("fork")
    filled = 0
    for attempt in range(5):
        filler = context.Process(target=fill, args=(tmp_path, attempt % 2 == 1))
        filler.start()
        time.sleep(0.01 * (attempt + 1))
        os.kill(filler.pid, signal.SIGKILL)
        filler.join()
        assert len(kept(files(tmp_path, places=MANY), NUM_MANY)) >= filled
        filled = len(kept(files(tmp_path, places=MANY), NUM_MANY))
