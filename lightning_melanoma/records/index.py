"""The index of shards: where each record lies and all its fields but the image.

A shard's index is built by one pass over its bytes, all checksums checked, and kept in the user's
cache as JSON; it is built anew when the shard's size or version mark changes. That of a shard
without a version mark is not kept: nothing would tell that the content has changed. A damaged
record is a fault in the index, not an error: the caller decides whether it may be passed over.
"""

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import pandas as pd
from tqdm.auto import tqdm

from lightning_melanoma.records.access import is_local
from lightning_melanoma.records.example import Value, parse_example
from lightning_melanoma.records.files import atomic_file
from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.storage import Shard, cache_dir
from lightning_melanoma.records.tfrecord import (
    HEADER_SIZE,
    CorruptRecordError,
    place_in_words,
    scan_records,
)

#: Raised with every change of what an index holds, so that older ones are built anew.
INDEX_FORMAT = 2
#: The columns that say where a record and its image lie; fields of these names are left out.
PLACE = ("shard", "record", "offset", "length", "image_offset", "image_length")

# Of the user's cache.
_FOLDER = "index"
# Shards in a bucket that are indexed at the same time.
_REMOTE_AT_ONCE = 4

_log = logging.getLogger(__name__)

# One record: its place and its fields.
_Row = dict[str, int | float | str]


class Index(NamedTuple):
    """The records of some shards.

    Attributes:
        table: a row a record, in the order of the shards and within them, columns ``shard`` (number
            in the list of shards), ``record`` (number in the shard), ``offset`` and ``length`` (of
            its frame, in bytes of the unpacked shard), ``image_offset`` and ``image_length`` (of
            its encoded image, likewise), ``image_name`` and every further field of the records but
            ``image`` and those named as one of these six, as found; a field that a record has not
            is missing (NaN), and its column then holds Python's own objects.
        faults: the damaged records, which the table leaves out.
    """

    table: pd.DataFrame
    faults: list[CorruptRecordError]


def index_shards(shards: Sequence[Shard]) -> Index:
    """Return the index of `shards`, from the cache where it is there; else built with a bar.

    Raises:
        ValueError: a record is no example, or has no ``image`` or no ``image_name``.
        OSError: a shard cannot be read.
    """
    indices = {number: _cached(shard) for number, shard in enumerate(shards)}
    missing = [number for number, index in indices.items() if index is None]
    built = _build_all([shards[number] for number in missing])
    indices.update(zip(missing, built, strict=True))
    rows: list[_Row] = []
    faults: list[CorruptRecordError] = []
    for number, index in indices.items():
        assert index is not None
        rows.extend({"shard": number, **row} for row in index[0])
        faults.extend(CorruptRecordError(*fault) for fault in index[1])
        _compare_with_name(shards[number], len(index[0]) + len(index[1]))
    return Index(_table(rows), faults)


def _table(rows: list[_Row]) -> pd.DataFrame:
    table = pd.DataFrame(rows, dtype=object)
    # Beside a missing value whole numbers would become floats: patient 5 would be patient 5.0.
    complete = table.columns[table.notna().all()]
    return table.astype({name: table[name].infer_objects().dtype for name in complete})


def pack_indices(shards: Iterable[Shard]) -> bytes:
    """Return the indices that are kept of those shards that are far away, for another machine."""
    paths = {_cache_file(shard) for shard in shards if not is_local(shard.url)}
    kept = {path.name: path.read_text() for path in paths if path.is_file()}
    return zlib.compress(json.dumps(kept).encode())


def unpack_indices(packed: bytes) -> None:
    """Keep here what `pack_indices` returned on another machine."""
    for name, text in json.loads(zlib.decompress(packed)).items():
        _keep(cache_dir() / _FOLDER / name, text)


# The rows of a shard, and its faults as the arguments of CorruptRecordError.
_ShardIndex = tuple[list[_Row], list[tuple[str, int, int, str]]]


def _build_all(shards: list[Shard]) -> list[_ShardIndex]:
    # Of shards that are far away the next are already under way when one is done.
    at_once = _REMOTE_AT_ONCE if any(shard.is_remote for shard in shards) else 1
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="index")
    with tqdm(
        total=sum(shard.size for shard in shards),
        desc="Indexing shards",
        unit="B",
        unit_scale=True,
        disable=not shards,
    ) as bar:
        try:
            return list(pool.map(lambda shard: _build(shard, bar), shards))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _build(shard: Shard, bar: "tqdm[NoReturn]") -> _ShardIndex:
    try:
        reader = ShardReader(shard)
    except CorruptRecordError as error:
        # A gzip file that cannot be unpacked: nothing in it can be found.
        return [], [_parts(error)]
    try:
        with reader.stream() as stream:
            index = _scan(stream, shard, bar)
        # An index of a shard that was being written would be taken for that of the whole one.
        reader.check()
    finally:
        reader.close()
    _store(shard, index)
    return index


def _scan(stream: BinaryIO, shard: Shard, bar: "tqdm[NoReturn]") -> _ShardIndex:
    rows: list[_Row] = []
    faults = []
    done = 0
    for record in scan_records(stream, shard.url):
        if isinstance(record, CorruptRecordError):
            faults.append(_parts(record))
            continue
        # A gzip shard is longer when it is unpacked.
        step = min(record.frame_size, shard.size - done)
        done += step
        bar.update(step)
        where = place_in_words(shard.url, record.number, record.offset)
        try:
            fields = parse_example(record.payload)
        except ValueError as error:
            raise ValueError(
                f"{where}: {error}; was the shard written for this program?"
            ) from error
        for name in ("image", "image_name"):
            if name not in fields:
                raise ValueError(
                    f"{where}: expected a field `{name}`, found "
                    f"{', '.join(sorted(fields)) or 'none'}"
                )
        image = fields["image"]
        if not isinstance(image, bytes):
            raise ValueError(
                f"{where}: expected `image` to hold bytes, found {type(image).__name__}"
            )
        place: _Row = {
            "record": record.number,
            "offset": record.offset,
            "length": record.frame_size,
            # Should the same bytes stand there twice, either will do.
            "image_offset": record.offset + HEADER_SIZE + record.payload.find(image),
            "image_length": len(image),
        }
        rows.append(
            place | {name: _plain(fields[name]) for name in fields if name not in ("image", *PLACE)}
        )
    if not rows and not faults:
        raise ValueError(f"shard {shard.url}: expected records, found none; fetch it anew")
    bar.update(shard.size - done)
    return rows, faults


def _parts(fault: CorruptRecordError) -> tuple[str, int, int, str]:
    return fault.shard, fault.record, fault.offset, fault.reason


def _plain(value: Value) -> int | float | str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _compare_with_name(shard: Shard, found: int) -> None:
    claim = re.search(r"-(\d+)\.", shard.name)
    if claim and int(claim[1]) != found:
        _log.warning(
            "shard %s: its name says %s records, found %d; is the file complete?",
            shard.url,
            claim[1],
            found,
        )


def _cache_file(shard: Shard) -> Path:
    return cache_dir() / _FOLDER / f"{hashlib.sha256(shard.url.encode()).hexdigest()[:32]}.json"


def _key(shard: Shard) -> list[int | str]:
    return [INDEX_FORMAT, shard.url, shard.size, shard.version]


def _cached(shard: Shard) -> _ShardIndex | None:
    if not shard.version:
        return None
    try:
        stored = json.loads(_cache_file(shard).read_text())
        if stored["key"] != _key(shard):
            return None
        return stored["rows"], [
            (str(f[0]), int(f[1]), int(f[2]), str(f[3])) for f in stored["faults"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        # No index yet, or one that another program damaged: it is built anew either way.
        return None


def _store(shard: Shard, index: _ShardIndex) -> None:
    if not shard.version:
        return
    content = {"key": _key(shard), "rows": index[0], "faults": index[1]}
    _keep(_cache_file(shard), json.dumps(content))


def _keep(path: Path, text: str) -> None:
    try:
        with atomic_file(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        _log.warning("The index %s could not be kept (%s); going on without.", path, error)
