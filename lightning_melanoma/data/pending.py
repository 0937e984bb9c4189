"""A batch whose pixels are still being decoded by other threads, and what they read with."""

import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from lightning_melanoma.data.images import Faults
from lightning_melanoma.data.sample import Batch
from lightning_melanoma.data.sampling import EpochRows
from lightning_melanoma.data.table import OnCorrupt
from lightning_melanoma.records.blocks import BlockReader
from lightning_melanoma.records.stopping import StoppablePool


class Reading(NamedTuple):
    """What the batches of an epoch are read with.

    Attributes:
        pool: of the threads that decode.
        order: of the epoch.
        ahead: what fetches blocks ahead, if anything does.
    """

    pool: StoppablePool
    order: EpochRows
    ahead: BlockReader | None


class PendingBatch:
    """Becomes a batch when its tasks are done.

    Args:
        batch: complete but for its pixels.
        tasks: that fill them in.
        on_corrupt: raise the first fault, or mask the rows of all of them.
    """

    def __init__(
        self, batch: Batch, tasks: Sequence[Future[Faults]], on_corrupt: OnCorrupt
    ) -> None:
        self._batch = batch
        self._tasks = tasks
        self._on_corrupt = on_corrupt

    def finish(self) -> Batch:
        """Wait for the pixels and return the batch.

        Raises:
            CorruptRecordError: the first fault, or another, if they are to be raised.
            ImageError: as `CorruptRecordError`.
        """
        # The one begun last, first: when it is done the others are, or nearly, and one wait does.
        faults = [task.result() for task in reversed(self._tasks)]
        for place, error in itertools.chain(*reversed(faults)):
            if self._on_corrupt == "raise":
                raise error
            self._batch.valid[place] = False
        return self._batch
