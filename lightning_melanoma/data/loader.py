"""The loader: epoch after epoch of a dataset, with a place that can be kept and restored."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from lightning_melanoma.data.dataset import MelanomaDataset
from lightning_melanoma.data.sample import Batch

_T = TypeVar("_T")


class MelanomaLoader:
    """Iterates over the batches of an epoch; each new iteration is the next epoch.

    Lightning saves and restores `state_dict` by itself. The place counts batches *delivered*, not
    read ahead, so what is saved between two steps is exactly where the next run must go on.

    Args:
        source: whose batches are delivered.
        num_workers: processes that read; 0 reads in threads of this process, which is as fast.
        pin_memory: put batches into page-locked memory, for CUDA.
    """

    def __init__(
        self, source: MelanomaDataset, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        # Not `dataset`: Lightning would take its length for one that workers falsify, and warn.
        self.source = source
        self.batch_size = source.batch_size // source.world_size
        #: Rows of the table that could not be read, when they are to be skipped.
        self.skipped: set[int] = set()
        self._batches: Iterable[Batch] = source
        if num_workers or pin_memory:
            self._batches = DataLoader(
                source,
                batch_size=None,
                num_workers=num_workers,
                collate_fn=_as_it_is,
                pin_memory=pin_memory,
            )
        self._epoch = 0
        self._delivered = 0
        self._begun = False

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        return self.source.num_batches

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing moves before the first batch is asked for, since Lightning makes
        # iterators that it never uses.
        if self._begun or self._delivered >= len(self):
            self._epoch += 1
            self._delivered = 0
        self._begun = True
        self.source.epoch = self._epoch
        self.source.start = self._delivered
        for batch in self._batches:
            if isinstance(batch, Exception):
                raise batch
            self._note_skipped(batch)
            self._delivered += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place: seed, epoch and batches delivered of it, and of which records."""
        return {
            "seed": self.source.seed,
            "epoch": self._epoch,
            "delivered": self._delivered,
            "batch_size": self.source.batch_size,
            "num_records": self.source.num_records,
            "records": self.source.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the place that `state_dict` returned.

        Raises:
            ValueError: the place is one in other data, or in batches of another size.
        """
        for key in ("batch_size", "num_records"):
            if state[key] != getattr(self.source, key):
                raise ValueError(
                    f"checkpoint: expected training data with {key} {state[key]}, as when it was "
                    f"saved, found {getattr(self.source, key)}; give the data settings of that run"
                )
        # Checkpoints of old do not tell.
        if state.get("records", self.source.fingerprint) != self.source.fingerprint:
            raise ValueError(
                "checkpoint: expected the training records of the run that it is of, in their "
                "order, found others; give the data settings of that run: its fold, and its shards "
                "in the same order, from where they were"
            )
        self.source.seed = state["seed"]
        self._epoch = state["epoch"]
        self._delivered = state["delivered"]
        self._begun = False

    def _note_skipped(self, batch: Batch) -> None:
        if self.source.on_corrupt == "raise":
            return
        masked = ~batch.valid.numpy()
        real = self.source.positions(self._delivered) < self.source.num_records
        self.skipped.update(batch.rows.numpy()[masked & real].tolist())


def _as_it_is(batch: _T) -> _T:
    return batch
