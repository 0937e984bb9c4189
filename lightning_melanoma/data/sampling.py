"""Which records an epoch of training shows, and how often: a pure function of (seed, epoch).

Records of `data.train` come once an epoch. Those of `data.extra_train` come once, too, or as a
given share of the epoch; then they take turns, so that over the epochs each is shown as often as
the others. At a given rate of positives, all of the epoch's melanomas are repeated in turns until
they make up that share (the 2020 challenge's entries gained more from that than from strong class
weights). The counts are the same in every epoch.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_melanoma.data.order import record_order


class EpochRows(NamedTuple):
    """The rows of one epoch.

    Attributes:
        rows: (N,) int64, rows of the table, rising; a row may come several times.
        repeats: (N,) int64, how often the same row stands ahead of this one.
    """

    rows: NDArray[np.int64]
    repeats: NDArray[np.int64]


class Sampling:
    """Chooses the rows of each epoch.

    Args:
        table: of the training split; ``is_extra``, where it has that column, tells the records of
            `data.extra_train`.
        extra_rate: share of the epoch's images, ahead of repeats, that are extra, in (0, 1); None
            for each extra record once.
        positive_rate: share of melanomas in the epoch, in (0, 1); None leaves it as it is.

    Attributes:
        counts: rows of benign and melanoma in every epoch.

    Raises:
        ValueError: a rate is out of its range, or below what there is without repeats.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        extra_rate: float | None = None,
        positive_rate: float | None = None,
    ) -> None:
        targets, is_extra = table["target"].to_numpy(np.float32), _is_extra(table)
        self._own = np.flatnonzero(~is_extra)
        self._extra = [np.flatnonzero(is_extra & (targets == label)) for label in (0, 1)]
        self._targets = targets
        self._num_extra = [len(rows) for rows in self._extra]
        if extra_rate is not None:
            self._num_extra = self._share_of_extra(extra_rate)
        benign, melanoma = map(sum, zip(class_counts(table), self._num_extra, strict=True))
        self._num_repeats = 0
        if positive_rate is not None:
            self._num_repeats = _repeats(benign, melanoma, positive_rate)
        self.counts = (benign, melanoma + self._num_repeats)

    def epoch(self, seed: int, epoch: int) -> EpochRows:
        """Return the rows of an epoch, counted from 0, by the seed of the run."""
        extra = [
            _turn(rows, number, epoch=epoch, seed=seed)
            for rows, number in zip(self._extra, self._num_extra, strict=True)
        ]
        once = np.concatenate([self._own, *extra])
        melanomas = np.sort(once[self._targets[once] == 1])
        # The turns of an epoch's melanomas begin where those of the last epoch ended, since there
        # are as many in each.
        repeated = _turn(melanomas, self._num_repeats, epoch=epoch, seed=seed)
        rows = np.sort(np.concatenate([once, repeated]))
        first = np.searchsorted(rows, rows)
        return EpochRows(rows, np.arange(len(rows)) - first)

    def _share_of_extra(self, rate: float) -> list[int]:
        total = sum(self._num_extra)
        if not 0 < rate < 1:
            raise ValueError(f"data.extra_rate: expected a share between 0 and 1, found {rate}")
        if not total:
            raise ValueError(
                f"data.extra_rate: expected shards to take {rate:.0%} of the images from, found "
                "none; name them by data.extra_train"
            )
        wanted = len(self._own) * rate / (1 - rate)
        return [round(number * wanted / total) for number in self._num_extra]


def class_counts(table: pd.DataFrame) -> tuple[int, int]:
    """Return how many (benign, melanoma) records a training table has, extra ones aside."""
    own = own_records(table)
    positives = int(own["target"].sum())
    return len(own) - positives, positives


def own_records(table: pd.DataFrame) -> pd.DataFrame:
    """Return a training table without the records of `data.extra_train`: the population."""
    return table[~_is_extra(table)]


def _is_extra(table: pd.DataFrame) -> NDArray[np.bool_]:
    if "is_extra" not in table:
        return np.zeros(len(table), np.bool_)
    return table["is_extra"].to_numpy(np.bool_)


def _repeats(benign: int, melanoma: int, rate: float) -> int:
    natural = melanoma / (benign + melanoma)
    if not natural <= rate < 1:
        raise ValueError(
            f"data.positive_rate: expected a share between {natural:.4f}, that of the records, and "
            f"1, found {rate}; melanomas are repeated, none is left out"
        )
    return round(benign * rate / (1 - rate)) - melanoma


def _turn(rows: NDArray[np.int64], number: int, *, epoch: int, seed: int) -> NDArray[np.int64]:
    """Return the `number` rows whose turn it is in an epoch: each comes before any comes again."""
    places = np.arange(epoch * number, (epoch + 1) * number)
    if not number:
        return rows[:0]
    rounds = places // len(rows)
    taken = [
        rows[record_order(seed, int(turn), len(rows))[places[rounds == turn] % len(rows)]]
        for turn in np.unique(rounds)
    ]
    return np.concatenate(taken)
