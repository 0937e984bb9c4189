"""Training from buckets: Google's storage service on loopback, with requests that fail."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_shards
from torch.utils.data import get_worker_info

from lightning_melanoma.cli import main
from lightning_melanoma.data import dataset as dataset_module
from lightning_melanoma.data import order
from lightning_melanoma.data.audit import audit
from lightning_melanoma.data.cache import CacheSettings
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.dataset import MelanomaDataset
from lightning_melanoma.data.loader import MelanomaLoader
from lightning_melanoma.data.pixel_memory import MemoryCache
from lightning_melanoma.data.synthetic import synthesize
from lightning_melanoma.data.table import read_split
from lightning_melanoma.records import blocks, readahead, remote, repeating
from lightning_melanoma.records.reader import ChangedShardError
from lightning_melanoma.records.tfrecord import HEADER_SIZE


def read(paths):
    return read_split(str(paths), prefix="train", metadata=None, on_corrupt="raise")


def loader(split, **changes) -> MelanomaLoader:
    settings = {"image_size": 32, "batch_size": 8, "shuffle": True, "decode_threads": 2} | changes
    return MelanomaLoader(MelanomaDataset(split.table, split.shards, **settings))


def records(batches):
    """Return what each record brought, by its row: pixels, target, draws, age."""
    return {
        int(row): (image.numpy(), float(target), draws.numpy(), float(age))
        for batch in batches
        for image, target, valid, draws, row, age in zip(*batch, strict=True)
        if valid
    }


def assert_same_records(ours, theirs):
    assert ours.keys() == theirs.keys()
    for row, parts in ours.items():
        for one, other in zip(parts, theirs[row], strict=True):
            assert np.array_equal(one, other)


@pytest.fixture
def small_windows(monkeypatch):
    """Blocks of about three records of `write_shards`, of which four are held."""
    monkeypatch.setattr(blocks, "BLOCK_SIZE", 2500)
    monkeypatch.setattr(order, "BLOCKS_HELD", 4)


def test_epochs_of_the_demo_from_failing_requests_are_those_from_the_disk(
    service, tmp_path, monkeypatch, caplog
):
    synthesize(tmp_path / "demo", num_train=96, num_test=8, num_shards=4, num_test_shards=1)
    service.put_folder(tmp_path / "demo", "demo")
    settings = {"image_size": 64, "batch_size": 16, "fold": 0, "num_folds": 4}
    theirs = MelanomaDataModule(train=str(tmp_path / "demo"), **settings)
    ours = MelanomaDataModule(train="gs://bucket/demo", **settings)
    # So few requests are made that 5 % of them might be none.
    service.fault_rate = 0.25
    for split in ("train", "val", "train"):
        for one, other in zip(ours.loader(split), theirs.loader(split), strict=True):
            for mine, his in zip(one, other, strict=True):
                assert torch.equal(mine, his)
    assert sum(service.faults.values()) > 3
    ours.teardown("fit")
    assert "requests failed for a moment and were repeated" in caplog.text


def test_records_from_windows_come_once_as_from_the_disk_and_every_byte_too(
    service, shards, small_windows
):
    service.put_folder(shards, "data")
    local, far = read(shards), read("gs://bucket/data")
    service.bytes_sent.clear()
    service.fault_rate = 0.05
    theirs, ours = list(loader(local)), list(loader(far))
    assert [batch.rows.tolist() for batch in ours] != [batch.rows.tolist() for batch in theirs]
    assert_same_records(records(ours), records(theirs))
    # The bytes of a header more tell whether a shard is packed by gzip.
    expected = {shard.name: shard.size + HEADER_SIZE for shard in far.shards}
    assert service.bytes_sent == expected


def test_pixels_that_are_kept_are_not_fetched_again(service, shards, small_windows):
    service.put_folder(shards, "data")
    split = read("gs://bucket/data")
    cached = loader(split, cache=MemoryCache(len(split.table), 32))
    first = records(cached)
    service.bytes_sent.clear()
    assert_same_records(
        {row: parts[:2] for row, parts in records(cached).items()},
        {row: parts[:2] for row, parts in first.items()},
    )
    assert not service.bytes_sent


@pytest.mark.parametrize(("cache", "num_workers"), [("disk", 0), ("ram", 0), ("ram", 2)])
def test_index_and_pixels_are_made_in_one_pass_over_a_bucket(
    service, shards, tmp_path, monkeypatch, cache, num_workers
):
    service.put_folder(shards, "data")
    monkeypatch.setenv("LIGHTNING_MELANOMA_CACHE", str(tmp_path / "cache"))
    settings = {"num_folds": 4, "image_size": 32, "batch_size": 8}
    ours = MelanomaDataModule(
        train="gs://bucket/data", cache=cache, num_workers=num_workers, **settings
    )
    theirs = MelanomaDataModule(train=str(shards), **settings)
    ours.table("train")
    service.bytes_sent.clear()
    for split in ("train", "val"):
        assert_same_records(records(ours.loader(split)), records(theirs.loader(split)))
    # That the index takes one pass, another test shows.
    assert not service.bytes_sent


@pytest.mark.parametrize("num_workers", [0, 2])
def test_beside_a_record_that_cannot_be_read_pixels_on_the_disk_are_not_fetched_again(
    service, tmp_path, small_windows, num_workers
):
    write_shards(tmp_path, num_shards=4, num_records=8)
    write_shards(tmp_path, num_shards=1, num_records=1, start=32, prefix="train_b", image=b"text")
    for path in tmp_path.glob("train*"):
        service.put(f"data/{path.name}", path.read_bytes())
    split = read("gs://bucket/data")
    cache = CacheSettings("disk", None, str(tmp_path / "pixels"))
    cache.check(len(split.table), 32)
    for run in range(2):
        source = loader(split, cache=cache.open(split, 32), on_corrupt="skip").source
        again = MelanomaLoader(source, num_workers=num_workers)
        for epoch in range(2):
            service.bytes_sent.clear()
            assert len(records(again)) == 32
            if run or epoch:
                assert set(service.bytes_sent) == {"train_b00-1.tfrec"}


def test_requests_that_a_worker_process_repeated_are_counted(
    service, shards, tmp_path, monkeypatch
):
    service.put_folder(shards, "data")
    split = read("gs://bucket/data")
    service.fault_rate = 0.25
    told = tmp_path / "told"
    log = logging.FileHandler(told)
    monkeypatch.setattr(logging.getLogger(remote.__name__), "handlers", [log])
    source = MelanomaDataset(split.table, split.shards, image_size=32, batch_size=8)
    assert len(list(MelanomaLoader(source, num_workers=1))) == 4
    log.close()
    assert "requests failed for a moment and were repeated" in told.read_text()


# In batches of 12 the last one is filled up by the epoch's first rows, whose blocks are others'.
@pytest.mark.parametrize("batch_size", [8, 12])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (2, 1), (1, 3), (4, 2)])
def test_windows_give_the_same_records_over_ranks_and_workers(
    shards, small_windows, monkeypatch, world_size, num_workers, batch_size
):
    memory = fsspec.filesystem("memory")
    for path in shards.glob("train*"):
        memory.pipe(f"/windows/{path.name}", path.read_bytes())
    split = read("memory://windows")
    whole = list(loader(split, batch_size=batch_size))
    steps = {}
    for rank in range(world_size):
        for worker in range(num_workers):
            info = type("Info", (), {"id": worker, "num_workers": num_workers})
            monkeypatch.setattr(dataset_module, "get_worker_info", lambda i=info: i)
            source = loader(split, batch_size=batch_size, rank=rank, world_size=world_size).source
            for number, batch in enumerate(source):
                steps[worker + number * num_workers, rank] = batch.rows
    for step, batch in enumerate(whole):
        parts = [steps[step, rank] for rank in range(world_size)]
        assert torch.equal(torch.cat(parts), batch.rows)
    assert get_worker_info() is None


@pytest.mark.parametrize("batch_size", [8, 12])
def test_an_epoch_from_windows_goes_on_where_it_was_left(shards, small_windows, batch_size):
    memory = fsspec.filesystem("memory")
    for path in shards.glob("train*"):
        memory.pipe(f"/windows/{path.name}", path.read_bytes())
    split = read("memory://windows")
    whole = list(loader(split, batch_size=batch_size))
    for place in range(1, len(whole)):
        stopped = loader(split, batch_size=batch_size)
        iterator = iter(stopped)
        for _ in range(place):
            next(iterator)
        resumed = loader(split, batch_size=batch_size)
        resumed.load_state_dict(stopped.state_dict())
        iterator.close()
        for ours, theirs in zip(resumed, whole[place:], strict=True):
            assert torch.equal(ours.rows, theirs.rows)
            assert torch.equal(ours.images, theirs.images)
    following = loader(split, batch_size=batch_size)
    epochs = [[batch.rows.tolist() for batch in following] for _ in (0, 1)]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_a_shard_that_changes_amid_an_epoch_stops_it(
    shards, small_windows, monkeypatch, on_corrupt
):
    monkeypatch.setattr(readahead, "_AHEAD", 1)
    memory = fsspec.filesystem("memory")
    paths = sorted(shards.glob("train*"))
    for path in paths:
        memory.pipe(f"/changing/{path.name}", path.read_bytes())
    batches = iter(loader(read("memory://changing"), on_corrupt=on_corrupt, batch_size=2))
    next(batches)
    for path in paths:
        memory.pipe(f"/changing/{path.name}", path.read_bytes()[::-1])
    with pytest.raises(ChangedShardError, match=r"shard memory://changing/train0\d-8.tfrec: "):
        list(batches)


@pytest.mark.parametrize("share_a_disk", [True, False])
def test_one_process_indexes_a_bucket_in_one_pass_for_all(
    service, shards, tmp_path, monkeypatch, share_a_disk
):
    service.put_folder(shards, "data")
    monkeypatch.setenv("LIGHTNING_MELANOMA_CACHE", str(tmp_path / "cache"))
    meeting, sent, tables = threading.Barrier(2, timeout=120), [], {}

    def run(rank):
        def broadcast(value):
            if rank == 0:
                sent.append(value)
                if not share_a_disk:
                    shutil.rmtree(tmp_path / "cache")
            meeting.wait()
            return sent[0]

        module = MelanomaDataModule(train="gs://bucket/data", num_folds=2)
        # A trainer of two processes, of which only these parts are used.
        strategy = SimpleNamespace(broadcast=broadcast)
        module.trainer = SimpleNamespace(
            global_rank=rank, world_size=2, num_nodes=2, strategy=strategy
        )
        module.setup("fit")
        tables[rank] = module.table("train")

    threads = [threading.Thread(target=run, args=[rank]) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pd.testing.assert_frame_equal(tables[0], tables[1])
    expected = {f"train0{n}-8.tfrec": size_of(shards, n) + HEADER_SIZE for n in range(4)}
    assert service.bytes_sent == expected


def test_a_bucket_is_audited_as_a_disk_is(service, shards, caplog):
    service.put_folder(shards, "shards")
    service.fault_rate = 0.25
    ours, theirs = audit(["gs://bucket/shards"]), audit([str(shards)])
    assert ours.exit_status == theirs.exit_status
    assert ours.text.replace("gs://bucket/shards", str(shards)).split() == theirs.text.split()
    assert "requests failed for a moment and were repeated" in caplog.text


def size_of(folder, number):
    return (folder / f"train0{number}-8.tfrec").stat().st_size


SMALL = [
    *("--model.conv_channels", "[4, 8]", "--model.deconv_channels", "[4]"),
    *("--data.image_size", "32", "--data.batch_size", "8", "--data.num_folds", "2"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.max_epochs", "2"),
]


def start_fit(folder, data, **variables) -> subprocess.CompletedProcess[str]:
    """Run `fit` as a user does, in a process that has imported nothing before."""
    return subprocess.run(
        [sys.executable, "-m", "lightning_melanoma", "fit", "--data.train", data, *SMALL],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_fit_from_a_bucket_with_failing_requests_is_fit_from_the_disk(
    service, tmp_path, monkeypatch
):
    write_shards(tmp_path / "data", num_shards=4, num_records=24)
    service.put_folder(tmp_path / "data", "data")
    service.fault_rate = 0.05
    run = start_fit(tmp_path, "gs://bucket/data")
    assert run.returncode == 0, run.stderr
    assert sum(service.faults.values()) > 0
    assert "requests failed for a moment and were repeated" in run.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-melanoma"])
    main(["fit", "--data.train", "data", *SMALL])
    ours, theirs = (
        pd.read_csv(tmp_path / f"runs/melanoma/version_{number}/metrics.csv") for number in (0, 1)
    )
    pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.parametrize("ending", ["abandoned", "broken off"])
def test_an_epoch_that_ends_early_waits_for_no_bucket_and_leaves_no_thread(
    service, shards, small_windows, monkeypatch, ending
):
    # So that much is still to be fetched when the bucket gives nothing more.
    monkeypatch.setattr(readahead, "_AHEAD", 1)
    service.put_folder(shards, "data")
    batches = iter(loader(read("gs://bucket/data"), batch_size=2))
    next(batches)
    # The wait ahead of a second try is half as long or more: far beyond what is allowed below.
    monkeypatch.setattr(repeating, "FIRST_WAIT", 30.0)
    asked = threading.Event()
    monkeypatch.setattr(service, "draw_fault", lambda: asked.set() or "503")
    began = time.monotonic()
    if ending == "abandoned":
        # Seconds: what was under way without a fault is there by then.
        while not asked.wait(2):
            next(batches)
        began = time.monotonic()
        batches.close()
    else:
        interrupter = threading.Thread(target=lambda: asked.wait(60) and interrupt())
        # Bytes are being fetched already: it may come as soon as the thread has begun.
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            interrupter.start()
            list(batches)
        batches.close()
    assert time.monotonic() - began < 10
    assert not names_of_threads("decode", "fetch")


def interrupt() -> None:
    """Do what Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def names_of_threads(*prefixes: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefixes)]


@pytest.mark.parametrize(
    ("url", "denied", "expected"),
    [
        ("gs://nothing/data", None, "gs://nothing/data: expected a file, a folder or a bucket"),
        ("gs://bucket/data", 403, "gs://bucket/data: expected leave to read it, found none"),
        ("nosuch://bucket/data", None, "nosuch://bucket/data: expected a path, gs://, s3://"),
    ],
)
def test_fit_names_a_place_that_cannot_be_read_in_one_line(
    service, tmp_path, monkeypatch, capfd, url, denied, expected
):
    service.denied = denied
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-melanoma"])
    with pytest.raises(SystemExit) as error:
        main(["fit", "--data.train", url, *SMALL])
    assert error.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith(f"lightning-melanoma: error: {expected}")
    assert not any("Traceback" in line for line in lines)


@pytest.mark.slow
def test_fit_without_gcsfs_names_it_in_one_line(service, tmp_path):
    (tmp_path / "gcsfs.py").write_text("raise ImportError('blocked')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = start_fit(tmp_path, "gs://bucket/data", PYTHONPATH=path)
    assert run.returncode == 2
    assert "expected the package gcsfs, found none; install it" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
