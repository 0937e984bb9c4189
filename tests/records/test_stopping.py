import threading
import time

import pytest

from lightning_melanoma.records import repeating
from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.stopping import StoppablePool, StoppedError, check_stop, wait_for
from lightning_melanoma.records.storage import find_shards


def test_threads_of_a_pool_hear_of_the_end_of_each_pool_around_it():
    begun, never = threading.Event(), threading.Event()

    def inner():
        begun.set()
        while not never.wait(0.01):
            check_stop()

    def outer():
        with StoppablePool(1, "inner") as pool:
            return wait_for(pool.submit(inner))

    with StoppablePool(1, "outer") as pool:
        task = pool.submit(outer)
        assert begun.wait(60)
    with pytest.raises(StoppedError):
        task.result()
    # Whoever is in no pool has nothing to hear.
    check_stop()


@pytest.mark.parametrize("kind", ["stream", "read"])
@pytest.mark.parametrize("fault", ["503", "silence"])
@pytest.mark.parametrize("url", ["gs://bucket/shard.tfrec", "{service}/bucket/shard.tfrec"])
def test_who_waits_for_a_bucket_that_does_not_answer_ends_when_told(
    service, monkeypatch, url, fault, kind
):
    service.put("shard.tfrec", bytes(1000))
    (shard,) = find_shards(url.format(service=service.url))
    reader = ShardReader(shard)
    # Far beyond what is waited for below: the wait ahead of the second try is half as long or more.
    monkeypatch.setattr(repeating, "FIRST_WAIT", 30.0)
    asked, done = threading.Event(), threading.Event()

    def draw_fault():
        asked.set()
        if fault == "silence":
            done.wait(60)
        return "503"

    monkeypatch.setattr(service, "draw_fault", draw_fault)
    pool = StoppablePool(1, "read")
    task = pool.submit(lambda: reader.read(0, 100) if kind == "read" else reader.stream().read())
    assert asked.wait(60)
    begun = time.monotonic()
    pool.stop()
    assert time.monotonic() - begun < 10
    done.set()
    with pytest.raises(StoppedError):
        task.result()
    assert not any(thread.name.startswith("fetch") for thread in threading.enumerate())
