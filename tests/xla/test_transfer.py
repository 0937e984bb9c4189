"""The feed without a device: what it reads ahead, what it forwards, and when its thread ends."""

import threading

import pytest

from lightning_melanoma.xla.transfer import DeviceFeed


class Numbers:
    """0 to 9 with a place that counts what was read."""

    batch_size = 16

    def __init__(self, fails_at=None):
        self.read = 0
        self.fails_at = fails_at

    def __len__(self):
        return 10

    def __iter__(self):
        while self.read < len(self):
            if self.read == self.fails_at:
                raise ValueError("damaged")
            self.read += 1
            yield self.read - 1

    def state_dict(self):
        return {"read": self.read}

    def load_state_dict(self, state):
        self.read = state["read"]


def feed_of(loader, **settings):
    return DeviceFeed(
        loader, **{"send": lambda batch: 10 * batch, "before_wait": lambda: None, **settings}
    )


def num_threads():
    return sum(thread.name == "device-feed" for thread in threading.enumerate())


def wait_until(is_met):
    for _ in range(1000):
        if is_met():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited 10 seconds")


def test_all_batches_come_sent_and_in_order():
    feed = feed_of(Numbers())
    assert list(feed) == list(range(0, 100, 10))
    assert len(feed) == 10
    assert feed.batch_size == 16
    assert num_threads() == 0


def test_the_place_is_that_of_the_delivered_not_of_the_read():
    loader = Numbers()
    feed = feed_of(loader)
    assert feed.state_dict() == {"read": 0}
    batches = iter(feed)
    for delivered in (1, 2, 3):
        next(batches)
        # Two are ready behind the one that was taken.
        wait_until(lambda count=delivered + 2: loader.read == count)
        assert feed.state_dict() == {"read": delivered}
    feed.load_state_dict({"read": 8})
    assert list(feed) == [80, 90]


def test_no_more_than_the_depth_is_read_ahead():
    loader = Numbers()
    batches = iter(feed_of(loader, depth=3))
    next(batches)
    wait_until(lambda: loader.read == 4)
    threading.Event().wait(0.2)
    assert loader.read == 4
    batches.close()


def test_nothing_is_read_before_the_first_batch_is_asked_for():
    loader = Numbers()
    iter(feed_of(loader))
    assert loader.read == 0
    assert num_threads() == 0


def test_an_error_of_the_loader_or_of_sending_comes_in_its_place():
    batches = iter(feed_of(Numbers(fails_at=2)))
    assert [next(batches), next(batches)] == [0, 10]
    with pytest.raises(ValueError, match="damaged"):
        next(batches)

    def refuse(batch):
        raise ValueError("does not divide")

    with pytest.raises(ValueError, match="does not divide"):
        next(iter(feed_of(Numbers(), send=refuse)))
    assert num_threads() == 0


def test_the_thread_ends_when_the_loop_is_left_or_the_feed_closed():
    for batch in feed_of(Numbers()):
        if batch == 20:
            break
    wait_until(lambda: num_threads() == 0)
    feed = feed_of(Numbers())
    batches = iter(feed)
    next(batches)
    feed.close()
    assert num_threads() == 0
    assert next(batches, None) is None


def test_the_step_is_dispatched_before_each_wait():
    calls = []
    list(feed_of(Numbers(), before_wait=lambda: calls.append(None)))
    assert len(calls) == 11
