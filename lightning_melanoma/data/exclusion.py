"""Records to leave out of training and validation, by id or by place.

A list of ids, or a file: plain text with an id a line, or a CSV with a column ``image_name`` as
``audit --drop`` writes it. Where such a CSV has ``shard`` (the end of its path) and ``record``,
only that record is meant, so that of an image that is there twice one copy can stay. Plain text
that begins with what looks like the names of columns is refused; ids that look so go into a CSV,
quoted.
"""

import csv
import logging
import re
from collections.abc import Sequence

import pandas as pd

from lightning_melanoma.records.access import read_whole
from lightning_melanoma.records.storage import Shard

_log = logging.getLogger(__name__)

# Characters of a first line that a message shows.
_SHOWN = 80


class Exclusion:
    """The records to leave out, and how many of them were met.

    Args:
        exclude: a file's path or URL, or ids; None excludes nothing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a CSV has no column ``image_name``, or names a record but not its shard, or its
            number is none; or a URL's scheme is unknown.
        OSError: the file cannot be read.
    """

    def __init__(self, exclude: str | Sequence[str] | None) -> None:
        # The places that are meant of each id; None among them means every place.
        self._places: dict[str, set[tuple[str, int] | None]] = {}
        if isinstance(exclude, str):
            self._read(exclude)
        else:
            for name in exclude or ():
                self._add(str(name), None)
        # Those of them that were met, of each id that was.
        self._met: dict[str, set[tuple[str, int] | None]] = {}
        self._num_dropped = 0

    def covers(self, image_name: str, *, shard: Shard, record: int) -> bool:
        """Tell whether a record is to be left out, and count it; remember that its id was met."""
        places = self._places.get(image_name)
        if places is None:
            return False
        met = {place for place in places if place is None or _is_at(place, shard, record)}
        self._met.setdefault(image_name, set()).update(met)
        self._num_dropped += bool(met)
        return bool(met)

    def drop(self, table: pd.DataFrame, shards: Sequence[Shard]) -> pd.DataFrame:
        """Return a table without the records to be left out, its rows numbered anew.

        Args:
            table: columns ``image_name``, ``shard`` (number in `shards`) and ``record``.
            shards: those of the table.
        """
        if not self._places:
            return table
        places = zip(table["image_name"], table["shard"], table["record"], strict=True)
        kept = [
            not self.covers(str(name), shard=shards[shard], record=record)
            for name, shard, record in places
        ]
        return table[kept].reset_index(drop=True)

    def report(self, setting: str, *, unknown: str) -> None:
        """Log how many records are left out, and warn of ids and places that were not met.

        Args:
            setting: that the list was given by.
            unknown: where the ids that were not met are not.
        """
        if not self._places:
            return
        _log.info("%s: %d records are left out.", setting, self._num_dropped)
        not_met = sorted(set(self._places) - set(self._met))
        if not_met:
            _log.warning(
                "%s: %d of %d ids are %s, the first %s; is it the list of these shards?",
                setting,
                len(not_met),
                len(self._places),
                unknown,
                not_met[0],
            )
        listed = [(name, place) for name in self._met for place in self._places[name] if place]
        elsewhere = sorted((name, *place) for name, place in listed if place not in self._met[name])
        if elsewhere:
            name, label, record = elsewhere[0]
            _log.warning(
                "%s: %d of %d records of the list are not where it says, the first %s (%s: record "
                "%d); were folders renamed, or shards written anew? then audit them again",
                setting,
                len(elsewhere),
                len(listed),
                name,
                label,
                record,
            )

    def _read(self, path: str) -> None:
        try:
            lines = read_whole(path).decode("utf-8-sig").splitlines()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise FileNotFoundError(
                f"exclude: expected a list of ids or a file of them, found no file {path}"
            ) from error
        except UnicodeDecodeError as error:
            raise ValueError(f"exclude: expected a text file, found other bytes: {path}") from error
        try:
            self._take(lines, path)
        except csv.Error as error:
            raise ValueError(f"exclude {path}: expected ids or a CSV, found {error}") from error

    def _take(self, lines: list[str], path: str) -> None:
        first = lines[0] if lines else ""
        if "image_name" not in next(csv.reader([first])):
            _check_is_id(first.strip(), path)
            for line in lines:
                self._add(line.strip(), None)
            return
        for number, row in enumerate(csv.DictReader(lines), start=2):
            # As a record has it, spaces included.
            self._add(row["image_name"] or "", _place(row, f"{path}: line {number}"))

    def _add(self, name: str, place: tuple[str, int] | None) -> None:
        if name:
            self._places.setdefault(name, set()).add(place)


def _is_at(place: tuple[str, int], shard: Shard, record: int) -> bool:
    label, number = place
    return number == record and f"/{shard.url}".endswith(f"/{label}")


def _check_is_id(line: str, path: str) -> None:
    """Refuse the names of a table's columns, which would be an id that no record has."""
    cells = [cell.strip() for cell in re.split("[,;\t]", line)]
    # No column is called by a number, but ids may be: `S,1`.
    if len(cells) > 1 and not any(cell.isdecimal() for cell in cells):
        raise ValueError(
            f"exclude {path}: expected a column `image_name` and commas between columns, or an id "
            f"a line, found the first line {line[:_SHOWN]!r}; name the column of ids `image_name`"
        )


def _place(row: dict[str, str], where: str) -> tuple[str, int] | None:
    shard, record = row.get("shard") or "", row.get("record") or ""
    if not shard and not record:
        return None
    if not shard or not record.isdecimal():
        raise ValueError(
            f"exclude {where}: expected both a shard and the number of a record, or neither, "
            f"found {shard!r} and {record!r}"
        )
    return shard, int(record)
