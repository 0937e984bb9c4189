"""Slots of a file of pixels: where they lie, and the mark that tells that one is whole.

A slot is the pixels of a record, then the mark. What a file begins with, and when its slots count,
is the affair of `pixel_files`.
"""

import os

import numpy as np
from numpy.typing import NDArray

# Bytes ahead of the slots: a page, so that they begin at one.
_HEADER_SIZE = 4096
_MARK_SIZE = 8


def slot_start(record: int, row_size: int) -> int:
    """Return the byte offset of a record's slot, for pixels of `row_size` bytes."""
    return _HEADER_SIZE + record * (row_size + _MARK_SIZE)


def write_slot(file: int, start: int, pixels: NDArray[np.uint8]) -> None:
    """Write pixels, (H, W, 3) uint8, and their mark.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    _write(file, pixels.data.cast("B"), start)
    _write(file, memoryview(mark_of(pixels)), start + pixels.nbytes)


def read_mark(file: int, start: int, row_size: int) -> bytes | None:
    """Return the mark of a slot, None where nothing was written.

    Raises:
        OSError: the disk cannot be read.
    """
    mark = os.pread(file, _MARK_SIZE, start + row_size)
    # Behind the end of the file there is nothing, in a hole of it zeros.
    return mark if len(mark) == _MARK_SIZE and any(mark) else None


def mark_of(pixels: NDArray[np.uint8]) -> bytes:
    """Return the 8 bytes that tell that the pixels are whole; never all zeros.

    What is to be found are pages that were not written, not an adversary: a sum does, at a tenth of
    the time of a CRC.
    """
    flat = pixels.reshape(-1)
    whole = len(flat) // _MARK_SIZE * _MARK_SIZE
    total = int(flat[:whole].view(np.uint64).sum()) + int(flat[whole:].sum())
    return (total % (2**64 - 1) + 1).to_bytes(_MARK_SIZE, "little")


def _write(file: int, content: memoryview, start: int) -> None:
    while content:
        written = os.pwrite(file, content, start)
        content, start = content[written:], start + written
