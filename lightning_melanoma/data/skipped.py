"""Tells, once each, which records were left out because they cannot be read."""

import logging
from collections.abc import Collection, Iterable

import numpy as np

from lightning_melanoma.data.table import Split

_log = logging.getLogger(__name__)


class SkippedRecords:
    """Remembers what has been told."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def report(self, name: str, split: Split, unreadable_rows: Collection[int]) -> None:
        """Log a line for each record that was left out of a split and was not told yet.

        Args:
            name: of the split.
            split: whose shards had damaged records.
            unreadable_rows: of its table, whose images cannot be read.
        """
        images = split.table["image_name"].iloc[np.array(sorted(unreadable_rows), np.int64)]
        lines = [f"{image}: its image cannot be read" for image in images]
        self._tell(logging.WARNING, name, split.skipped)
        # Each of several processes has met its own: an error is heard from all of them.
        self._tell(logging.ERROR, name, lines)

    def _tell(self, level: int, name: str, lines: Iterable[str]) -> None:
        new = [line for line in lines if line not in self._told]
        if new:
            _log.log(level, "%s: skipped, as they cannot be read: %d", name, len(new))
            for line in new:
                _log.log(level, "  %s", line)
        self._told.update(new)
