"""The caches of the splits that are trained and validated on, from the indexing of shards on."""

from collections.abc import Callable

from lightning_melanoma.data.cache import CacheSettings, PixelCache
from lightning_melanoma.data.early_pixels import EarlyPixels
from lightning_melanoma.data.table import Split
from lightning_melanoma.records.index import OnImage

# Returns training and validation; the argument is told of images that pass.
_ReadTraining = Callable[[OnImage | None], tuple[Split, Split]]


class SplitCaches:
    """Opens the cache of each split, with what was kept of it while shards were indexed.

    Args:
        settings: of the user.
        image_size: pixels of a side.
        num_workers: processes that will read and write each cache; 0 for this one alone.
    """

    def __init__(self, settings: CacheSettings, *, image_size: int, num_workers: int) -> None:
        self._settings = settings
        self._image_size = image_size
        self._num_workers = num_workers
        # Those that nobody has taken yet.
        self._opened: dict[str, PixelCache | None] = {}

    def read_training(self, read: _ReadTraining, *, num_processes: int) -> tuple[Split, Split]:
        """Return training and validation, whose pixels fit.

        Args:
            read: makes them, and the index of their shards where there is none yet.
            num_processes: of this host.

        Raises:
            ValueError: the pixels do not fit, or as `read`.
            OSError: the folder cannot be made or written, or as `read`.
        """
        early = self._settings.early(self._image_size, num_processes=num_processes)
        train, val = read(early.keep if early else None)
        self._settings.check(
            len(train.table) + len(val.table),
            self._image_size,
            num_processes=num_processes,
            early=early,
        )
        if early is not None:
            # What is in neither table is let go with `early`.
            self._opened = {"train": self._open(train, early), "val": self._open(val, early)}
        return train, val

    def take(self, name: str, split: Split) -> PixelCache | None:
        """Return the cache of a split for its loader, None for none."""
        if name in self._opened:
            return self._opened.pop(name)
        return self._open(split, None)

    def clear(self) -> None:
        """Let go what nobody took."""
        self._opened.clear()

    def _open(self, split: Split, early: EarlyPixels | None) -> PixelCache | None:
        return self._settings.open(
            split, self._image_size, num_workers=self._num_workers, early=early
        )
