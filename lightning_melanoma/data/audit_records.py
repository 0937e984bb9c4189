"""The reading half of `audit`: shards to a table, a row a record, and what framing has to say.

One pass over the bytes of each shard checks every checksum; images are decoded by threads beside
it. What the table says about the records is judged in `audit_checks`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from lightning_melanoma.data.exclusion import Exclusion
from lightning_melanoma.data.fingerprint import Fingerprint, fingerprint, header_fingerprint
from lightning_melanoma.data.sample import METADATA
from lightning_melanoma.data.table import add_patients
from lightning_melanoma.records.example import Value, parse_example, plain_fields
from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.storage import Shard, short_labels
from lightning_melanoma.records.tfrecord import (
    CorruptRecordError,
    Record,
    place_in_words,
    scan_records,
)

# What `Value` is called in a tf.train.Example.
_KINDS = {bytes: "bytes", int: "int64", float: "float"}
# Images that wait, for each thread.
_WAITING = 8


class Finding(NamedTuple):
    """One thing that is wrong, or may be.

    Attributes:
        check: which check found it, a key of `audit_checks.CHECKS`.
        message: what was expected, what was found, and where.
        is_fault: False for a warning, which does not change the exit status.
        drop: rows of the table to leave out to be rid of it.
    """

    check: str
    message: str
    is_fault: bool = True
    drop: tuple[int, ...] = ()


class Inspection(NamedTuple):
    """What was read.

    Attributes:
        shards: those of `--val` first, so that of two equal images the later one is to go.
        labels: how messages and drop files name each of them.
        num_val: how many of them are `--val`'s.
        table: a row a record that holds an example with an id: ``shard`` (number in `shards`),
            ``record``, ``offset``, ``is_val``, ``fields`` ("name:kind" of each, in order of name),
            ``image_name``, ``patient``, ``target``, `METADATA` (None where absent), and the
            attributes of `Fingerprint`.
        findings: of framing, counts and fields.
        num_damaged: records of each shard that could not be read.
    """

    shards: list[Shard]
    labels: list[str]
    num_val: int
    table: pd.DataFrame
    findings: list[Finding]
    num_damaged: list[int]


def inspect_shards(
    shards: Sequence[Shard], num_val: int, *, exclusion: Exclusion, pixels: bool
) -> Inspection:
    """Return what `shards` hold, read with a progress bar.

    Args:
        shards: those of `--val` first.
        num_val: how many are `--val`'s.
        exclusion: records that are not to be looked at.
        pixels: decode the images; else only their headers are read.

    Raises:
        OSError: a shard cannot be read.
    """
    num_threads = os.cpu_count() or 1
    total = sum(shard.size for shard in shards)
    with (
        ThreadPoolExecutor(num_threads) as pool,
        # mininterval, in seconds: where stderr is a file, every step is a line of it.
        tqdm(total=total, desc="Auditing", unit="B", unit_scale=True, mininterval=1) as bar,
    ):
        inspector = _Inspector(pool, exclusion, fingerprint if pixels else header_fingerprint)
        damaged = []
        for number, shard in enumerate(shards):
            damaged.append(inspector.read(number, shard, bar))
        inspector.collect(0)
    columns = ["shard", "record", "offset", "fields", "image_name", "patient_id", "target"]
    table = pd.DataFrame(
        inspector.rows, columns=[*columns, *METADATA, *_renamed(Fingerprint(b""))], dtype=object
    )
    add_patients(table, shards)
    table["is_val"] = table["shard"] < num_val
    labels = short_labels([shard.url for shard in shards])
    return Inspection(list(shards), labels, num_val, table, inspector.findings, damaged)


class _Inspector:
    """Reads shards into rows while threads look at the images of the latest."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        exclusion: Exclusion,
        look: Callable[[bytes], Fingerprint],
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.findings: list[Finding] = []
        self._pool, self._exclusion, self._look = pool, exclusion, look
        self._waiting: deque[tuple[dict[str, Any], Future[Fingerprint]]] = deque()
        self._kinds: dict[str, str] = {}

    def read(self, number: int, shard: Shard, bar: "tqdm[Any]") -> int:
        """Read one shard and return how many of its records are damaged."""
        before, num_whole, num_damaged = bar.n, 0, 0
        for record in self._scan(shard):
            if isinstance(record, CorruptRecordError):
                self.findings.append(Finding("framing", str(record)))
                num_damaged += 1
                continue
            num_whole += 1
            self._take(number, shard, record)
            bar.update(min(record.frame_size, before + shard.size - bar.n))
        bar.update(before + shard.size - bar.n)
        if not num_whole and not num_damaged:
            message = f"shard {shard.url}: expected records, found none; fetch it anew"
            self.findings.append(Finding("framing", message))
        self._compare_with_name(shard, num_whole, num_damaged)
        return num_damaged

    def collect(self, num_waiting: int) -> None:
        """Put what the threads found into the rows until `num_waiting` images are left."""
        while len(self._waiting) > num_waiting:
            row, future = self._waiting.popleft()
            row.update(_renamed(future.result()))

    def _scan(self, shard: Shard) -> Iterator[Record | CorruptRecordError]:
        try:
            reader = ShardReader(shard)
        except CorruptRecordError as error:
            yield error
            return
        try:
            with reader.stream() as stream:
                yield from scan_records(stream, shard.url)
                if stream.read(1):
                    message = (
                        f"shard {shard.url}: expected records to its end, found no way on behind "
                        "the damaged header; what follows was not looked at"
                    )
                    self.findings.append(Finding("framing", message))
        finally:
            reader.close()

    def _take(self, number: int, shard: Shard, record: Record) -> None:
        where = place_in_words(shard.url, record.number, record.offset)
        try:
            fields = parse_example(record.payload)
        except ValueError as error:
            self.findings.append(Finding("fields", f"{where}: {error}"))
            return
        image = fields.get("image")
        if not isinstance(image, bytes) or "image_name" not in fields:
            message = (
                f"{where}: expected fields image:bytes and image_name, found "
                f"{self._describe(fields) or 'none'}"
            )
            self.findings.append(Finding("fields", message))
            return
        plain = plain_fields(fields)
        if self._exclusion.covers(str(plain["image_name"]), shard=shard, record=record.number):
            return
        place = {"shard": number, "record": record.number, "offset": record.offset}
        row = plain | place | {"fields": self._describe(fields)}
        self.rows.append(row)
        self._waiting.append((row, self._pool.submit(self._look, image)))
        # Few enough images for memory, enough to keep every thread busy.
        self.collect(_WAITING * (os.cpu_count() or 1))

    def _describe(self, fields: dict[str, Value]) -> str:
        text = " ".join(f"{name}:{_KINDS[type(fields[name])]}" for name in sorted(fields))
        # Records are alike, so one copy of the text serves them all.
        return self._kinds.setdefault(text, text)

    def _compare_with_name(self, shard: Shard, num_whole: int, num_damaged: int) -> None:
        if shard.num_claimed not in (None, num_whole + num_damaged):
            damaged = f" and {num_damaged} damaged" if num_damaged else ""
            message = (
                f"shard {shard.url}: expected {shard.num_claimed} records by its name, found "
                f"{num_whole}{damaged}; it is cut off or misnamed, fetch it anew"
            )
            self.findings.append(Finding("counts", message))


def place_of(inspection: Inspection, row: int) -> str:
    """Return where a row of the table comes from: shard, record and byte."""
    found = inspection.table.iloc[row]
    label = inspection.labels[found["shard"]]
    return f"{label}: record {found['record']} at byte {found['offset']}"


def record_of(inspection: Inspection, row: int) -> str:
    """Return how messages name a row of the table: its id, and where it comes from."""
    return f"{inspection.table['image_name'].iloc[row]} ({place_of(inspection, row)})"


def _renamed(found: Fingerprint) -> dict[str, Any]:
    # `width` and `height` are fields of the records as well: the size before they were shrunk.
    values = found._asdict()
    return {("image_" + name if name in METADATA else name): values[name] for name in values}
