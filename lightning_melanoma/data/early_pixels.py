"""Pixels kept while shards are being indexed, so that a bucket is read once for both.

An index is built in one pass over the bytes of its shards. Where pixels are to be cached on a disk,
the images that pass are decoded there and then; the first epoch finds them.
"""

import threading
from pathlib import Path

import numpy as np

from lightning_melanoma.data.decode import ImageError, decode_into
from lightning_melanoma.data.pixel_files import pixel_file, write_record
from lightning_melanoma.records.storage import Shard


class EarlyPixels:
    """Decodes and keeps images by shard and record, since no table has them yet.

    Args:
        folder: of the cache; it exists.
        image_size: pixels of a side.
        room: bytes that may be taken. Whether all pixels fit is known when their number is: if they
            do not, `undo`.
    """

    def __init__(self, folder: Path, image_size: int, room: int) -> None:
        self._folder = folder
        self._shape = (image_size, image_size, 3)
        self._room = room
        self._lock = threading.Lock()
        # Of each file that was written to, whether it is of our making.
        self._is_new: dict[Path, bool] = {}

    def keep(self, shard: Shard, record: int, image: bytes) -> None:
        """Decode an image and keep its pixels; any number of threads may.

        Args:
            shard: that it is in; of one without a version mark nothing outlives a run.
            record: its number there.
            image: encoded; one that cannot be decoded is left for the epoch to tell.
        """
        pixels = np.empty(self._shape, np.uint8)
        path = pixel_file(self._folder, shard, len(pixels))
        with self._lock:
            if self._room < pixels.nbytes or not shard.version:
                return
            self._room -= pixels.nbytes
            self._is_new.setdefault(path, not path.exists())
        try:
            decode_into(image, pixels)
            write_record(self._folder, shard, record, pixels)
        except ImageError:
            pass
        except OSError:
            # A full disk: the epoch's own writes tell that.
            self._room = 0

    def undo(self) -> None:
        """Remove the files that were made."""
        for path, is_new in self._is_new.items():
            if is_new:
                path.unlink(missing_ok=True)
