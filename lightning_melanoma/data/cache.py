"""Decoded pixels kept from the first epoch for the later ones: in memory, or on a disk.

A cache answers by row of a split's table. It holds what the decoder made of a record, never what
augmentation did, so it is filled once. A record that cannot be read is never in it: it is tried,
and masked, in every epoch. `data.pixel_memory` and `data.pixel_files` keep pixels; here is what
they may take.
"""

import math
import re
import shutil
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.data.early_pixels import EarlyFiles, EarlyMemory, EarlyPixels
from lightning_melanoma.data.pixel_files import PixelFiles
from lightning_melanoma.data.pixel_memory import MemoryCache
from lightning_melanoma.data.table import Split
from lightning_melanoma.records.storage import cache_dir

#: Where decoded pixels are kept between epochs.
CacheKind = Literal["none", "ram", "disk"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
# Share of the available memory that is taken before it is known whether all pixels fit.
_EARLY_SHARE = 0.8
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

    def open(
        self,
        split: Split,
        image_size: int,
        *,
        num_workers: int = 0,
        early: EarlyPixels | None = None,
    ) -> PixelCache | None:
        """Return a cache for the rows of a split's table, None for none.

        Args:
            split: whose pixels are kept.
            image_size: pixels of a side.
            num_workers: processes that will read and write it; 0 for this one alone.
            early: what `early` returned, if its images were those of this split, too.
        """
        places = split.table[["shard", "record"]].to_numpy(np.int64)
        if self.kind == "disk":
            return PixelFiles(places, split.shards, folder=self._folder(), image_size=image_size)
        if self.kind == "none":
            return None
        cache = MemoryCache(len(places), image_size, is_shared=num_workers > 0)
        if isinstance(early, EarlyMemory):
            early.hand_over(places, split.shards, cache)
        return cache

    def check(
        self,
        num_images: int,
        image_size: int,
        *,
        num_processes: int = 1,
        early: EarlyPixels | None = None,
    ) -> None:
        """Check that the pixels of some images fit.

        Args:
            num_images: to be kept, of all splits.
            image_size: pixels of a side.
            num_processes: of this host, each of which keeps its own in memory.
            early: what `early` returned; undone if they do not fit.

        Raises:
            ValueError: they do not.
            OSError: the folder cannot be made or written.
        """
        try:
            self._check(num_images, image_size, num_processes, early)
        except ValueError:
            if early is not None:
                early.undo()
            raise

    def early(self, image_size: int, *, num_processes: int = 1) -> EarlyPixels | None:
        """Return what keeps the images that pass while shards are indexed; None for nothing.

        Args:
            image_size: pixels of a side.
            num_processes: of this host.

        Raises:
            OSError: the folder cannot be made.
        """
        if self.kind == "disk":
            folder = self._made_folder()
            free = shutil.disk_usage(folder).free
            return EarlyFiles(folder, image_size, min(free, self.size or free))
        # Each process of several keeps its own, and the index is built by one of them.
        available = _available_memory() if self.kind == "ram" and num_processes == 1 else None
        if available is None:
            return None
        # What is left is for the index itself, and for the bytes that are being read.
        room = int(available * _EARLY_SHARE)
        return EarlyMemory(image_size, min(room, self.size or room))

    def _check(
        self, num_images: int, image_size: int, num_processes: int, early: EarlyPixels | None
    ) -> None:
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
        if available is not None and isinstance(early, EarlyMemory):
            # What is there already is taken from what is there no more.
            available += early.bytes_kept
        if available is not None and needed * num_processes > available:
            each = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise ValueError(
                f"data.cache ram: expected memory for {what}{each}, found {available:,} available; "
                f"give data.cache disk, {ways}"
            )

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
    size_in_bytes = float(found[1]) * units[found[2]]
    if not math.isfinite(size_in_bytes):
        raise ValueError(f"data.cache_size: expected bytes, such as 8GB, found {found[1][:9]}...")
    return int(size_in_bytes)


def _bytes_taken(path: Path) -> int:
    try:
        # Blocks of 512 bytes: the files are sparse.
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        # Another run's, and temporary.
        return 0


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
