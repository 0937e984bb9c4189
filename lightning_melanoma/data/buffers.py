"""Memory for the pixels of batches, used again as soon as nobody holds the batch.

Fresh memory of this size comes from the kernel page by page, each of them cleared: 18 us an image
of 256 pixels in batches of 256, a twentieth of decoding it.
"""

import weakref
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BatchBuffers:
    """Gives out arrays of one shape, and takes them back by itself.

    Args:
        shape: of every array.
        num_kept: most arrays that are kept while nobody uses them.
    """

    def __init__(self, shape: tuple[int, ...], *, num_kept: int) -> None:
        self._shape = shape
        self._num_kept = num_kept
        self._idle: list[memoryview] = []

    def take(self) -> NDArray[np.uint8]:
        """Return an array of undefined content, which is the caller's until the last use of it.

        Views of it count as uses, numpy's and torch's alike.
        """
        # Without a lock: the garbage collector may call `_take_back` anywhere, here as well.
        try:
            whole = self._idle.pop()
        except IndexError:
            whole = np.empty(self._shape, np.uint8).data
        # Lives as long as its views do. Were it a view of an array, they would keep that alone.
        lent = np.asarray(whole)
        weakref.finalize(lent, self._take_back, whole).atexit = False
        return lent

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the memory, which stays with its process."""
        return partial(type(self), num_kept=self._num_kept), (self._shape,)

    def _take_back(self, whole: memoryview) -> None:
        # Threads that come at once may keep one more each.
        if len(self._idle) < self._num_kept:
            self._idle.append(whole)
