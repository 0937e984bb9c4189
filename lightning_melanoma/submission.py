"""The submission: the two columns `image_name,target` that Kaggle wants, of a prediction table.

`target` is the probability. It is written by `csv_tables`, with enough digits that no two
probabilities become one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lightning_melanoma.csv_tables import check_columns, check_unique, first_named, read_csv


def submission(table: pd.DataFrame) -> pd.DataFrame:
    """Return Kaggle's two columns of a prediction table, in its order.

    Args:
        table: has `image_name` and `probability`, which becomes `target`.
    """
    return pd.concat({"image_name": table["image_name"], "target": table["probability"]}, axis=1)


def check_submission(submission: pd.DataFrame, expected_names: Sequence[str]) -> None:
    """Make sure that a submission says one probability for each record and nothing else.

    Args:
        submission: `image_name` and `target`.
        expected_names: the id of each test record.

    Raises:
        ValueError: the rows are not as many as the records, an id is there twice, missing or
            unexpected, or a value is not a number in [0, 1].
    """
    num_rows, num_records = len(submission), len(expected_names)
    if num_rows != num_records:
        raise ValueError(
            f"submission: expected {num_records} rows (one a record), found {num_rows}"
        )
    names = submission["image_name"]
    check_unique(names, "submission")
    _check_same_names(names, pd.Series(expected_names), "the records")
    values = submission["target"].to_numpy(dtype=np.float64, na_value=np.nan)
    # NaN compares false, so it counts as outside.
    outside = names[~((values >= 0) & (values <= 1))].tolist()
    if outside:
        raise ValueError(
            f"submission: expected numbers in [0, 1], found others at {first_named(outside)}"
        )


def in_sample_order(submission: pd.DataFrame, sample_path: Path | str) -> pd.DataFrame:
    """Return the rows of a submission in the order of a sample file.

    Args:
        submission: `image_name` and `target`, ids unique.
        sample_path: a CSV with an `image_name` column, such as Kaggle's sample_submission.csv.

    Raises:
        ValueError: the file has no `image_name` column, an id twice, or other ids.
        OSError: the file cannot be read.
    """
    sample = read_csv(sample_path, {"image_name": "string"})
    check_columns(sample, ["image_name"], str(sample_path))
    wanted = sample["image_name"]
    check_unique(wanted, str(sample_path))
    _check_same_names(submission["image_name"], wanted, str(sample_path))
    ordered: pd.DataFrame = submission.set_index("image_name").loc[wanted].reset_index()
    return ordered


def _check_same_names(names: pd.Series, expected: pd.Series, where: str) -> None:
    missing = expected[~expected.isin(names)].tolist()
    unexpected = names[~names.isin(expected)].tolist()
    if missing or unexpected:
        faults = [f"{len(missing)} missing ({first_named(missing)})"] if missing else []
        if unexpected:
            faults.append(f"{len(unexpected)} unexpected ({first_named(unexpected)})")
        raise ValueError(f"submission: expected the ids of {where}, found {', '.join(faults)}")
