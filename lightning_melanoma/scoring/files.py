"""Image files: found by path, folder or glob, and decoded in threads to batches of one shape.

A folder gives every file in it and below, whatever its name says: what is no image is a fault of
that file, which is told beside the others' results. Only hidden files are left out.
"""

import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_melanoma.data.decode import ImageError, decode_image

#: Bytes above which a file is refused unread: far more than the pixels that are allowed take.
MAX_FILE_SIZE = 2**30

# Batches that are decoded before they are asked for: one being taken, one ready, one under way.
_BATCHES_AHEAD = 3


class ImageBatch(NamedTuple):
    """Images of one step, always of the same shape.

    Attributes:
        images: (B, 3, S, S) uint8 in channels-last memory, RGB.
        rows: (B,) int64, the place of each in the list of files; -1 where there is no image: a file
            that cannot be read, or the fill of the last batch.
    """

    images: Tensor
    rows: Tensor


def find_images(paths: Sequence[str]) -> list[str]:
    """Return the files behind paths, folders and globs, each once, a folder's by name.

    Raises:
        FileNotFoundError: a path is not there, or a folder or glob has no file.
    """
    found: list[str] = []
    for path in paths:
        is_there = os.path.lexists(path)
        # Path.glob takes no absolute pattern.
        matches = [path] if is_there else sorted(glob.glob(path, recursive=True))  # noqa: PTH207
        files = [file for match in matches for file in _files_of(match)]
        if not files:
            raise FileNotFoundError(f"images: expected image files, found none at {path}")
        found += files
    return list(dict.fromkeys(found))


def _files_of(match: str) -> list[str]:
    if not Path(match).is_dir():
        return [match]
    below = ((path, path.relative_to(match).parts) for path in Path(match).rglob("*"))
    return sorted(
        str(path)
        for path, parts in below
        if not (path.is_dir() or any(part.startswith(".") for part in parts))
    )


class ImageFiles:
    """Yields the batches of a list of files, in its order.

    Args:
        paths: of the files.
        image_size: pixels of a side.
        batch_size: images of a batch.
        num_threads: that read and decode; 0 for one a core.

    Attributes:
        faults: why files cannot be read, by their place in the list; whole at the end of an
            iteration.
    """

    def __init__(
        self, paths: Sequence[str], *, image_size: int, batch_size: int, num_threads: int = 0
    ) -> None:
        self.faults: dict[int, str] = {}
        self._paths = list(paths)
        self._image_size = image_size
        self._batch_size = batch_size
        self._num_threads = num_threads or len(os.sched_getaffinity(0))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self._paths) // self._batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        self.faults = {}
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="decode")
        try:
            ahead = deque(self._begin(pool, n) for n in range(min(_BATCHES_AHEAD, len(self))))
            for number in range(len(self)):
                batch = self._finish(*ahead.popleft())
                if number + _BATCHES_AHEAD < len(self):
                    ahead.append(self._begin(pool, number + _BATCHES_AHEAD))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin(
        self, pool: ThreadPoolExecutor, number: int
    ) -> tuple[NDArray[np.uint8], dict[int, Future[str]]]:
        first = number * self._batch_size
        rows = range(first, min(first + self._batch_size, len(self._paths)))
        pixels = np.zeros((self._batch_size, self._image_size, self._image_size, 3), np.uint8)
        tasks = {row: pool.submit(self._fill, pixels[row - first], row) for row in rows}
        return pixels, tasks

    def _finish(self, pixels: NDArray[np.uint8], tasks: dict[int, Future[str]]) -> ImageBatch:
        rows = np.full(len(pixels), -1)
        for place, (row, task) in enumerate(tasks.items()):
            if fault := task.result():
                self.faults[row] = fault
            else:
                rows[place] = row
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return ImageBatch(images, torch.from_numpy(rows))

    def _fill(self, pixels: NDArray[np.uint8], row: int) -> str:
        """Decode one file into `pixels`, (S, S, 3); return what is wrong with it, or nothing."""
        path = Path(self._paths[row])
        try:
            size = path.stat().st_size
            if size > MAX_FILE_SIZE:
                return f"expected at most {MAX_FILE_SIZE:,} bytes, found {size:,}"
            if not path.is_file():
                return "expected a file, found something else"
            pixels[:] = decode_image(path.read_bytes(), self._image_size)
        except ImageError as error:
            return str(error)
        except OSError as error:
            return f"expected a file that can be read, found: {error.strerror or error}"
        return ""
