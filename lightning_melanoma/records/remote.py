"""Files and objects by path or URL, through fsspec: list them, read exact byte ranges.

``gs://`` (gcsfs), ``s3://`` (s3fs), ``https://``, ``memory://`` and whatever else fsspec knows, and
plain paths. A range is returned whole or not at all.
"""

import asyncio
import datetime
import logging
import os
from typing import IO, Any, Literal, NamedTuple

import fsspec.asyn

from lightning_melanoma.records.access import ask, is_local, scheme_of
from lightning_melanoma.records.stopping import wait_for

# What storage services call the mark that changes with an object's content, the surest first:
# Google's etag changes with the metadata alone as well.
_VERSION_KEYS = (
    *("generation", "etag", "ETag", "md5Hash", "updated"),
    *("LastModified", "Last-Modified", "mtime", "created"),
)
_log = logging.getLogger(__name__)


class StoredObject(NamedTuple):
    """A file or object.

    Attributes:
        url: absolute path or URL.
        size: bytes; -1 in a web server's listing, which tells names alone.
        version: a mark that changes when the content does.
        is_folder: it holds others.
    """

    url: str
    size: int
    version: str
    is_folder: bool


class Listing(NamedTuple):
    """What a path or URL names: one file, the content of a folder, or what matches a pattern."""

    kind: Literal["file", "folder", "pattern"]
    objects: list[StoredObject]


def list_objects(path: str) -> Listing:
    """Return what a path, folder, URL or glob names, sorted by name.

    Raises:
        FileNotFoundError: there is no such file, folder or bucket.
        ValueError: fsspec does not know the scheme, or its package is not installed.
        OSError: reading is not allowed, or the place cannot be reached.
    """
    is_pattern = _is_pattern(path)
    # A web server would send a whole file to be searched for links.
    is_download = scheme_of(path) in ("http", "https") and not path.endswith("/")

    def action(filesystem: Any, root: str) -> tuple[bool, list[Any]]:  # noqa: ANN401 - no types
        if is_pattern:
            return False, list(filesystem.glob(root, detail=True).values())
        if is_download:
            return True, [filesystem.info(root)]
        found = list(filesystem.ls(root, detail=True))
        names = [info["name"] for info in found if info["type"] == "file"]
        return names == [root], found

    is_file, found = ask(path, action)
    entries = [_stored(path, info) for info in found]
    kind: Literal["file", "folder", "pattern"] = (
        "pattern" if is_pattern else "file" if is_file else "folder"
    )
    return Listing(kind, sorted(entries, key=lambda entry: entry.url))


def describe(url: str) -> StoredObject:
    """Return what one URL names, as it is now.

    Raises:
        OSError: as `list_objects`.
        StoppedError: nobody wants to know any more.
    """
    found = _stored(url, ask(url, lambda filesystem, root: _call(filesystem, "info", root)))
    if found.size < 0:
        raise OSError(
            f"{url}: expected a server that tells sizes, found one that does not; copy the shards "
            "to a disk first"
        )
    return found


def read_range(url: str, start: int, stop: int) -> bytes:
    """Return the bytes of an object from `start` to before `stop`, all of them.

    Raises:
        OSError: other than these came back, or as `list_objects`.
        StoppedError: nobody wants them any more.
    """

    def action(filesystem: Any, root: str) -> bytes:  # noqa: ANN401 - no types
        return bytes(_call(filesystem, "cat_file", root, start=start, end=stop))

    found = ask(url, action) if stop > start else b""
    if len(found) != stop - start:
        raise OSError(
            f"{url}: expected {stop - start} bytes from byte {start}, found {len(found)}; the "
            "object has changed, or the server cannot read ranges: copy the shards to a disk first"
        )
    return found


def open_copy(url: str) -> IO[bytes] | None:
    """Return the local copy that a URL such as ``simplecache::gs://...`` stands for, else None.

    Raises:
        OSError: as `list_objects`.
    """
    if "::" not in url:
        return None

    def action(filesystem: Any, root: str) -> IO[bytes] | None:  # noqa: ANN401 - no types
        copy: IO[bytes] | None = None
        if getattr(filesystem, "local_file", False):
            copy = filesystem.open(root, "rb")
        return copy

    return ask(url, action)


def log_repeated() -> None:
    """Log how many requests had to be repeated since the last time, if any had."""
    from lightning_melanoma.records.repeating import tally

    requests, repeated = tally.take()
    if repeated:
        _log.warning(
            "Reading from afar, %d of %d requests failed for a moment and were repeated.",
            repeated,
            requests,
        )


def _is_pattern(path: str) -> bool:
    if is_local(path) and os.path.lexists(path):
        # Brackets are part of a name then.
        return False
    if scheme_of(path) in ("http", "https"):
        # What follows is a query.
        path = path.partition("?")[0]
    return any(sign in path for sign in "*?[")


def _call(filesystem: Any, method: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - no types
    """Return what a method of a file system gives, unless nobody wants it any more."""
    if not isinstance(filesystem, fsspec.asyn.AsyncFileSystem):
        return getattr(filesystem, method)(*args, **options)
    answer = getattr(filesystem, f"_{method}")(*args, **options)
    future = asyncio.run_coroutine_threadsafe(answer, filesystem.loop)
    try:
        return wait_for(future)
    finally:
        # Whoever waits no longer leaves no request behind, nor one that is to be repeated.
        future.cancel()


def _stored(path: str, info: dict[str, Any]) -> StoredObject:
    name = str(info["name"])
    chain, sign, _ = path.rpartition("::")
    if not is_local(path) and "://" not in name:
        scheme = scheme_of(path)
        # A file's path begins with a slash, a bucket's name does not.
        name = f"{scheme}://{name if scheme == 'file' else name.lstrip('/')}"
    marks = (info.get(key) for key in _VERSION_KEYS)
    version = next((mark for mark in marks if mark), "")
    if isinstance(version, datetime.datetime):
        version = version.timestamp()
    size = -1 if info.get("size") is None else int(info["size"])
    is_folder = info["type"] == "directory"
    return StoredObject(chain + sign + name, 0 if is_folder else size, str(version), is_folder)
