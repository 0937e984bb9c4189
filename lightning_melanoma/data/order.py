"""The order of an epoch's records: a pure function of (seed, epoch), each record once.

On a disk any order costs the same, so it is a permutation of all records. From a bucket, records
must be read in large pieces. There the order is one that needs few of the pieces at a time: the
blocks of all shards come in a random order, each shard's spread evenly over the epoch, and a record
comes a random time after the block it is in, at most `span` blocks. Positions then vary as
those of a full permutation do (tests/data/test_order.py), while a window of `span` blocks is all
that is held. Unlike a shuffle buffer's, the order depends on no timing.
"""

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.data.draws import order_bits
from lightning_melanoma.records.blocks import BLOCKS_HELD, BlockLayout


def epoch_order(
    seed: int, epoch: int, rows: NDArray[np.int64], layout: BlockLayout | None
) -> NDArray[np.int64]:
    """Return (N,) int64, the places in `rows` in the order of one epoch: each one once.

    Args:
        seed: of the run.
        epoch: from 0.
        rows: (N,) int64, of the layout; a row may come several times.
        layout: of records that are read in blocks, whether their pixels are kept afterwards or
            not; None where each is read by itself.
    """
    if layout is None:
        return record_order(seed, epoch, len(rows))
    blocks = layout.numbers[rows]
    return window_order(seed, epoch, blocks=blocks, shards=layout.shards, span=BLOCKS_HELD)


def record_order(seed: int, epoch: int, num_records: int) -> NDArray[np.int64]:
    """Return (num_records,) int64, a permutation of the rows for one epoch: each one once."""
    return np.argsort(order_bits(seed, epoch, num_records), kind="stable")


def window_order(
    seed: int,
    epoch: int,
    *,
    blocks: NDArray[np.int64],
    shards: NDArray[np.int64],
    span: int,
) -> NDArray[np.int64]:
    """Return a permutation of the rows that touches at most about `span` blocks at a time.

    Args:
        seed: of the run.
        epoch: from 0.
        blocks: (N,) int64, the block of each row, numbered from 0.
        shards: (number of blocks,) int64, the shard of each block.
        span: in blocks; as many as there are, or more, make it `record_order`.

    Returns:
        (N,) int64, the rows in order, each one once.
    """
    if len(shards) <= span:
        return record_order(seed, epoch, len(blocks))
    bits = order_bits(seed, epoch, len(blocks) + 2 * len(shards))
    records, ranks, jitters = np.split(bits, [len(blocks), len(blocks) + len(shards)])
    times = _block_times(shards, ranks, _uniform(jitters))
    starts = np.argsort(np.argsort(times, kind="stable"), kind="stable")
    return np.argsort(starts[blocks] + span * _uniform(records), kind="stable")


def _block_times(
    shards: NDArray[np.int64], ranks: NDArray[np.uint64], jitters: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return when each block starts, in [0, 1): those of a shard in random order, evenly spread."""
    order = np.lexsort((ranks, shards))
    _, first, counts = np.unique(shards[order], return_index=True, return_counts=True)
    places = np.empty(len(shards))
    places[order] = np.arange(len(shards)) - np.repeat(first, counts)
    sizes = np.empty(len(shards))
    sizes[order] = np.repeat(counts, counts)
    return (places + jitters) / sizes


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    # The upper 53 bits: all that a float64 in [0, 1) can hold evenly.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
