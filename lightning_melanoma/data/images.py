"""The images of a table's rows as pixels: decoded, or from the cache."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_melanoma.data.cache import PixelCache
from lightning_melanoma.data.decode import ImageError, decode_into
from lightning_melanoma.records.blocks import BlockReader
from lightning_melanoma.records.frames import Records
from lightning_melanoma.records.storage import Shard
from lightning_melanoma.records.tfrecord import CorruptRecordError

#: The places in a batch that could not be read, each with the reason.
Faults = list[tuple[int, Exception]]


class Images:
    """Reads and decodes; any number of threads may.

    Args:
        shards: that hold the records.
        table: of the same `Split`.
        image_size: pixels of a side.
        cache: of the pixels of this table's rows; None for none.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        table: pd.DataFrame,
        *,
        image_size: int,
        cache: PixelCache | None,
    ) -> None:
        #: The encoded images, by row of the table.
        self.records = Records(shards, table)
        self.cache = cache
        self._size = image_size

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the image of a row as (image_size, image_size, 3) uint8 RGB.

        Raises:
            CorruptRecordError: the shard is damaged.
            OSError: it cannot be read, or is no longer the one that was indexed.
            ImageError: the bytes are no image; the message says where they lie.
        """
        pixels = np.empty((self._size, self._size, 3), np.uint8)
        data = self.records.image(row)
        try:
            decode_into(data, pixels)
        except ImageError as error:
            raise self._placed(error, row) from error
        return pixels

    def decode_all(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Return the images of some rows, (N, image_size, image_size, 3) uint8 RGB.

        Raises:
            CorruptRecordError: as `decode` does, like the rest.
            OSError: likewise.
            ImageError: likewise.
        """
        pixels = np.empty((len(rows), self._size, self._size, 3), np.uint8)
        for place, row in enumerate(rows):
            pixels[place] = self.decode(int(row))
        return pixels

    def fill(
        self,
        pixels: NDArray[np.uint8],
        rows: NDArray[np.int64],
        part: slice,
        ahead: BlockReader | None,
    ) -> Faults:
        """Fill in the pixels of a part of a batch.

        Args:
            pixels: (B, image_size, image_size, 3), of the batch; black afterwards where an image
                cannot be read.
            rows: (B,), of the batch.
            part: the places of the batch that are wanted.
            ahead: from `Records.read_ahead`, or None.

        Raises:
            OSError: a shard cannot be read, or is no longer the one that was indexed.
        """
        places, numbers = np.arange(part.start, part.stop), rows[part]
        if self.cache is not None:
            is_missing = ~self.cache.read(numbers, pixels[part])
            places, numbers = places[is_missing], numbers[is_missing]
        faults: Faults = []
        for place, row in zip(places.tolist(), numbers.tolist(), strict=True):
            out = pixels[place]
            try:
                data, length = self.records.image_and_rest(row, ahead)
                decode_into(data, out, length)
            except (CorruptRecordError, ImageError) as error:
                # What an earlier batch left there is nobody's business.
                out[...] = 0
                placed = self._placed(error, row) if isinstance(error, ImageError) else error
                faults.append((place, placed))
                continue
            if self.cache is not None:
                self.cache.write(row, out)
        return faults

    def _placed(self, error: ImageError, row: int) -> ImageError:
        placed = ImageError(
            f"{self.records.where(row)}: {error}; mend the shard, or give --data.on_corrupt skip"
        )
        # Not by `from`: of a batch it is raised in another thread, later.
        placed.__cause__ = error
        return placed
