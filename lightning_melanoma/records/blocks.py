"""Shards in blocks of some megabytes, and records read from whole blocks that are fetched ahead.

A bucket gives a small range as slowly as a large one, so records that are wanted in an order known
beforehand are taken out of blocks, each fetched once and held from its first record to its last.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.records.readahead import ReadAhead

#: Bytes of a block. Transfer then takes as long as a request's latency, and an order over blocks
#: of this size has enough of them to mix.
BLOCK_SIZE = 2 * 2**20
#: Blocks that an order may need at a time: 512 MiB are held, as the records are stored, and at most
#: twice that where records are not read as was said.
BLOCKS_HELD = 256


class BlockLayout(NamedTuple):
    """Which block each record is in, and where the blocks are; block numbers follow their places.

    Attributes:
        numbers: (N,) int64, the block of each record.
        shards: (number of blocks,) int64, the shard of each block.
        starts: (number of blocks,) int64, byte offset in the shard.
        stops: (number of blocks,) int64, byte offset behind the block.
    """

    numbers: NDArray[np.int64]
    shards: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


def block_layout(
    shards: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
) -> BlockLayout:
    """Return the blocks of records by where the records are: the same in whatever order they come.

    Args:
        shards: (N,) int64, the shard of each record.
        offsets: (N,) int64, byte offset of its frame in the shard.
        lengths: (N,) int64, bytes of its frame.
    """
    places = np.stack([shards, offsets // BLOCK_SIZE], axis=1)
    found, numbers = np.unique(places, axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)
    starts = np.full(len(found), np.iinfo(np.int64).max)
    stops = np.zeros(len(found), np.int64)
    np.minimum.at(starts, numbers, offsets)
    np.maximum.at(stops, numbers, offsets + lengths)
    return BlockLayout(numbers, found[:, 0], starts, stops)


class BlockReader:
    """Reads the frames of records that come in a known order; any number of threads may read.

    Args:
        layout: of the records.
        rows: (M,) int64, the records that will be read, about in this order; each as often as it
            stands there.
        read: returns the bytes of a shard at an offset, of a length.
    """

    def __init__(
        self,
        layout: BlockLayout,
        rows: NDArray[np.int64],
        read: Callable[[int, int, int], bytes],
    ) -> None:
        blocks, first, uses = np.unique(layout.numbers[rows], return_index=True, return_counts=True)
        by_use = np.argsort(first)
        blocks = blocks[by_use]
        self._layout = layout
        self._pieces = {block: piece for piece, block in enumerate(blocks.tolist())}

        def fetch(piece: int) -> bytes:
            block = blocks[piece]
            start, stop = int(layout.starts[block]), int(layout.stops[block])
            return read(int(layout.shards[block]), start, stop - start)

        self._ahead = ReadAhead(fetch, uses[by_use].tolist())

    def frame(self, row: int, offset: int, length: int) -> bytes | None:
        """Return the bytes of a record; None when it was read as often as was said, or not named.

        Args:
            row: of the record in the layout.
            offset: byte offset of its frame in the shard.
            length: bytes of its frame.

        Raises:
            OSError: what reading its block raised.
        """
        block = int(self._layout.numbers[row])
        piece = self._pieces.get(block)
        data = None if piece is None else self._ahead.take(piece)
        if data is None:
            return None
        start = offset - int(self._layout.starts[block])
        return data[start : start + length]

    def close(self) -> None:
        """Stop reading ahead and let the blocks go."""
        self._ahead.close()
