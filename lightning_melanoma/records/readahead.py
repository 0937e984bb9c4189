"""Byte ranges fetched before they are asked for, several at once, each let go after its last use.

A request to a bucket takes tens of milliseconds before its first byte comes, so the next pieces
are under way while one is being used. What is kept is bounded by what lies between a piece's first
use and its last one, and by how far ahead is fetched.
"""

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import BinaryIO, cast

from typing_extensions import Buffer, override

from lightning_melanoma.records.stopping import StoppablePool, wait_for

# Requests at once: enough that latency hides behind transfer, few enough for a home line.
_REQUESTS = 8
# Pieces under way or waiting to be used.
_AHEAD = 12
# Pieces that are kept, of a bucket's blocks 1 GiB: twice what an order needs. More wait only where
# pieces are not taken as was said; who asks for one that was let go reads for itself.
_MOST_KEPT = 512
# Bytes of a piece of a stream: a request is mostly transfer.
_PIECE_SIZE = 4 * 2**20


class ReadAhead:
    """Fetches numbered pieces in their order; any number of threads may take them.

    Only the piece that is asked for and the next ones are fetched: those that are passed over may
    never be, since what is in them is kept elsewhere.

    Args:
        fetch: returns a piece's bytes by its number.
        uses: how often each piece will be taken, by number. Pieces are numbered in the order in
            which they are first taken, more or less.
    """

    def __init__(self, fetch: Callable[[int], bytes], uses: Sequence[int]) -> None:
        self._fetch = fetch
        self._left = list(uses)
        self._pieces: dict[int, Future[bytes]] = {}
        self._begun = bytearray(len(self._left))
        self._lock = threading.Lock()
        self._pool = StoppablePool(_REQUESTS, "fetch")

    def take(self, number: int) -> bytes | None:
        """Wait for a piece and return it; None when it was let go, taken as often as was said.

        Raises:
            OSError: what `fetch` raised.
            StoppedError: nobody wants the piece any more.
        """
        with self._lock:
            for near in range(number, min(number + 1 + _AHEAD, len(self._left))):
                if not self._begun[near]:
                    self._begun[near] = True
                    self._pieces[near] = self._pool.submit(self._fetch, near)
            while len(self._pieces) > _MOST_KEPT:
                del self._pieces[min(self._pieces)]
            piece = self._pieces.get(number)
        if piece is None:
            return None
        data = wait_for(piece)
        with self._lock:
            self._left[number] -= 1
            if not self._left[number]:
                self._pieces.pop(number, None)
        return data

    def close(self) -> None:
        """Stop fetching and let everything go."""
        self._pool.stop()
        self._pieces.clear()


def open_stream(read: Callable[[int, int], bytes], size: int) -> BinaryIO:
    """Return a file of `size` bytes to read once from the start to the end, fetched ahead.

    Args:
        read: returns the bytes at an offset, of a length.
        size: bytes.
    """
    return cast(BinaryIO, io.BufferedReader(_Stream(read, size), _PIECE_SIZE))


class _Stream(io.RawIOBase):
    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        offsets = range(0, size, _PIECE_SIZE)
        self._pieces = ReadAhead(
            lambda number: read(offsets[number], min(_PIECE_SIZE, size - offsets[number])),
            [1] * len(offsets),
        )
        self._numbers = iter(range(len(offsets)))
        self._rest = memoryview(b"")

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        if not self._rest:
            number = next(self._numbers, None)
            if number is None:
                return 0
            self._rest = memoryview(self._pieces.take(number) or b"")
        target = memoryview(buffer).cast("B")
        length = min(len(target), len(self._rest))
        target[:length] = self._rest[:length]
        self._rest = self._rest[length:]
        return length

    @override
    def close(self) -> None:
        self._pieces.close()
        super().close()
