"""The table of a split: a row a record, with its place, its patient, its target and its metadata.

Index and metadata CSV come together here, and everything that a table must promise is checked here:
an id, a target of 0 or 1 where one is needed, and who the patient is.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lightning_melanoma.csv_tables import check_unique, read_csv
from lightning_melanoma.data.exclusion import Exclusion
from lightning_melanoma.data.sample import METADATA
from lightning_melanoma.records.index import PLACE, OnImage, index_shards
from lightning_melanoma.records.storage import Shard, find_shards
from lightning_melanoma.records.tfrecord import place_in_words

#: Which records a CSV of metadata must know: none; if it tells patients, all; and one at least.
MustKnow = Literal["nothing", "patients", "some"]

#: What to do about a record that cannot be read.
OnCorrupt = Literal["raise", "skip"]

# What the columns that are numbers must hold; text that says one is taken for it.
_NUMBERS = {
    "target": "0 or 1",
    "age_approx": "a number",
    "width": "a whole number",
    "height": "a whole number",
}

_log = logging.getLogger(__name__)


class Split(NamedTuple):
    """Some shards and the table of their records.

    Attributes:
        shards: in order.
        table: a row a record, columns ``shard`` (number in `shards`), ``record``, ``offset``,
            ``length``, ``image_offset``, ``image_length`` (as in `Index`), ``image_name``,
            ``patient_id`` (as stored), ``patient`` (source and patient_id, "" where unknown),
            ``target`` (float, NaN where unknown), ``fold`` (int, -1 where there are none),
            ``source`` (the records' own, else the shard's data set) and the other `METADATA` that
            there is.
        skipped: what was left out and why, a line a record.
    """

    shards: list[Shard]
    table: pd.DataFrame
    skipped: list[str]


def read_split(
    paths: str | Sequence[str],
    *,
    prefix: str,
    metadata: str | None,
    on_corrupt: OnCorrupt,
    exclusion: Exclusion | None = None,
    must_know: MustKnow = "nothing",
    on_image: OnImage | None = None,
) -> Split:
    """Return the shards at `paths` and their table.

    Args:
        paths: what `find_shards` takes.
        prefix: which shards of a folder are meant (``train``, ``val`` or ``test``).
        metadata: a CSV in Kaggle's columns, joined on ``image_name``; its columns replace the
            records' codes. None: only what the records hold.
        on_corrupt: raise the first damaged record, or leave damaged ones out.
        exclusion: records to leave out; None for none.
        must_know: what `metadata` must know of the records: `patients`, where those are held
            against others'; `some`, where it is these records' own. Less is a warning.
        on_image: as in `index_shards`.

    Raises:
        FileNotFoundError: no shard matches, or `metadata` does not exist.
        ValueError: a record or the CSV is not as it must be.
    """
    shards = find_shards(paths, prefix=prefix)
    table, faults = index_shards(shards, on_image)
    if faults and (on_corrupt == "raise" or table.empty):
        raise faults[0]
    if exclusion is not None:
        table = exclusion.drop(table, shards)
    _check_not_empty(table, shards, prefix)
    if metadata is not None:
        table = _join(table, metadata, must_know)
    return Split(shards, _as_split(table, shards), [str(fault) for fault in faults])


def _as_split(table: pd.DataFrame, shards: Sequence[Shard]) -> pd.DataFrame:
    """Return the columns of a `Split`'s table, of an index's with the metadata that there is."""
    if "target" not in table:
        table["target"] = np.nan
    for name in _NUMBERS:
        if name in table:
            table[name] = _numbers(table, name, shards)
    table["target"] = table["target"].astype(float)
    add_patients(table, shards)
    table["fold"] = -1
    names = ["image_name", "patient_id", "patient", "target", "fold"]
    return table[[*PLACE, *names, *(name for name in METADATA if name in table)]]


def add_patients(table: pd.DataFrame, shards: Sequence[Shard]) -> None:
    """Add to a table, in place, who the patient of each record is.

    Args:
        table: an index's; gets the columns ``source``, ``patient_id`` and ``patient`` of a
            `Split`'s table.
        shards: that its column ``shard`` counts.
    """
    table["source"] = _sources(table, shards)
    if "patient_id" not in table:
        table["patient_id"] = None
    table["patient"] = np.where(
        _is_unknown(table["patient_id"]),
        "",
        table["source"] + "/" + table["patient_id"].astype(str),
    )


def require_targets(split: Split, what: str) -> None:
    """Check that every record of a split has a target.

    Raises:
        ValueError: one has none; the message says which.
    """
    missing = split.table["target"].isna()
    if missing.any():
        row = split.table[missing].iloc[0]
        raise ValueError(
            f"{what}: expected a `target` in every record, found none in {missing.sum()} of "
            f"{len(missing)}, the first {row['image_name']} in {split.shards[row['shard']].url}; "
            "name labelled shards, or a data.metadata CSV with a `target` column"
        )


def _check_not_empty(table: pd.DataFrame, shards: Sequence[Shard], prefix: str) -> None:
    if table.empty:
        raise ValueError(
            f"data: expected {prefix} records, found none in {len(shards)} shards besides those of "
            "data.exclude; name more shards, or a shorter list"
        )


def _join(table: pd.DataFrame, path: str, must_know: MustKnow) -> pd.DataFrame:
    # As text, ids such as 0012 stay as they are.
    dtypes = {"image_name": "str", "patient_id": "str", "source": "str"}
    named = read_csv(path, dtypes, has_missing_words=True)
    if "image_name" not in named:
        raise ValueError(
            f"data.metadata {path}: expected a column `image_name`, found "
            f"{', '.join(named.columns)}; name the id column so"
        )
    check_unique(named["image_name"], f"data.metadata {path}")
    known = table["image_name"].isin(named["image_name"])
    if must_know == "some" and not known.any():
        raise ValueError(
            f"data.metadata {path}: expected the records' image_name, such as "
            f"{table['image_name'].iloc[0]}, found none of them; is it the CSV of these shards?"
        )
    if must_know != "nothing" and "patient_id" in named:
        _check_patients_known(table, known, path)
    if not known.all():
        _log.warning(
            "data.metadata %s: no row for %d of %d records", path, (~known).sum(), len(known)
        )
    if not known.any():
        # Test shards beside Kaggle's train.csv, say, keep what they tell of themselves.
        return table
    columns = [name for name in ("patient_id", "target", *METADATA) if name in named]
    rest = table.drop(columns=[name for name in columns if name in table])
    joined = rest.merge(named[["image_name", *columns]], on="image_name", how="left")
    for name in set(columns) & set(table):
        # What the CSV does not know keeps what it tells of itself, and a label where it has none.
        is_told = known & joined[name].notna() if name == "target" else known
        joined[name] = joined[name].astype(object).where(is_told, table[name])
    return joined


def _check_patients_known(table: pd.DataFrame, known: "pd.Series[bool]", path: str) -> None:
    others = table[~known]
    if "patient_id" in table and not _is_unknown(others["patient_id"]).all():
        # A patient's code and name look like two patients.
        raise ValueError(
            f"data.metadata {path}: expected a row for each record, as its patients cannot be "
            f"compared with those of others, found none for {len(others)} of {len(table)}, the "
            f"first {others['image_name'].iloc[0]}; add their rows, leave the records out by "
            "data.exclude, or take the column patient_id out"
        )


def _is_unknown(patient_ids: "pd.Series[Any]") -> "pd.Series[bool]":
    return patient_ids.isna() | patient_ids.astype(str).isin(["-1", "-1.0", ""])


def _numbers(table: pd.DataFrame, name: str, shards: Sequence[Shard]) -> "pd.Series[float]":
    """Return a column as numbers, NaN where it is missing or an empty text."""
    found = table[name].mask(table[name] == "")
    numbers = pd.to_numeric(found, errors="coerce")
    is_right = numbers.notna()
    if name == "target":
        is_right = numbers.isin([0, 1])
    elif name != "age_approx":
        # As prediction tables have them.
        is_right = (numbers % 1 == 0) & (numbers < 2**31)
    wrong = found.notna() & ~is_right
    if wrong.any():
        row = table[wrong].iloc[0]
        where = place_in_words(shards[row["shard"]].url, row["record"], row["offset"])
        raise ValueError(
            f"{where} ({row['image_name']}): expected {name} {_NUMBERS[name]}, found {row[name]}; "
            "correct the shard or the data.metadata CSV, or leave the record out"
        )
    return numbers


def _sources(table: pd.DataFrame, shards: Sequence[Shard]) -> "pd.Series[str]":
    data_sets = table["shard"].map(lambda number: shards[number].data_set)
    if "source" not in table:
        return data_sets
    return table["source"].astype(str).where(table["source"].notna(), data_sets)
