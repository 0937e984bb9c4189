"""Threads that can be told that nobody wants any more what they do.

What is far away may be silent for half a minute, and be asked again for longer. Who gives up what
it has begun, since it failed or was interrupted, must not have to wait for that: a pool's threads
hear of its end wherever they wait for an answer, and so do those of the pools that they make.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from typing import Any, TypeVar

# Seconds between two looks whether to stop, of a thread that waits.
_LOOK_EVERY = 0.1

_T = TypeVar("_T")

# What tells the threads of this context to stop: one event a pool around them.
_events: ContextVar[tuple[threading.Event, ...]] = ContextVar("events", default=())


class StoppedError(Exception):
    """Nobody wants the answer any more. No OSError: it is no fault of what was asked."""


class StoppablePool:
    """A pool of threads that end soon when it is stopped, at the latest with its context.

    Args:
        num_threads: at most.
        name: that the threads' names begin with.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(
            num_threads, name, initializer=_events.set, initargs=((*_events.get(), self._stop),)
        )

    def submit(self, task: Callable[..., _T], /, *args: Any) -> Future[_T]:  # noqa: ANN401 - the task's
        """Return what a task will give."""
        return self._pool.submit(task, *args)

    def stop(self) -> None:
        """Cancel what has not begun, tell what has to stop, and wait until no thread is left."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "StoppablePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def check_stop() -> None:
    """Check that what this thread does is still wanted.

    Raises:
        StoppedError: a pool that it works for was stopped.
    """
    if any(event.is_set() for event in _events.get()):
        raise StoppedError


def wait_for(future: "Future[_T]") -> _T:
    """Return the result of a future, as soon as it is there.

    Raises:
        StoppedError: as `check_stop`, while it was not.
    """
    while not wait([future], _LOOK_EVERY).done:
        check_stop()
    return future.result()
