"""The index of shards: where each record lies and all its fields but the image.

A shard's index is built by one pass over its bytes, all checksums checked, and kept by
`records.index_files`. A damaged record is a fault in the index, not an error: the caller decides
whether it may be passed over.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import BinaryIO, NamedTuple, NoReturn

import pandas as pd
from tqdm.auto import tqdm

from lightning_melanoma.records.example import parse_example, plain_fields
from lightning_melanoma.records.index_files import Row, ShardIndex, keep_index, kept_index
from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.stopping import StoppablePool, check_stop
from lightning_melanoma.records.storage import Shard
from lightning_melanoma.records.tfrecord import (
    HEADER_SIZE,
    CorruptRecordError,
    Record,
    scan_records,
)

#: The columns that say where a record and its image lie; fields of these names are left out.
PLACE = ("shard", "record", "offset", "length", "image_offset", "image_length")

# Shards in a bucket that are indexed at the same time.
_REMOTE_AT_ONCE = 4

_log = logging.getLogger(__name__)

#: What wants the images that pass while an index is built.
OnImage = Callable[[Shard, int, bytes], None]


class Index(NamedTuple):
    """The records of some shards.

    Attributes:
        table: a row a record, in the order of the shards and within them, columns ``shard`` (number
            in the list of shards), ``record`` (number in the shard), ``offset`` and ``length`` (of
            its frame, in bytes of the unpacked shard), ``image_offset`` and ``image_length`` (of
            its encoded image, likewise), ``image_name`` and every further field of the records but
            ``image`` and those named as one of these six, as found; a field that a record has not
            is missing (NaN), and its column then holds Python's own objects.
        faults: the records that are damaged, are no examples, or have no ``image`` or no
            ``image_name``; the table leaves them out.
    """

    table: pd.DataFrame
    faults: list[CorruptRecordError]


def index_shards(shards: Sequence[Shard], on_image: OnImage | None = None) -> Index:
    """Return the index of `shards`, from the cache where it is there; else built with a bar.

    Args:
        shards: to index.
        on_image: told of each image of a shard that is far away as it passes, in any thread: the
            shard, the record's number and the encoded image.

    Raises:
        ValueError: a shard has no records, or none that is an example with an image and its name.
        OSError: a shard cannot be read.
    """
    indices = {number: kept_index(shard) for number, shard in enumerate(shards)}
    missing = [number for number, index in indices.items() if index is None]
    built = _build_all([shards[number] for number in missing], on_image)
    indices.update(zip(missing, built, strict=True))
    rows: list[Row] = []
    faults: list[CorruptRecordError] = []
    for number, index in indices.items():
        assert index is not None
        rows.extend({"shard": number, **row} for row in index.rows)
        faults.extend(CorruptRecordError(*fault) for fault in index.faults)
        _compare_with_name(shards[number], len(index.rows) + len(index.faults))
    return Index(_table(rows), faults)


def _table(rows: list[Row]) -> pd.DataFrame:
    table = pd.DataFrame(rows, dtype=object)
    # Beside a missing value whole numbers would become floats: patient 5 would be patient 5.0.
    complete = table.columns[table.notna().all()]
    return table.astype({name: table[name].infer_objects().dtype for name in complete})


def _build_all(shards: list[Shard], on_image: OnImage | None) -> list[ShardIndex]:
    # Of shards that are far away the next are already under way when one is done.
    at_once = _REMOTE_AT_ONCE if any(shard.is_remote for shard in shards) else 1
    with (
        tqdm(
            total=sum(shard.size for shard in shards),
            desc="Indexing shards",
            unit="B",
            unit_scale=True,
            disable=not shards,
        ) as bar,
        StoppablePool(at_once, "index") as pool,
    ):
        tasks = [pool.submit(_build, shard, bar, on_image) for shard in shards]
        done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
        # An error of any shard before the result of the first: the others are no longer wanted.
        failed = [task for task in tasks if task in done and task.exception()]
        return [task.result() for task in failed or tasks]


def _build(shard: Shard, bar: "tqdm[NoReturn]", on_image: OnImage | None) -> ShardIndex:
    try:
        reader = ShardReader(shard)
    except CorruptRecordError as error:
        # A gzip file that cannot be unpacked: nothing in it can be found.
        return ShardIndex([], [_parts(error)])
    try:
        with reader.stream() as stream:
            index = _scan(stream, shard, bar, on_image)
        # An index of a shard that was being written would be taken for that of the whole one.
        reader.check()
    finally:
        reader.close()
    keep_index(shard, index)
    return index


def _scan(
    stream: BinaryIO, shard: Shard, bar: "tqdm[NoReturn]", on_image: OnImage | None
) -> ShardIndex:
    rows: list[Row] = []
    faults = []
    done = num_strange = 0
    for record in scan_records(stream, shard.url):
        check_stop()
        if isinstance(record, CorruptRecordError):
            faults.append(_parts(record))
            continue
        # A gzip shard is longer when it is unpacked.
        step = min(record.frame_size, shard.size - done)
        done += step
        bar.update(step)
        try:
            row, image = _parsed(record)
        except ValueError as error:
            faults.append((shard.url, record.number, record.offset, str(error)))
            num_strange += 1
            continue
        rows.append(row)
        if on_image is not None and shard.is_remote:
            on_image(shard, record.number, image)
    if faults and stream.read(1):
        # The last is a header's, which would have told where the next record begins.
        place, reason = faults[-1][:3], faults[-1][3]
        faults[-1] = (*place, f"{reason}; what lies behind it in the shard cannot be found, either")
    if not rows and not faults:
        raise ValueError(f"shard {shard.url}: expected records, found none; fetch it anew")
    if num_strange and num_strange == len(rows) + len(faults):
        # Nothing of it is ours: no damage that could be skipped, but other data.
        raise CorruptRecordError(*faults[0])
    bar.update(shard.size - done)
    return ShardIndex(rows, faults)


def _parsed(record: Record) -> tuple[Row, bytes]:
    """Return the row of a record, and its image.

    Raises:
        ValueError: it is no example of ours; the message says what, not where.
    """
    advice = "was the shard written for this program?"
    try:
        fields = parse_example(record.payload)
    except ValueError as error:
        raise ValueError(f"{error}; {advice}") from error
    for name in ("image", "image_name"):
        if name not in fields:
            found = ", ".join(sorted(fields)) or "none"
            raise ValueError(f"expected a field `{name}`, found {found}; {advice}")
    image = fields["image"]
    if not isinstance(image, bytes):
        found = type(image).__name__
        raise ValueError(f"expected `image` to hold bytes, found {found}; {advice}")
    place: Row = {
        "record": record.number,
        "offset": record.offset,
        "length": record.frame_size,
        # Should the same bytes stand there twice, either will do.
        "image_offset": record.offset + HEADER_SIZE + record.payload.find(image),
        "image_length": len(image),
    }
    plain = plain_fields(fields)
    return place | {name: plain[name] for name in plain if name not in PLACE}, image


def _parts(fault: CorruptRecordError) -> tuple[str, int, int, str]:
    return fault.shard, fault.record, fault.offset, fault.reason


def _compare_with_name(shard: Shard, found: int) -> None:
    if shard.num_claimed not in (None, found):
        _log.warning(
            "shard %s: its name says %d records, found %d; is the file complete?",
            shard.url,
            shard.num_claimed,
            found,
        )
