"""Find, size and open shards by path, glob, directory or URL. The only module that opens shards.

URLs are fsspec's (``gs://``, ``s3://``, ``https://``, ``memory://``, plain paths). A gzip shard is
known by its first two bytes, not by its name; it is unpacked once into an unnamed temporary file,
since records are read at random. A shard that is not what it was when it was found is never read
on: its records would not be those of its index.
"""

import gzip
import logging
import os
import shutil
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

import platformdirs

from lightning_melanoma.records import remote
from lightning_melanoma.records.access import UnreachableError, is_local
from lightning_melanoma.records.readahead import open_stream
from lightning_melanoma.records.tfrecord import CorruptRecordError

_GZIP_MAGIC = b"\x1f\x8b"
_SUFFIXES = (".tfrec", ".tfrecord", ".tfrecords")
# Bytes that are unpacked at a time.
_CHUNK_SIZE = 8 * 2**20
# Seconds between two looks at a file of this machine: one at each record costs an eightieth of
# decoding it, since threads then wait for each other once more.
_LOOK_EVERY = 0.1

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the user's cache folder of this program (``LIGHTNING_MELANOMA_CACHE`` moves it)."""
    configured = os.environ.get("LIGHTNING_MELANOMA_CACHE")
    return Path(configured or platformdirs.user_cache_dir("lightning_melanoma", appauthor=False))


class ChangedShardError(OSError):
    """A shard is not what it was when it was found. Not to be skipped: the index is void."""


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        url: absolute path or URL.
        size: bytes as stored.
        version: a mark that changes when the content does (a bucket's generation or etag, a file's
            time of modification in ns); empty where there is none.
    """

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return PurePosixPath(self.url).name

    @property
    def is_remote(self) -> bool:
        """Whether each read is a request to elsewhere: no file of this machine, no local copy."""
        return not is_local(self.url) and "::" not in self.url

    @property
    def folder(self) -> str:
        """The name of the folder that holds the file."""
        return PurePosixPath(self.url).parent.name


def find_shards(paths: str | Iterable[str], *, prefix: str = "") -> list[Shard]:
    """Return the shards that `paths` name, in the order given and by name within each.

    Args:
        paths: a path, glob, directory or URL, or several. Of a directory the files that end in
            ``.tfrec``, ``.tfrecord`` or ``.tfrecords`` (and ``.gz`` behind) are taken; of a glob
            too, unless none of its files does.
        prefix: of a directory only the shards whose names begin so are taken, if there are any:
            Kaggle keeps ``train*.tfrec`` and ``test*.tfrec`` in one folder.

    Raises:
        FileNotFoundError: a path matches no shard.
        ValueError: a URL's scheme is unknown, or a shard is empty.
    """
    shards: dict[str, Shard] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        for shard in _match(path, prefix):
            if not shard.size:
                raise ValueError(
                    f"shard {shard.url}: expected TFRecords, found an empty file; fetch it anew"
                )
            shards.setdefault(shard.url, shard)
    return list(shards.values())


def _match(path: str, prefix: str) -> list[Shard]:
    local = is_local(path)
    try:
        kind, found = remote.list_objects(str(Path(path).expanduser()) if local else path)
    except FileNotFoundError:
        if not local:
            raise
        kind, found = "file", []
    files = [entry for entry in found if not entry.is_folder]
    every = [entry for entry in files if entry.url.removesuffix(".gz").endswith(_SUFFIXES)]
    if kind == "folder":
        named = [entry for entry in every if PurePosixPath(entry.url).name.startswith(prefix)]
        found = named or every
    elif kind == "pattern":
        # `train*` is meant for the shards, also where `train.csv` lies beside them.
        found = every or found
    if not found:
        expected = {
            "file": "a shard, a folder or a pattern",
            "folder": f"files ending in {', '.join(_SUFFIXES)} in the folder",
            "pattern": "shards that match the pattern",
        }[kind]
        where = f"the path (working folder: {Path.cwd()})" if local else "the URL"
        raise FileNotFoundError(f"{path}: expected {expected}, found none; check {where}")
    return [_shard(entry) for entry in found]


def _shard(found: remote.StoredObject) -> Shard:
    if found.is_folder:
        raise ValueError(
            f"{found.url}: expected a shard, found a folder; name its files, as in {found.url}/*"
        )
    version = str(Path(found.url).stat().st_mtime_ns) if is_local(found.url) else found.version
    return Shard(found.url, found.size, version)


class ShardReader:
    """Reads byte ranges of one shard; any number of threads may read at once.

    Its file is given back by `close`, or with the reader.

    Raises:
        OSError: the shard cannot be opened.
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
            if self._fetch(0, len(_GZIP_MAGIC)) == _GZIP_MAGIC:
                self._file = _unpacked(open_stream(self._fetch, shard.size), shard)
        elif os.pread(file.fileno(), len(_GZIP_MAGIC), 0) == _GZIP_MAGIC:
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
            self._check_object()
            raise
        # Asked behind the bytes: had it changed before or amid them, it is seen here.
        self._check_object()
        return data

    def _check_object(self) -> None:
        try:
            found = remote.describe(self._shard.url)
        except FileNotFoundError as error:
            raise _changed(self._shard) from error
        if _differs(self._shard, found.size, found.version):
            raise _changed(self._shard)


def _open_here(shard: Shard) -> IO[bytes] | None:
    """Open a shard that is on this machine, or a local copy of it; None for one that is not."""
    local = is_local(shard.url)
    file = Path(shard.url).open("rb") if local else remote.open_copy(shard.url)  # noqa: SIM115 - the reader's
    if file is not None:
        size, modified = _mark(file)
        if _differs(shard, size, str(modified) if local else shard.version):
            file.close()
            raise _changed(shard)
    return file


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
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the reader
    try:
        with packed, gzip.open(packed, "rb") as stream:
            shutil.copyfileobj(stream, unpacked, _CHUNK_SIZE)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        unpacked.close()
        raise CorruptRecordError(
            shard.url, 0, 0, f"expected a whole gzip file, found {error}; fetch it anew"
        ) from error
    unpacked.flush()
    return unpacked
