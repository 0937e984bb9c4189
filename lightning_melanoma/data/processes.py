"""Who of several processes does first what all of them need."""

import contextlib
from collections.abc import Iterator

import pytorch_lightning as pl


@contextlib.contextmanager
def first_process_first(trainer: pl.Trainer | None) -> Iterator[None]:
    """Let the first process go ahead: what it indexes, the others find in a shared cache.

    All processes must come here.

    Args:
        trainer: of this process; None for the only one.
    """
    rank = trainer.global_rank if trainer and trainer.world_size > 1 else None
    if trainer and rank:
        trainer.strategy.barrier("index")
    try:
        yield
    finally:
        # After an error as well: the others are to meet it, not to wait.
        if trainer and rank == 0:
            trainer.strategy.barrier("index")
