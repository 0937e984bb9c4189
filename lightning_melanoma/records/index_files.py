"""Indices of shards as files in the user's cache: kept, found again, sent to other machines.

An index counts as long as its shard's size and version mark are the same. That of a shard without a
version mark is not kept: nothing would tell that the content has changed.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lightning_melanoma.records.access import is_local
from lightning_melanoma.records.files import atomic_file
from lightning_melanoma.records.storage import Shard, cache_dir

#: Raised with every change of what an index holds, so that older ones are built anew.
INDEX_FORMAT = 4
# Of the user's cache.
_FOLDER = "index"

_log = logging.getLogger(__name__)

#: One record: its place and its fields.
Row = dict[str, int | float | str]


class ShardIndex(NamedTuple):
    """The records of one shard.

    Attributes:
        rows: one a record that is whole.
        faults: of the others, as the arguments of `CorruptRecordError`.
    """

    rows: list[Row]
    faults: list[tuple[str, int, int, str]]


def kept_index(shard: Shard) -> ShardIndex | None:
    """Return the index of a shard that is kept, None where none is."""
    if not shard.version:
        return None
    try:
        stored = json.loads(index_file(shard).read_text())
        if stored["key"] != _key(shard):
            return None
        faults = [(str(f[0]), int(f[1]), int(f[2]), str(f[3])) for f in stored["faults"]]
        return ShardIndex(stored["rows"], faults)
    except (OSError, ValueError, KeyError, TypeError):
        # No index yet, or one that another program damaged: it is built anew either way.
        return None


def keep_index(shard: Shard, index: ShardIndex) -> None:
    """Keep the index of a shard; where that cannot be, say so."""
    if shard.version:
        content = {"key": _key(shard), "rows": index.rows, "faults": index.faults}
        _keep(index_file(shard), json.dumps(content))


def pack_indices(shards: Iterable[Shard]) -> bytes:
    """Return the indices that are kept of those shards that are far away, for another machine."""
    paths = {index_file(shard) for shard in shards if not is_local(shard.url)}
    kept = {path.name: path.read_text() for path in paths if path.is_file()}
    return zlib.compress(json.dumps(kept).encode())


def unpack_indices(packed: bytes) -> None:
    """Keep here what `pack_indices` returned on another machine."""
    for name, text in json.loads(zlib.decompress(packed)).items():
        _keep(_folder() / name, text)


def index_file(shard: Shard) -> Path:
    """Return where the index of a shard is kept, if it is."""
    return _folder() / f"{hashlib.sha256(shard.url.encode()).hexdigest()[:32]}.json"


def _folder() -> Path:
    return cache_dir() / _FOLDER


def _key(shard: Shard) -> list[int | str]:
    return [INDEX_FORMAT, shard.url, shard.size, shard.version]


def _keep(path: Path, text: str) -> None:
    try:
        with atomic_file(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        _log.warning("The index %s could not be kept (%s); going on without.", path, error)
