"""Read what is to be judged: a prediction table, and the targets where it has none."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lightning_melanoma.csv_tables import check_columns, check_unique, first_named, read_csv
from lightning_melanoma.metrics import cluster_codes
from lightning_melanoma.metrics.rows import BoolArray, FloatArray, IntArray
from lightning_melanoma.predictions import OPTIONAL_DTYPES, read_predictions

# Columns that a labels CSV may fill in where the table has none.
_JOINED = ("target", "patient_id", *OPTIONAL_DTYPES)


class JudgedTable(NamedTuple):
    """The rows of one prediction table, checked.

    Attributes:
        name: what tells it from the other tables.
        names: N ids of images.
        is_melanoma: (N,) bool, both values there.
        probabilities: (N,) float64 in [0, 1].
        clusters: (N,) int64, the number of each row's patient; an image of no known patient has a
            number of its own.
        num_patients: patients that are known; 0 when none is.
        metadata: (N,) rows, the columns of `predictions.OPTIONAL_DTYPES` that are known.
    """

    name: str
    names: list[str]
    is_melanoma: BoolArray
    probabilities: FloatArray
    clusters: IntArray
    num_patients: int
    metadata: pd.DataFrame


def read_tables(paths: Sequence[str], labels: str | None = None) -> list[JudgedTable]:
    """Return the tables of some files.

    Args:
        paths: prediction tables, as CSV.
        labels: CSV with `image_name`, `target` and, where known, other columns of the table: they
            fill in what the tables leave empty.

    Raises:
        ValueError: a column is missing, an id is there twice or not in `labels`, a target is
            missing or neither 0 nor 1, only one class is there, or a probability is not in [0, 1].
        OSError: a file cannot be read.
    """
    if not paths:
        raise ValueError("predictions: expected at least one prediction table, found none")
    known = None if labels is None else _read_labels(labels)
    names = _distinct_names(paths)
    return [_judged(path, name, known, labels) for path, name in zip(paths, names, strict=True)]


def _judged(path: str, name: str, known: pd.DataFrame | None, labels: str | None) -> JudgedTable:
    table = read_predictions(path)
    check_unique(table["image_name"], path)
    if known is not None:
        table = _joined(table, known, f"{labels}")
    is_melanoma = _targets(table, path)
    probabilities = table["probability"].to_numpy(dtype=np.float64, na_value=np.nan)
    # NaN compares false, so it counts as outside.
    outside = table["image_name"][~((probabilities >= 0) & (probabilities <= 1))]
    if len(outside):
        raise ValueError(
            f"{path}: expected probabilities in [0, 1], found others at {first_named(outside)}"
        )
    patients = _patients(table)
    return JudgedTable(
        name,
        table["image_name"].astype(str).tolist(),
        is_melanoma,
        probabilities,
        cluster_codes(patients),
        int(patients.nunique()),
        table[[column for column in OPTIONAL_DTYPES if column in table]],
    )


def _read_labels(path: str) -> pd.DataFrame:
    labels = read_csv(path, "string", has_missing_words=True)
    check_columns(labels, ["image_name", "target"], path)
    check_unique(labels["image_name"], path)
    return labels[["image_name", *(name for name in _JOINED if name in labels)]]


def _joined(table: pd.DataFrame, labels: pd.DataFrame, where: str) -> pd.DataFrame:
    unknown = table["image_name"][~table["image_name"].isin(labels["image_name"])]
    if len(unknown):
        raise ValueError(
            f"{where}: expected a row for each of the {len(table)} predicted images, found none "
            f"for {len(unknown)} ({first_named(unknown)})"
        )
    matched = labels.set_index("image_name").loc[table["image_name"]].reset_index(drop=True)
    for column in matched:
        own = table[column].astype("string") if column in table else matched[column]
        table[column] = own.fillna(matched[column])
    return table


def _targets(table: pd.DataFrame, path: str) -> BoolArray:
    targets = table["target"].astype("string")
    without = table["image_name"][targets.isna()]
    if len(without):
        raise ValueError(
            f"{path}: expected a target in every row, found none in {len(without)} of "
            f"{len(table)} ({first_named(without)}); name a CSV that has them by --labels"
        )
    numbers = pd.to_numeric(targets, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isin(numbers, (0, 1))
    if wrong.any():
        raise ValueError(
            f"{path}: expected target 0 or 1, found {targets[wrong].iloc[0]} "
            f"({np.count_nonzero(wrong)} rows in all)"
        )
    is_melanoma: BoolArray = numbers == 1
    if is_melanoma.all() or not is_melanoma.any():
        found = f"target {int(is_melanoma[0])} in all {len(table)} rows" if len(table) else "no row"
        raise ValueError(f"{path}: expected melanoma and benign images, found {found}")
    return is_melanoma


def _patients(table: pd.DataFrame) -> "pd.Series[str]":
    """Return each row's patient, within its source; NA where unknown."""
    own = table["patient_id"].astype("string")
    own = own.mask(own.isin(["-1", "-1.0"]))
    if "source" not in table:
        return own
    return table["source"].astype("string").fillna("") + "/" + own


def _distinct_names(paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths, without suffix, that tell them apart."""
    files = [Path(path) for path in paths]
    # With it where nothing else does.
    for parts in ([file.with_suffix("").parts for file in files], [file.parts for file in files]):
        for length in range(1, max(map(len, parts)) + 1):
            names = ["/".join(part[-length:]) for part in parts]
            if len(set(names)) == len(names):
                return names
    twice = next(file for file in files if files.count(file) > 1)
    raise ValueError(f"predictions: expected each table once, found {twice} twice")
