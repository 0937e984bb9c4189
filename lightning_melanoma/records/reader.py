"""Byte ranges of shards, wherever they are. The only module that opens shards.

A gzip shard is known by its first bytes, not by its name; it is unpacked once into an unnamed
temporary file, since records are read at random. A shard that is not what it was when it was found
is never read on: its records would not be those of its index.
"""

import contextlib
import gzip
import os
import tempfile
import time
import weakref
import zlib
from pathlib import Path
from typing import IO, BinaryIO

from lightning_melanoma.records import remote
from lightning_melanoma.records.access import UnreachableError, is_local
from lightning_melanoma.records.readahead import open_stream
from lightning_melanoma.records.stopping import check_stop
from lightning_melanoma.records.storage import Shard
from lightning_melanoma.records.tfrecord import HEADER_SIZE, CorruptRecordError, is_header

_GZIP_MAGIC = b"\x1f\x8b"
# Bytes that are unpacked at a time.
_CHUNK_SIZE = 8 * 2**20
# Seconds between two looks at a file of this machine: one at each record costs an eightieth of
# decoding it, since threads then wait for each other once more.
_LOOK_EVERY = 0.1


class ChangedShardError(OSError):
    """A shard is not what it was when it was found. Not to be skipped: the index is void."""


class ShardReader:
    """Reads byte ranges of one shard; any number of threads may read at once.

    Its file is given back by `close`, or with the reader.

    Raises:
        OSError: the shard cannot be opened, or there is no room to unpack it.
        ChangedShardError: it is another than was found.
        CorruptRecordError: it is a damaged gzip file.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        # What can be read at random on this machine, and its mark where others may write to it.
        self._file: IO[bytes] | None = None
        self._mark: tuple[int, int] | None = None
        self._next_look = 0.0
        file = _open_here(shard)
        if file is None:
            if _is_gzip(self._fetch(0, HEADER_SIZE)):
                self._file = _unpacked(open_stream(self._fetch, shard.size), shard)
        elif _is_gzip(os.pread(file.fileno(), HEADER_SIZE, 0)):
            self._file = _unpacked(file, shard)
        else:
            self._file, self._mark = file, _mark(file)
        if self._file is not None:
            weakref.finalize(self, self._file.close)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` of the unpacked shard, fewer at its end.

        Raises:
            ChangedShardError: the shard is not what it was. Of a file of this machine that is seen
                a tenth of a second after the change at the latest, or by `check`.
            OSError: it cannot be read.
        """
        if self._file is None:
            return self._fetch(offset, length)
        data = os.pread(self._file.fileno(), length, offset)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY
            self.check()
        return data

    def check(self) -> None:
        """Look now whether a file of this machine is what it was: its bytes may be damaged.

        What comes from elsewhere is looked at with every read.

        Raises:
            ChangedShardError: it is not.
        """
        if self._file is not None and self._mark not in (None, _mark(self._file)):
            raise _changed(self._shard)

    def stream(self) -> BinaryIO:
        """Return the unpacked bytes from the start, as a file to read once and close."""
        if self._file is None:
            return open_stream(self._fetch, self._shard.size)
        copy = os.fdopen(os.dup(self._file.fileno()), "rb")
        copy.seek(0)
        return copy

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()

    def _fetch(self, offset: int, length: int) -> bytes:
        shard = self._shard
        try:
            data = remote.read_range(shard.url, offset, min(offset + length, shard.size))
        except UnreachableError:
            raise
        except OSError:
            _check_object(shard)
            raise
        # Asked behind the bytes: had it changed before or amid them, it is seen here.
        _check_object(shard)
        return data


def _open_here(shard: Shard) -> IO[bytes] | None:
    """Open a shard that is on this machine, or a local copy of it; None for one that is not."""
    local = is_local(shard.url)
    file = Path(shard.url).open("rb") if local else remote.open_copy(shard.url)  # noqa: SIM115 - the reader's
    if file is not None:
        size, modified = _mark(file)
        try:
            if _differs(shard, size, str(modified) if local else shard.version):
                raise _changed(shard)
            if not local:
                # A copy has no version of its own. Asked behind it: had the object changed before
                # or amid the copying, it is seen here.
                _check_object(shard)
        except OSError:
            file.close()
            raise
    return file


def _check_object(shard: Shard) -> None:
    try:
        found = remote.describe(shard.url)
    except FileNotFoundError as error:
        raise _changed(shard) from error
    if _differs(shard, found.size, found.version):
        raise _changed(shard)


def _is_gzip(start: bytes) -> bool:
    # The length of a first record may begin with the same two bytes.
    return start.startswith(_GZIP_MAGIC) and not is_header(start)


def _differs(shard: Shard, size: int, version: str) -> bool:
    return size != shard.size or (shard.version != "" and version != shard.version)


def _mark(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _changed(shard: Shard) -> ChangedShardError:
    return ChangedShardError(
        f"shard {shard.url}: expected the {shard.size} bytes that were found at first, found it "
        "changed since; let nothing write to it, and start again"
    )


def _unpacked(packed: IO[bytes], shard: Shard) -> IO[bytes]:
    with contextlib.ExitStack() as on_error:
        # Without a buffer: nothing is left to be written when it is closed on a full disk.
        unpacked = on_error.enter_context(tempfile.TemporaryFile(buffering=0))
        try:
            with packed, gzip.open(packed, "rb") as stream:
                while chunk := stream.read(_CHUNK_SIZE):
                    check_stop()
                    _append(chunk, unpacked, shard)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CorruptRecordError(
                shard.url, 0, 0, f"expected a whole gzip file, found {error}; fetch it anew"
            ) from error
        on_error.pop_all()
    return unpacked


def _append(chunk: bytes, unpacked: IO[bytes], shard: Shard) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[unpacked.write(rest) :]
    except OSError as error:
        raise OSError(
            f"shard {shard.url}: expected room to unpack it in {tempfile.gettempdir()}, found none "
            f"({error.strerror}); set TMPDIR to a folder on a larger disk, or unpack the shards"
        ) from error
