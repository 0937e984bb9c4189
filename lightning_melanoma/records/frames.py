"""The data of records by their row in a table of places: at random, or ahead in blocks."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.records.blocks import BlockLayout, BlockReader, block_layout
from lightning_melanoma.records.storage import Shard, ShardReader
from lightning_melanoma.records.tfrecord import unframe


class Records:
    """Reads records; any number of threads may. Open files and locks stay with their process.

    Args:
        shards: that hold the records.
        places: (N, 4) int64: of each record its shard (in `shards`), its number there, and byte
            offset and length of its frame.

    Attributes:
        layout: the blocks that the records are read in, or None where each is read by itself,
            since all shards are on this machine.
    """

    layout: BlockLayout | None

    def __init__(self, shards: Sequence[Shard], places: NDArray[np.int64]) -> None:
        self.shards = list(shards)
        self.places = places
        shard, _, offset, length = places.T
        is_remote = any(self.shards[number].is_remote for number in np.unique(shard))
        self.layout = block_layout(shard, offset, length) if is_remote else None
        self._readers: dict[int, ShardReader] = {}
        # One a shard: opening one that is far away takes a while.
        self._locks = [threading.Lock() for _ in self.shards]

    def payload(self, row: int, ahead: BlockReader | None = None) -> bytes:
        """Return the data of a record after checking its checksums.

        Args:
            row: of `places`.
            ahead: from `read_ahead`, for rows that were named there.

        Raises:
            CorruptRecordError: the shard is damaged, or has changed since it was indexed.
            OSError: it cannot be read, or changed while it was.
        """
        shard, record, offset, length = (int(part) for part in self.places[row])
        frame = ahead.frame(row, offset, length) if ahead is not None else None
        if frame is None:
            frame = self._read(shard, offset, length)
        return unframe(frame, shard=self.shards[shard].url, record=record, offset=offset)

    @contextlib.contextmanager
    def read_ahead(self, rows: NDArray[np.int64]) -> Iterator[BlockReader | None]:
        """Give what fetches blocks ahead while `rows` are read, or None where that gains nothing.

        Args:
            rows: (M,) int64, rows of `places` about in the order in which `payload` will be asked
                for them.
        """
        if self.layout is None or not len(rows):
            yield None
            return
        blocks = BlockReader(self.layout, rows, self._read)
        try:
            yield blocks
        finally:
            blocks.close()

    def _read(self, shard: int, offset: int, length: int) -> bytes:
        with self._locks[shard]:
            if shard not in self._readers:
                self._readers[shard] = ShardReader(self.shards[shard])
            reader = self._readers[shard]
        return reader.read(offset, length)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_locks": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._locks = [threading.Lock() for _ in self.shards]
