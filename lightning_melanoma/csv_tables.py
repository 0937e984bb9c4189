"""Tables of images as CSV: read and checked with one line on what is wrong, written whole or not.

In our own only an empty field is a missing value. Numbers are printed with as many digits as it
takes to read the same float64 back. What the columns mean is up to others: see `predictions`.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_melanoma.records.access import is_local, read_whole
from lightning_melanoma.records.files import atomic_file

# A message names as many ids, and counts the rest.
_NUM_NAMED = 3


def read_csv(
    path: Path | str, dtypes: Mapping[str, str] | str, *, has_missing_words: bool = False
) -> pd.DataFrame:
    """Return the table of a CSV, NA where a field is empty.

    Args:
        path: of the file, or its URL.
        dtypes: pandas' dtype of each column by name, where it is not to be guessed; or that of all.
        has_missing_words: it is somebody else's, where NA, nan and their like stand for nothing.

    Raises:
        ValueError: it is no CSV, a field is not of its column's type, or a URL's scheme is unknown.
        OSError: it cannot be read.
    """
    wanted: Any = dtypes
    source = path if is_local(str(path)) else io.BytesIO(read_whole(str(path)))
    try:
        table: pd.DataFrame = pd.read_csv(
            source,
            dtype=wanted,
            float_precision="round_trip",
            # An image of ours may well be called "NA".
            keep_default_na=has_missing_words,
            na_values=[""],
        )
    except TypeError as error:
        # Pandas does not say in which column.
        types = dtypes.items() if isinstance(dtypes, Mapping) else ()
        whole = ", ".join(name for name, dtype in types if dtype == "Int64")
        raise ValueError(
            f"{path}: expected whole numbers or nothing in {whole}, found another value"
        ) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a CSV table, found: {reason}") from error
    return table


def write_csv_atomically(table: pd.DataFrame, path: Path | str) -> None:
    """Write a table as CSV without its row labels: aside first, then renamed to `path`.

    Raises:
        OSError: `path` cannot be written. An older file is still there then.
    """
    with atomic_file(Path(path)) as stream:
        stream.write(table.to_csv(index=False, lineterminator="\n").encode())


def check_columns(table: pd.DataFrame, required: Sequence[str], where: str) -> None:
    """Make sure that a table has some columns.

    Args:
        table: any.
        required: names of columns.
        where: what the message calls the table.

    Raises:
        ValueError: one is missing; the message names it, and those that are there.
    """
    if missing := ", ".join(name for name in required if name not in table):
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"{where}: expected also the column {missing}, found {found}")


def check_unique(names: "pd.Series[str]", where: str) -> None:
    """Make sure that no id is there twice.

    Args:
        names: ids of images.
        where: what the message calls their table.

    Raises:
        ValueError: one is; the message counts the rows and names the first three ids.
    """
    twice = names[names.duplicated()]
    if len(twice):
        raise ValueError(
            f"{where}: expected unique ids, found ids again in {len(twice)} of {len(names)} rows: "
            f"{first_named(twice.unique())}"
        )


def first_named(names: Iterable[object]) -> str:
    """Return the first three of some ids and how many more there are, for a message."""
    every = list(map(str, names))
    rest = f" and {len(every) - _NUM_NAMED} more" if len(every) > _NUM_NAMED else ""
    return ", ".join(every[:_NUM_NAMED]) + rest
