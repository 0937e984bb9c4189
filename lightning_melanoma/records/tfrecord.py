"""TFRecord framing: a reader and a writer that always check.

A record is (little endian)::

    uint64 length | uint32 masked CRC-32C of length
    byte data[length] | uint32 masked CRC-32C of data

with ``masked = ((crc >> 15 | crc << 17) + 0xa282ead8) mod 2**32`` (TensorFlow,
tensorflow/tsl/lib/hash/crc32c.h and core/lib/io/record_writer.cc). Both checksums of every record
are checked on every read; there is no way to turn that off. Compression is storage's affair.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from crc32c import crc32c

from lightning_melanoma.records.files import atomic_file

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
#: Bytes ahead of the data of a record.
HEADER_SIZE = _HEADER.size
#: Bytes around it.
FRAMING_SIZE = HEADER_SIZE + _FOOTER.size
# TensorFlow's kMaskDelta: a CRC stored beside its own data must not look like data.
_MASK_DELTA = 0xA282EAD8


class CorruptRecordError(ValueError):
    """A shard does not hold what TFRecord framing promises: damaged, truncated or no TFRecord."""

    def __init__(self, shard: str, record: int, offset: int, reason: str) -> None:
        super().__init__(f"{place_in_words(shard, record, offset)}: {reason}")
        self.shard = shard
        self.record = record
        self.offset = offset
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, int, int, str]]:
        """Pickle by the four parts, so that a worker can hand the error to its parent."""
        return type(self), (self.shard, self.record, self.offset, self.reason)


def place_in_words(shard: str, record: int, offset: int) -> str:
    """Return where a record is, as every message says it: shard, number from 0 and byte offset."""
    return f"shard {shard}: record {record} at byte {offset}"


class Record(NamedTuple):
    """One record of a shard: its number from 0, the byte offset of its header, and its data."""

    number: int
    offset: int
    payload: bytes

    @property
    def frame_size(self) -> int:
        """Bytes of the whole frame: header, data and footer."""
        return len(self.payload) + FRAMING_SIZE


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return TensorFlow's masked CRC-32C of `data`, in [0, 2**32)."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def is_header(data: bytes | memoryview) -> bool:
    """Tell whether bytes are the header of a record: whole, with the checksum of its length."""
    return len(data) == HEADER_SIZE and _HEADER.unpack(data)[1] == masked_crc32c(data[:8])


def unframe(frame: bytes | memoryview, *, shard: str, record: int, offset: int) -> memoryview:
    """Return the data of one whole frame, a view of it, after checking both of its checksums.

    Args:
        frame: header, data and footer of one record.
        shard: name of the shard, for the error.
        record: number of the record in its shard, for the error.
        offset: byte offset of the frame in its shard, for the error.

    Raises:
        CorruptRecordError: the frame is short, a checksum differs, or the length is another.
    """
    payload = memoryview(frame)[HEADER_SIZE : -_FOOTER.size]
    # In one look what nearly always holds; what is wrong is asked when it does not.
    is_whole = (
        len(frame) >= FRAMING_SIZE
        and _HEADER.unpack_from(frame) == (len(payload), masked_crc32c(frame[:8]))
        and _FOOTER.unpack_from(frame, HEADER_SIZE + len(payload)) == (masked_crc32c(payload),)
    )
    if not is_whole:
        _raise_damage(frame, shard=shard, record=record, offset=offset)
    return payload


def scan_records(stream: BinaryIO, shard: str) -> Iterator[Record | CorruptRecordError]:
    """Yield every record of a shard in order, each checked, and an error in place of a damaged one.

    Reading goes on behind a record whose data is damaged. Behind a damaged or cut-off header
    nothing can be found again, so there the scan ends.

    Args:
        stream: the uncompressed bytes of the shard, at its start.
        shard: name of the shard, for errors.
    """
    number = offset = 0
    while header := stream.read(HEADER_SIZE):
        try:
            if len(header) < HEADER_SIZE:
                raise CorruptRecordError(
                    shard,
                    number,
                    offset,
                    f"expected a header of {HEADER_SIZE} bytes, found {len(header)}; "
                    "the file is truncated",
                )
            length = _check_header(header, shard=shard, record=number, offset=offset)
        except CorruptRecordError as error:
            yield error
            return
        try:
            frame = header + stream.read(length + _FOOTER.size)
        except (MemoryError, OverflowError):
            # The checksum of a length may be right, and no file so large.
            reason = f"expected a record that memory can hold, found one of {length} bytes"
            yield CorruptRecordError(shard, number, offset, reason)
            return
        try:
            payload = unframe(frame, shard=shard, record=number, offset=offset)
            yield Record(number, offset, bytes(payload))
        except CorruptRecordError as error:
            yield error
        number += 1
        offset += len(frame)


def read_records(stream: BinaryIO, shard: str) -> Iterator[Record]:
    """Yield every record of a shard in order, each checked.

    Args:
        stream: the uncompressed bytes of the shard, at its start.
        shard: name of the shard, for errors.

    Raises:
        CorruptRecordError: at the first frame that is damaged or cut off.
    """
    for record in scan_records(stream, shard):
        if isinstance(record, CorruptRecordError):
            raise record
        yield record


def write_shard(path: Path | str, payloads: Iterable[bytes]) -> int:
    """Write a shard, whole or not at all, and return its number of records.

    Args:
        path: where the shard is to appear; an existing file is replaced when the new one is
            complete.
        payloads: the data of each record, in order.

    Raises:
        OSError: the place cannot be written.
    """
    number = 0
    with atomic_file(Path(path)) as stream:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            stream.write(length + _FOOTER.pack(masked_crc32c(length)))
            stream.write(payload)
            stream.write(_FOOTER.pack(masked_crc32c(payload)))
            number += 1
    return number


def _check_header(header: bytes | memoryview, *, shard: str, record: int, offset: int) -> int:
    length, expected = _HEADER.unpack(header)
    if not is_header(header):
        found = masked_crc32c(header[:8])
        what = "the file is damaged" if record else "this is no TFRecord file, or it is damaged"
        raise CorruptRecordError(
            shard, record, offset, f"length CRC {expected:#010x} != {found:#010x}; {what}"
        )
    return int(length)


def _raise_damage(frame: bytes | memoryview, *, shard: str, record: int, offset: int) -> NoReturn:
    """Tell what is wrong with a frame that is not as it should be."""
    place = (shard, record, offset)
    if len(frame) < FRAMING_SIZE:
        raise CorruptRecordError(
            *place,
            f"expected at least {FRAMING_SIZE} bytes, found {len(frame)}; the file is truncated",
        )
    length = _check_header(frame[:HEADER_SIZE], shard=shard, record=record, offset=offset)
    payload = frame[HEADER_SIZE : -_FOOTER.size]
    if length != len(payload):
        raise CorruptRecordError(
            *place,
            f"expected {length} bytes of data, found {len(payload)}; "
            "the file is truncated or has changed since it was indexed",
        )
    (expected,) = _FOOTER.unpack_from(frame, HEADER_SIZE + length)
    raise CorruptRecordError(
        *place,
        f"data CRC {expected:#010x} != {masked_crc32c(payload):#010x}; the file is damaged, "
        "fetch it anew",
    )
