"""Who of several processes does first what all of them need."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import pytorch_lightning as pl

from lightning_melanoma.records.index_files import pack_indices, unpack_indices
from lightning_melanoma.records.storage import Shard


@contextlib.contextmanager
def first_process_first(
    trainer: pl.Trainer | None, shards: Callable[[], Iterable[Shard]]
) -> Iterator[None]:
    """Let the first process go ahead, and send the others the indices that it has then.

    So shards in a bucket are read through once for all hosts, whether they share a disk or not.
    All processes must come here.

    Args:
        trainer: of this process; None for the only one.
        shards: tells, behind the work, whose indices the others will want.
    """
    rank = trainer.global_rank if trainer and trainer.world_size > 1 else None
    if trainer and rank:
        unpack_indices(trainer.strategy.broadcast(b""))
    try:
        yield
    finally:
        # After an error as well: the others are to meet it, not to wait.
        if trainer and rank == 0:
            trainer.strategy.broadcast(pack_indices(shards()))
