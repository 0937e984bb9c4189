"""Find, size and open shards by path, glob, directory or URL. The only module that opens shards.

URLs are fsspec's (``gs://``, ``s3://``, ``https://``, ``memory://``, plain paths). A gzip shard is
known by its first two bytes, not by its name; it is unpacked once into an unnamed temporary file,
since records are read at random.
"""

import gzip
import logging
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import fsspec
import platformdirs

from lightning_melanoma.records.tfrecord import CorruptRecordError

_GZIP_MAGIC = b"\x1f\x8b"
_SUFFIXES = (".tfrec", ".tfrecord", ".tfrecords")
# What storage services call the mark that changes with an object's content, the surest first.
_VERSION_KEYS = ("etag", "ETag", "md5Hash", "generation", "updated", "LastModified", "mtime")
# Large enough that a request to a bucket is mostly transfer, in bytes.
_BLOCK_SIZE = 8 * 2**20

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the user's cache folder of this program (``LIGHTNING_MELANOMA_CACHE`` moves it)."""
    configured = os.environ.get("LIGHTNING_MELANOMA_CACHE")
    return Path(configured or platformdirs.user_cache_dir("lightning_melanoma", appauthor=False))


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        url: absolute path or URL.
        size: bytes as stored.
        version: a mark that changes when the content does (etag, or time of modification in ns).
    """

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return PurePosixPath(self.url).name

    @property
    def folder(self) -> str:
        """The name of the folder that holds the file."""
        return PurePosixPath(self.url).parent.name


def find_shards(paths: str | Iterable[str], *, prefix: str = "") -> list[Shard]:
    """Return the shards that `paths` name, in the order given and by name within each.

    Args:
        paths: a path, glob, directory or URL, or several. Of a directory the files that end in
            ``.tfrec``, ``.tfrecord`` or ``.tfrecords`` (and ``.gz`` behind) are taken.
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
    filesystem, root = fsspec.core.url_to_fs(
        str(Path(path).expanduser()) if _is_local(path) else path
    )
    if any(sign in path for sign in "*?["):
        found = sorted(filesystem.glob(root))
        expected = "shards that match the pattern"
    elif filesystem.isdir(root):
        names = sorted(str(name) for name in filesystem.ls(root, detail=False))
        every = [name for name in names if name.removesuffix(".gz").endswith(_SUFFIXES)]
        named = [name for name in every if PurePosixPath(name).name.startswith(prefix)]
        found = named or every
        expected = f"files ending in {', '.join(_SUFFIXES)} in the folder"
    else:
        found = [root] if filesystem.exists(root) else []
        expected = "a shard, a folder or a pattern"
    if not found:
        raise FileNotFoundError(
            f"{path}: expected {expected}, found none; check the path (working folder: "
            f"{Path.cwd()})"
        )
    return [_shard(filesystem, str(name)) for name in found]


def _shard(filesystem: Any, name: str) -> Shard:  # noqa: ANN401 - fsspec has no types
    info = filesystem.info(name)
    if info["type"] == "directory":
        raise ValueError(
            f"{name}: expected a shard, found a folder; name its files, as in {name}/*"
        )
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return Shard(filesystem.unstrip_protocol(name).removeprefix("file://"), info["size"], version)


def _is_local(path: str) -> bool:
    return "://" not in path


class ShardReader:
    """Reads byte ranges of one shard; any number of threads may read at once.

    Its file is given back by `close`, or with the reader.

    Raises:
        OSError: the shard cannot be opened.
        CorruptRecordError: it is a damaged gzip file.
    """

    def __init__(self, shard: Shard) -> None:
        self._filesystem, self._path = fsspec.core.url_to_fs(shard.url)
        self._file: IO[bytes] | None = None
        if _is_local(shard.url):
            self._file = Path(shard.url).open("rb")  # noqa: SIM115 - lives as long as the reader
            if self._file.read(2) == _GZIP_MAGIC:
                self._file = _unpacked(self._file, shard)
        elif self._filesystem.cat_file(self._path, start=0, end=2) == _GZIP_MAGIC:
            with self._filesystem.open(self._path, "rb", block_size=_BLOCK_SIZE) as packed:
                self._file = _unpacked(packed, shard)
        if self._file is not None:
            weakref.finalize(self, self._file.close)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` of the unpacked shard, fewer at its end."""
        if self._file is not None:
            return os.pread(self._file.fileno(), length, offset)
        return bytes(self._filesystem.cat_file(self._path, start=offset, end=offset + length))

    def stream(self) -> BinaryIO:
        """Return the unpacked bytes from the start, as a file to read once and close."""
        if self._file is not None:
            copy = os.fdopen(os.dup(self._file.fileno()), "rb")
            copy.seek(0)
            return copy
        stream: BinaryIO = self._filesystem.open(self._path, "rb", block_size=_BLOCK_SIZE)
        return stream

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()


def _unpacked(packed: IO[bytes], shard: Shard) -> IO[bytes]:
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the reader
    packed.seek(0)
    try:
        with gzip.open(packed, "rb") as stream:
            shutil.copyfileobj(stream, unpacked, _BLOCK_SIZE)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        unpacked.close()
        raise CorruptRecordError(
            shard.url, 0, 0, f"expected a whole gzip file, found {error}; fetch it anew"
        ) from error
    finally:
        packed.close()
    unpacked.flush()
    return unpacked
