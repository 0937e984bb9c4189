"""Decoded pixels in memory, by row of a table."""

import mmap
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MemoryCache:
    """Pixels in memory, taken from the system as rows come in.

    Args:
        num_rows: of the table.
        image_size: pixels of a side.
        is_shared: forked data-loading workers fill it together. Memory of one process alone is
            1.4 times as fast: the system gives it in pages of 2 MiB, not of 4 KiB.
    """

    def __init__(self, num_rows: int, image_size: int, *, is_shared: bool = False) -> None:
        shape = (num_rows, image_size, image_size, 3)
        self._is_shared = is_shared
        self._pixels = _shared(shape) if is_shared else np.zeros(shape, np.uint8)
        # Set when the pixels are there: a worker that ends in between leaves none behind.
        self._is_kept = _shared((num_rows,)) if is_shared else np.zeros(num_rows, np.uint8)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Copy the pixels of (N,) rows into `out`, (N, H, W, 3) uint8, where they are kept."""
        is_kept = self.is_kept(rows)
        if is_kept.all():
            # All at once: threads that copy row by row wait for each other between the rows.
            # The mode only says that no index is out of range; the default one copies twice.
            np.take(self._pixels, rows, axis=0, out=out, mode="clip")
        else:
            for place in np.flatnonzero(is_kept):
                out[place] = self._pixels[rows[place]]
        return is_kept

    def write(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """Keep the pixels of a row, (H, W, 3) uint8."""
        self._pixels[row] = pixels
        self._is_kept[row] = 1

    def is_kept(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (N,) bool, whether the pixels of rows are kept."""
        return self._is_kept[rows].astype(np.bool_)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the pixels: a process that is not forked begins with an empty cache."""
        return partial(type(self), is_shared=self._is_shared), self._pixels.shape[:2]


def _shared(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    # Anonymous and shared: what a forked process writes, all see.
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)
