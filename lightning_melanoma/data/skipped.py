"""Tells, once each, which records were left out because they cannot be read."""

import logging
from collections.abc import Collection

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
        lines = [*split.skipped, *(f"{image}: its image cannot be read" for image in images)]
        new = [line for line in lines if line not in self._told]
        if new:
            total = len(split.table) + len(split.skipped)
            _log.warning("%s: %d of %d records were skipped:", name, len(new), total)
            for line in new:
                _log.warning("  %s", line)
        self._told.update(new)
