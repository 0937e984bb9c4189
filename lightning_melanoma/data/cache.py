"""Decoded pixels kept from the first epoch for the later ones: in memory, or on a disk.

A cache answers by row of a split's table. It holds what the decoder made of a record, never what
augmentation did, so it is filled once. A record that cannot be read is never in it: it is tried,
and masked, in every epoch. Here are the memory's cache and what both kinds may take;
`data.pixel_files` keeps pixels on a disk.
"""

import mmap
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.data.early_pixels import EarlyPixels
from lightning_melanoma.data.pixel_files import PixelFiles
from lightning_melanoma.data.table import Split
from lightning_melanoma.records.storage import cache_dir

#: Where decoded pixels are kept between epochs.
CacheKind = Literal["none", "ram", "disk"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
# Where a container finds what it may use, and uses.
_CGROUP = Path("/sys/fs/cgroup")


class PixelCache(Protocol):
    """Pixels by row; any number of threads, and of forked processes, may read and write at once."""

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Copy the pixels of (N,) rows into `out`, (N, H, W, 3) uint8, where they are kept.

        Returns:
            (N,) bool: of which rows; the content of `out` is undefined at the others.
        """

    def write(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """Keep the pixels of a row, (H, W, 3) uint8."""

    def is_kept(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (N,) bool, whether the pixels of rows seem to be kept; `read` tells."""


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


class CacheSettings(NamedTuple):
    """What the user said of the cache.

    Attributes:
        kind: where pixels are kept.
        size: bytes that it may take, all splits together; None for what the machine has.
        folder: of the disk's cache; None for one in the user's cache folder.
    """

    kind: CacheKind
    size: int | None
    folder: str | None

    def open(self, split: Split, image_size: int, *, num_workers: int = 0) -> PixelCache | None:
        """Return a cache for the rows of a split's table, None for none.

        Args:
            split: whose pixels are kept.
            image_size: pixels of a side.
            num_workers: processes that will read and write it; 0 for this one alone.
        """
        if self.kind == "ram":
            return MemoryCache(len(split.table), image_size, is_shared=num_workers > 0)
        if self.kind == "disk":
            places = split.table[["shard", "record"]].to_numpy(np.int64)
            return PixelFiles(places, split.shards, folder=self._folder(), image_size=image_size)
        return None

    def check(self, num_images: int, image_size: int, *, num_processes: int = 1) -> None:
        """Check that the pixels of some images fit.

        Args:
            num_images: to be kept, of all splits.
            image_size: pixels of a side.
            num_processes: of this host, each of which keeps its own in memory.

        Raises:
            ValueError: they do not.
            OSError: the folder cannot be made or written.
        """
        if self.kind == "none":
            return
        needed = num_images * image_size**2 * 3
        what = f"{needed:,} bytes for {num_images:,} images of {image_size} x {image_size} pixels"
        ways = "or a smaller data.image_size, or data.cache none"
        if self.size is not None and needed > self.size:
            raise ValueError(
                f"data.cache_size: expected at least {what}, found {self.size:,}; give more, {ways}"
            )
        if self.kind == "disk":
            self._check_disk(needed, what, ways)
            return
        available = _available_memory()
        if available is not None and needed * num_processes > available:
            each = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise ValueError(
                f"data.cache ram: expected memory for {what}{each}, found {available:,} available; "
                f"give data.cache disk, {ways}"
            )

    def early(self, image_size: int) -> EarlyPixels | None:
        """Return what keeps the images that pass while shards are indexed; None for nothing.

        Memory's cache is left to the first epoch: it has its rows only when all are known.

        Raises:
            OSError: the folder cannot be made.
        """
        if self.kind != "disk":
            return None
        folder = self._made_folder()
        free = shutil.disk_usage(folder).free
        return EarlyPixels(folder, image_size, min(free, self.size or free))

    def _made_folder(self) -> Path:
        folder = self._folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"data.cache_dir: expected a folder that can be written, found {folder} "
                f"({error.strerror}); name another"
            ) from error
        return folder

    def _folder(self) -> Path:
        return Path(self.folder).expanduser() if self.folder else cache_dir() / "pixels"

    def _check_disk(self, needed: int, what: str, ways: str) -> None:
        folder = self._made_folder()
        kept = sum(map(_bytes_taken, folder.iterdir()))
        free = shutil.disk_usage(folder).free
        # What an earlier run kept there is not needed again; whose it is, the files tell later.
        if needed - kept > free:
            raise ValueError(
                f"data.cache_dir {folder}: expected room for {what}, found {free:,} bytes free; "
                f"name another folder, {ways}"
            )


def parse_size(size: int | str | None) -> int | None:
    """Return a number of bytes; `8GB` and `8GiB` are understood as usual.

    Raises:
        ValueError: it is no size, or not above 0.
    """
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", str(size).strip().lower())
    units = _UNITS | _BINARY_UNITS
    if found is None or found[2] not in units or float(found[1]) == 0:
        raise ValueError(f"data.cache_size: expected bytes, such as 8GB, found {size}")
    return int(float(found[1]) * units[found[2]])


def _bytes_taken(path: Path) -> int:
    try:
        # Blocks of 512 bytes: the files are sparse.
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        # Another run's, and temporary.
        return 0


def _shared(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    # Anonymous and shared: what a forked process writes, all see.
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)


def _available_memory() -> int | None:
    """Return the bytes that can still be had, None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    # "16384 kB", by which the kernel means KiB.
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        # The limit of a container.
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        sizes = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return available
    # Files that were read count as used, though the kernel gives their memory back when asked.
    used -= int(sizes["inactive_file"]) + int(sizes["active_file"])
    return min(available, int(limit) - used) if limit.isdigit() else available
