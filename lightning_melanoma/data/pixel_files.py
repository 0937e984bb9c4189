"""Decoded pixels on a disk: a file a shard, shared by runs and processes.

A file is named by the shard's URL and the image size, and begins with a key that tells the shard's
size and version mark, the image size and the decoder's version; a file with another key is replaced
by an empty one. Behind it lies a slot a record: its pixels, then a mark, the sum of the pixels as
64-bit words, written when the pixels are. A slot counts when its mark is right, which is checked
once by every process. So a slot that was being written when a process was killed or the power
failed, or that another process is writing, is one that is not there yet; two processes that fill
the same slot write the same bytes.

Files are sparse, and read and written by position, not mapped: a full disk is then an error that
can be told, not a signal that ends the process.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray

from lightning_melanoma.data.pixel_slots import mark_of, read_mark, slot_start, write_slot
from lightning_melanoma.records.storage import Shard

#: Raised with every change of the file format, or of what `data.decode` makes of the same bytes.
PIXELS_FORMAT = 2

_log = logging.getLogger(__name__)


class PixelFiles:
    """The pixels of a split's rows, in one file for each of its shards.

    Args:
        places: (N, 2) int64, shard (number in `shards`) and record of each row.
        shards: of the split.
        folder: of the files; it exists.
        image_size: pixels of a side.
    """

    def __init__(
        self,
        places: NDArray[np.int64],
        shards: Sequence[Shard],
        *,
        folder: Path,
        image_size: int,
    ) -> None:
        self._places = places
        self._shards = list(shards)
        self._folder = folder
        self._image_size = image_size
        self._row_size = image_size * image_size * 3
        # Rows whose mark this process has checked or written.
        self._is_known = np.zeros(len(places), np.bool_)
        self._is_full = False
        self._lock, self._may_tell = _own_locks()
        self._files: dict[int, int | None] = {}

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Copy the pixels of (N,) rows into `out`, (N, H, W, 3) uint8, where they are kept."""
        found = [self._read(row, pixels) for row, pixels in zip(rows.tolist(), out, strict=True)]
        return np.array(found, np.bool_)

    def write(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """Keep the pixels of a row, (H, W, 3) uint8; where the disk is full, say so once."""
        file, start = self._slot(row)
        if file is None or self._is_full:
            return
        try:
            write_slot(file, start, pixels)
        except OSError as error:
            self._give_up(error)
        else:
            self._is_known[row] = True

    def is_kept(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (N,) bool, whether the pixels of rows seem to be kept.

        Of those that this process has not read or written the file is asked for the mark alone.
        """
        is_kept = self._is_known[rows]
        unknown = np.flatnonzero(~is_kept)
        is_kept[unknown] = [self._has_mark(row) for row in rows[unknown].tolist()]
        return is_kept

    def _has_mark(self, row: int) -> bool:
        file, start = self._slot(row)
        try:
            return file is not None and read_mark(file, start, self._row_size) is not None
        except OSError as error:
            self._give_up(error)
            return False

    def _read(self, row: int, out: NDArray[np.uint8]) -> bool:
        file, start = self._slot(row)
        try:
            return file is not None and self._read_slot(row, file, start, out)
        except OSError as error:
            self._give_up(error)
            return False

    def _read_slot(self, row: int, file: int, start: int, out: NDArray[np.uint8]) -> bool:
        if self._is_known[row]:
            return os.preadv(file, [out.data], start) == self._row_size
        mark = read_mark(file, start, self._row_size)
        if mark is None:
            return False
        if os.preadv(file, [out.data], start) != self._row_size or mark_of(out) != mark:
            return False
        self._is_known[row] = True
        return True

    def _slot(self, row: int) -> tuple[int | None, int]:
        shard, record = self._places[row].tolist()
        if shard not in self._files:
            with self._lock:
                if shard not in self._files:
                    self._files[shard] = self._open(shard)
        return self._files[shard], slot_start(record, self._row_size)

    def _open(self, shard: int) -> int | None:
        try:
            file = _open_file(self._folder, self._shards[shard], self._image_size)
        except OSError as error:
            self._give_up(error)
            return None
        weakref.finalize(self, os.close, file)
        return file

    def _give_up(self, error: OSError) -> None:
        self._is_full = True
        if self._may_tell.acquire(block=False):
            _log.warning(
                "data.cache disk: %s cannot be used (%s); going on without keeping more.",
                self._folder,
                error.strerror,
            )

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens its own.
        return {**self.__dict__, "_files": {}, "_lock": None, "_may_tell": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._may_tell = _own_locks()


def pixel_file(folder: Path, shard: Shard, image_size: int) -> Path:
    """Return where the pixels of a shard are kept, if they are."""
    name = hashlib.sha256(shard.url.encode()).hexdigest()[:32]
    return folder / f"{name}-{image_size}.pixels"


def write_record(folder: Path, shard: Shard, record: int, pixels: NDArray[np.uint8]) -> None:
    """Keep the pixels of one record, (S, S, 3) uint8, for whoever opens its shard's file later.

    Raises:
        OSError: the file cannot be made or written.
    """
    file = _open_file(folder, shard, len(pixels))
    try:
        write_slot(file, slot_start(record, pixels.nbytes), pixels)
    finally:
        os.close(file)


def _own_locks() -> tuple[threading.Lock, Semaphore]:
    # The second one is taken once, by the one of all forked processes that says the disk is full.
    return threading.Lock(), multiprocessing.get_context("fork").Semaphore(1)


def _open_file(folder: Path, shard: Shard, image_size: int) -> int:
    if not shard.version:
        # Nothing would tell that its content has changed: kept for this run only.
        with tempfile.TemporaryFile(dir=folder) as unnamed:
            return os.dup(unnamed.fileno())
    path = pixel_file(folder, shard, image_size)
    key = _key(shard, image_size)
    while True:
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            _create(path, key, is_new=True)
            continue
        if os.pread(file, len(key), 0) == key:
            return file
        os.close(file)
        _create(path, key, is_new=False)


def _create(path: Path, key: bytes, *, is_new: bool) -> None:
    # Written aside: the file appears with its key. Whoever holds the one before goes on with that.
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        aside.write_bytes(key)
        if is_new:
            _link(aside, path)
        else:
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _link(aside: Path, path: Path) -> None:
    try:
        os.link(aside, path)
    except FileExistsError:
        # Another process was faster.
        pass
    except OSError:
        # A file system without hard links: of two processes the later one wins.
        aside.replace(path)


def _key(shard: Shard, image_size: int) -> bytes:
    decoder = f"simplejpeg {simplejpeg.__version__}, pillow {PIL.__version__}"
    key = [PIXELS_FORMAT, shard.url, shard.size, shard.version, image_size, decoder]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return f"lightning_melanoma pixels {digest}\n".encode()
