"""The images of records, still encoded, by their row in a table: at random, or ahead in blocks.

The index tells where in a record its image lies. So a record is read and its checksums are checked,
but the message is not parsed again, which would cost as much as reading.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_melanoma.records.blocks import BlockLayout, BlockReader, block_layout
from lightning_melanoma.records.index import PLACE
from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.storage import Shard
from lightning_melanoma.records.tfrecord import (
    CorruptRecordError,
    place_in_words,
    unframe,
)

# Bytes that are read behind an image: see `Records.image_and_rest`.
_REST = 3072


class Records:
    """Reads records; any number of threads may. Open files and locks stay with their process.

    Args:
        shards: that hold the records.
        table: an index's, a row a record, or some rows of it; its column ``shard`` counts `shards`.

    Attributes:
        layout: the blocks that the records are read in, or None where each is read by itself,
            since all shards are on this machine.
    """

    layout: BlockLayout | None

    def __init__(self, shards: Sequence[Shard], table: pd.DataFrame) -> None:
        self.shards = list(shards)
        self._places = table[list(PLACE)].to_numpy(np.int64)
        shard, _, offset, length, _, _ = self._places.T
        is_remote = any(self.shards[number].is_remote for number in np.unique(shard))
        self.layout = block_layout(shard, offset, length) if is_remote else None
        self._readers: dict[int, ShardReader] = {}
        # One a shard: opening one that is far away takes a while.
        self._locks = [threading.Lock() for _ in self.shards]

    def image(self, row: int, ahead: BlockReader | None = None) -> memoryview:
        """Return the encoded image of a record whose checksums have been checked.

        It is a view of what was read: two copies would cost a hundredth of decoding it.

        Args:
            row: of the table.
            ahead: from `read_ahead`; a row that was not named there is read by itself.

        Raises:
            CorruptRecordError: as `image_and_rest` does.
            ChangedShardError: likewise.
            OSError: likewise.
        """
        data, length = self.image_and_rest(row, ahead)
        return data[:length]

    def image_and_rest(self, row: int, ahead: BlockReader | None = None) -> tuple[memoryview, int]:
        """Return what `image` does and some of what follows in the shard, and the image's length.

        The rest is for a decoder that is faster while it sees its input's end far ahead. There may
        be none of it, and it is not checked.

        Raises:
            CorruptRecordError: the shard is damaged, or is another than was indexed.
            ChangedShardError: it was written to while it was being read.
            OSError: it cannot be read.
        """
        shard, record, offset, length, image_offset, image_length = self._places[row].tolist()
        read = ahead.frame(row, offset, length) if ahead is not None else None
        if read is None:
            # From far away not a byte more than is wanted.
            rest = _REST if self.layout is None else 0
            read = self._read(shard, offset, length + rest)
        data = memoryview(read)
        try:
            unframe(data[:length], shard=self.shards[shard].url, record=record, offset=offset)
        except CorruptRecordError:
            # Damage may be skipped, a shard that is another by now may not.
            self._reader(shard).check()
            raise
        return data[image_offset - offset :], image_length

    def where(self, row: int) -> str:
        """Return the place of a record in words."""
        shard, record, offset = self._places[row, :3].tolist()
        return place_in_words(self.shards[shard].url, record, offset)

    @contextlib.contextmanager
    def read_ahead(self, rows: NDArray[np.int64]) -> Iterator[BlockReader | None]:
        """Give what fetches blocks ahead while `rows` are read, or None where that gains nothing.

        Args:
            rows: (M,) int64, rows of the table about in the order in which `image` will be asked
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
        return (self._readers.get(shard) or self._reader(shard)).read(offset, length)

    def _reader(self, shard: int) -> ShardReader:
        with self._locks[shard]:
            if shard not in self._readers:
                self._readers[shard] = ShardReader(self.shards[shard])
            return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_locks": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._locks = [threading.Lock() for _ in self.shards]
