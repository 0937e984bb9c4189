"""Pixels kept while shards are being indexed, so that a bucket is read once for both.

An index is built in one pass over the bytes of its shards. Where pixels are to be cached, the
images that pass are decoded there and then; the first epoch finds them.
"""

import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.data.decode import ImageError, decode_into
from lightning_melanoma.data.pixel_files import pixel_file, write_record
from lightning_melanoma.data.pixel_memory import MemoryCache
from lightning_melanoma.records.storage import Shard

# Images whose memory is asked of the system at once.
_SLOTS_A_BLOCK = 64


class EarlyPixels(Protocol):
    """Decodes and keeps images by shard and record, since no table has them yet."""

    def keep(self, shard: Shard, record: int, image: bytes) -> None:
        """Decode an image and keep its pixels; any number of threads may.

        Args:
            shard: that it is in.
            record: its number there.
            image: encoded; one that cannot be decoded is left for the epoch to tell.
        """

    def undo(self) -> None:
        """Let go what was kept, since not all of the pixels fit."""


class EarlyFiles:
    """Keeps them in the files of the cache on a disk.

    Args:
        folder: of the cache; it exists.
        image_size: pixels of a side.
        room: bytes that may be taken. Whether all pixels fit is known when their number is: if they
            do not, `undo`.
    """

    def __init__(self, folder: Path, image_size: int, room: int) -> None:
        self._folder = folder
        self._shape = (image_size, image_size, 3)
        self._room = room
        self._lock = threading.Lock()
        # Of each file that was written to, whether it is of our making.
        self._is_new: dict[Path, bool] = {}

    def keep(self, shard: Shard, record: int, image: bytes) -> None:
        """Do as `EarlyPixels`; of a shard without a version mark nothing outlives a run."""
        pixels = np.empty(self._shape, np.uint8)
        path = pixel_file(self._folder, shard, len(pixels))
        with self._lock:
            if self._room < pixels.nbytes or not shard.version:
                return
            self._room -= pixels.nbytes
            self._is_new.setdefault(path, not path.exists())
        try:
            decode_into(image, pixels)
            write_record(self._folder, shard, record, pixels)
        except ImageError:
            pass
        except OSError:
            # A full disk: the epoch's own writes tell that.
            self._room = 0

    def undo(self) -> None:
        """Remove the files that were made."""
        for path, is_new in self._is_new.items():
            if is_new:
                path.unlink(missing_ok=True)


class EarlyMemory:
    """Keeps them in memory, until the tables tell which row each of them is.

    Args:
        image_size: pixels of a side.
        room: bytes that may be taken.
    """

    def __init__(self, image_size: int, room: int) -> None:
        self._shape = (image_size, image_size, 3)
        # Whole pages each, so that each can be given back by itself.
        self._stride = -(-image_size * image_size * 3 // mmap.PAGESIZE) * mmap.PAGESIZE
        self._num_slots = room // self._stride
        self._blocks: list[mmap.mmap] = []
        self._lock = threading.Lock()
        self._num_taken = 0
        # By the shard's URL and the record's number.
        self._slots: dict[tuple[str, int], int] = {}

    @property
    def bytes_kept(self) -> int:
        """What the images take that were not handed over yet."""
        return len(self._slots) * self._stride

    def keep(self, shard: Shard, record: int, image: bytes) -> None:
        """Do as `EarlyPixels`."""
        with self._lock:
            slot = self._num_taken
            if slot == self._num_slots:
                return
            if slot == len(self._blocks) * _SLOTS_A_BLOCK:
                size = _SLOTS_A_BLOCK * self._stride
                try:
                    self._blocks.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE))
                except OSError:
                    # The system gives less than it has: the first epoch reads the others again.
                    self._num_slots = slot
                    return
            self._num_taken += 1
        try:
            decode_into(image, self._pixels(slot))
        except ImageError:
            return
        self._slots[shard.url, record] = slot

    def undo(self) -> None:
        """Do as `EarlyPixels`."""
        self._slots.clear()
        self._blocks.clear()

    def hand_over(
        self, places: NDArray[np.int64], shards: Sequence[Shard], cache: MemoryCache
    ) -> None:
        """Move the pixels of a table's rows to their cache, giving the memory back on the way.

        Args:
            places: (N, 2) int64, shard (number in `shards`) and record of each row.
            shards: that the table counts.
            cache: of the table's rows.
        """
        for row, (shard, record) in enumerate(places.tolist()):
            slot = self._slots.pop((shards[shard].url, record), None)
            if slot is None:
                continue
            cache.write(row, self._pixels(slot))
            block, place = divmod(slot, _SLOTS_A_BLOCK)
            self._blocks[block].madvise(mmap.MADV_DONTNEED, place * self._stride, self._stride)

    def _pixels(self, slot: int) -> NDArray[np.uint8]:
        block, place = divmod(slot, _SLOTS_A_BLOCK)
        size = int(np.prod(self._shape))
        pixels = np.frombuffer(self._blocks[block], np.uint8, size, place * self._stride)
        return pixels.reshape(self._shape)
