"""The dataset: batches of one split, in an order and with draws that depend on (seed, epoch) alone.

The epoch's order is cut into global batches; a rank takes its part of each, a data-loading worker
every so-many-th of them. So the records of an epoch, and their order, are the same for any number
of ranks, workers and threads. Decoding runs in threads, a few batches ahead.
"""

import functools
import hashlib
import itertools
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lightning_melanoma.data.buffers import BatchBuffers
from lightning_melanoma.data.cache import PixelCache
from lightning_melanoma.data.decode import ImageError
from lightning_melanoma.data.draws import record_draws, record_keys
from lightning_melanoma.data.images import Images
from lightning_melanoma.data.order import epoch_order
from lightning_melanoma.data.pending import PendingBatch, Reading
from lightning_melanoma.data.sample import Batch
from lightning_melanoma.data.sampling import EpochRows, Sampling
from lightning_melanoma.data.table import OnCorrupt
from lightning_melanoma.predictions import known_ages
from lightning_melanoma.records.remote import log_repeated
from lightning_melanoma.records.stopping import StoppablePool
from lightning_melanoma.records.storage import Shard
from lightning_melanoma.records.tfrecord import CorruptRecordError

# Batches that are decoded before they are asked for: one being taken, one ready, one under way.
_BATCHES_AHEAD = 3
# Most records a task of the thread pool: enough to hide its cost.
_ROWS_A_TASK = 32
# Records whose targets and draws are looked up at once: 1 MB. Batch by batch that takes 0.1 ms more
# of the processor for each: its caches hold what the threads decode by then.
_ROWS_A_LOOKUP = 2048
# Longest turn of a thread at the interpreter, in seconds. In Python's 5 ms a training loop keeps
# the threads waiting for all of its own work between two batches: a thirtieth of their time.
_LONGEST_TURN = 1e-4
# In place of the images of a batch whose pixels are still to come.
_NO_IMAGES = torch.empty(0, dtype=torch.uint8)


class MelanomaDataset(IterableDataset[Batch]):
    """Yields the batches of one epoch; `epoch` and `start` are set before it is iterated.

    Args:
        table: of a `Split`.
        shards: of the same `Split`.
        image_size: pixels of a side.
        batch_size: rows of a global batch, all ranks together.
        seed: of order and draws.
        shuffle: permute the rows anew each epoch; else they come in the table's order.
        rank: of this process, in [0, world_size).
        world_size: processes that share each global batch.
        decode_threads: threads that read and decode; 0 for one a core.
        on_corrupt: raise the error of a record that cannot be read, or mask its row.
        sampling: which rows an epoch shows; None for each of the table once.
        cache: of the pixels of this table's rows; None for none.

    Raises:
        ValueError: `world_size` does not divide `batch_size`.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        shards: Sequence[Shard],
        *,
        image_size: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        decode_threads: int = 0,
        on_corrupt: OnCorrupt = "raise",
        sampling: Sampling | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                f"data.batch_size: expected a multiple of {world_size}, the number of processes "
                f"that share a batch, found {batch_size}; it counts all devices together"
            )
        self.shards = list(shards)
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.decode_threads = decode_threads or len(os.sched_getaffinity(0))
        self.on_corrupt = on_corrupt
        self.images = Images(self.shards, table, image_size=image_size, cache=cache)
        self.epoch = 0
        #: The first global batch to yield: above 0 when an epoch is resumed.
        self.start = 0
        self._keys = record_keys(table["image_name"])
        self._targets = table["target"].fillna(0).to_numpy(np.float32)
        self._ages = known_ages(table).fillna(-1).to_numpy(np.float32)
        self._sampling = sampling
        shape = (batch_size // world_size, image_size, image_size, 3)
        # Besides those that are ahead, the one that is taken and the one that a step still holds.
        self._buffers = BatchBuffers(shape, num_kept=_BATCHES_AHEAD + 2)

    @property
    def num_records(self) -> int:
        """Records of an epoch, all ranks together; one that is repeated counts as often."""
        return sum(self._sampling.counts) if self._sampling else len(self._keys)

    @property
    def num_batches(self) -> int:
        """Global batches of an epoch: each rank yields as many."""
        return -(-self.num_records // self.batch_size)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What orders rest on besides seed and epoch: the records, where they are, how often each.

        It is a hash of the names in the order of one epoch.
        """
        names = self._keys[self._order(seed=0, epoch=0).rows]
        return hashlib.blake2b(names.tobytes(), digest_size=8).hexdigest()

    def order(self) -> EpochRows:
        """Return the rows of the table, (num_records,) each, in the order of this epoch."""
        return self._order(self.seed, self.epoch)

    def _order(self, seed: int, epoch: int) -> EpochRows:
        if self._sampling:
            rows, repeats = self._sampling.epoch(seed, epoch)
        else:
            rows, repeats = np.arange(len(self._keys)), np.zeros(len(self._keys), np.int64)
        if not self.shuffle:
            return EpochRows(rows, repeats)
        order = epoch_order(seed, epoch, rows, self.images.records.layout)
        return EpochRows(rows[order], repeats[order])

    def positions(self, batches: int | Sequence[int]) -> NDArray[np.int64]:
        """Return (..., batch_size / world_size) int64, this rank's places in the epoch's order.

        Positions from `num_records` on only fill up the last batch: they stand for the epoch's
        first rows again, and are not valid.

        Args:
            batches: (...), numbers of global batches.
        """
        size = self.batch_size // self.world_size
        starts = np.asarray(batches, np.int64) * self.batch_size + self.rank * size
        return starts[..., None] + np.arange(size)

    def first_rows(self, count: int) -> Batch:
        """Return the first rows of the epoch, at most `count`: to look at, not to train on.

        Images that cannot be read are black; whoever iterates hears of them.
        """
        positions = np.arange(min(count, self.num_records))
        pixels = np.empty((len(positions), self.image_size, self.image_size, 3), np.uint8)
        ((rows, batch),) = self._without_pixels(self.order(), positions[None])
        self.images.fill(pixels, rows, slice(0, len(positions)), ahead=None)
        return batch._replace(images=_as_images(pixels))

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        steps = range(self.start + first, self.num_batches, stride)
        order = self.order()
        # For good: more iterators than one may be under way, and it costs others nothing.
        sys.setswitchinterval(min(sys.getswitchinterval(), _LONGEST_TURN))
        read_ahead = self.images.records.read_ahead(self._rows_to_read(order, steps))
        try:
            # The pool inside: its threads are told to stop before what they wait for ends.
            with read_ahead as ahead, StoppablePool(self.decode_threads, "decode") as pool:
                yield from self._batches(Reading(pool, order, ahead), steps)
        except (CorruptRecordError, ImageError, OSError) as error:
            if worker is None:
                raise
            # Across processes torch would bury the message in a traceback of text.
            yield error  # type: ignore[misc]  # the loader raises it
        finally:
            if worker is not None:
                # The count is this process's, which ends with the epoch.
                log_repeated()

    def _rows_to_read(self, order: EpochRows, steps: range) -> NDArray[np.int64]:
        """Return the rows whose blocks are to be fetched ahead."""
        if self.images.records.layout is None:
            return np.arange(0)
        # Not those that fill up the last batch: they are few, and their blocks were let go, or are
        # another process's.
        positions = self.positions(steps).ravel()
        rows: NDArray[np.int64] = order.rows[positions[positions < self.num_records]]
        if self.images.cache is not None:
            rows = rows[~self.images.cache.is_kept(rows)]
        return rows

    def _batches(self, reading: Reading, steps: range) -> Iterator[Batch]:
        lookups = self._lookups(reading.order, steps)
        begun = (self._begin(reading, rows, batch) for rows, batch in lookups)
        pending = deque(itertools.islice(begun, _BATCHES_AHEAD))
        while pending:
            batch = pending.popleft().finish()
            pending.extend(itertools.islice(begun, 1))
            yield batch

    def _begin(self, reading: Reading, rows: NDArray[np.int64], batch: Batch) -> PendingBatch:
        pixels = self._buffers.take()
        # A batch is shared by all threads, so that the first one is there as early as can be.
        share = min(-(-len(rows) // self.decode_threads), _ROWS_A_TASK)
        parts = [slice(at, min(at + share, len(rows))) for at in range(0, len(rows), share)]
        fill = functools.partial(self.images.fill, pixels, rows, ahead=reading.ahead)
        tasks = [reading.pool.submit(fill, part) for part in parts]
        return PendingBatch(batch._replace(images=_as_images(pixels)), tasks, self.on_corrupt)

    def _lookups(self, order: EpochRows, steps: range) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Yield the rows and the batch of each of some steps, complete but for its images."""
        stride = max(_ROWS_A_LOOKUP * self.world_size // self.batch_size, 1)
        if get_worker_info():
            # A batch that is sent to another process moves its memory: it must be no other's.
            stride = 1
        for first in range(0, len(steps), stride):
            yield from self._without_pixels(order, self.positions(steps[first : first + stride]))

    def _without_pixels(
        self, order: EpochRows, positions: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Yield what `_lookups` does, for each of (S, B) positions."""
        places = positions % self.num_records
        rows, repeats = order.rows[places], order.repeats[places]
        draws = record_draws(self.seed, self.epoch, self._keys[rows], repeats)
        valid = positions < self.num_records
        columns = (self._targets[rows], valid, draws, rows, self._ages[rows])
        fields = zip(*(torch.from_numpy(column).unbind() for column in columns), strict=True)
        # Rows beside it: to ask the batch's tensor takes 40 us, a sixth of decoding an image.
        yield from zip(rows, (Batch(_NO_IMAGES, *row) for row in fields), strict=True)


def _as_images(pixels: NDArray[np.uint8]) -> Tensor:
    # Turned by numpy: torch takes some 35 us for it, when its code has left the caches.
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2))
