"""The patients' ages of image files, from a CSV, for checkpoints that use them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_melanoma.csv_tables import check_columns, check_unique, read_csv
from lightning_melanoma.predictions import known_ages
from lightning_melanoma.scoring.ensemble import Member


def read_ages(
    paths: Sequence[str], metadata: str | None, members: Sequence[Member]
) -> NDArray[np.float32]:
    """Return (N,) float32, the age of each file's patient, years, -1 where it is unknown.

    Args:
        paths: of the files; one's name without its suffix is its `image_name`.
        metadata: a CSV with `image_name` and `age_approx`; None for none.
        members: the checkpoints.

    Raises:
        ValueError: no checkpoint uses the age, or the CSV is not as it must be.
        OSError: it cannot be read.
    """
    if metadata is None:
        return np.full(len(paths), -1, np.float32)
    if not any(member.uses_age for member in members):
        raise ValueError(
            "metadata: expected a checkpoint that uses the age (model.use_age), found none; leave "
            "--metadata out"
        )
    table = read_csv(
        metadata, {"image_name": "str", "age_approx": "float64"}, has_missing_words=True
    )
    check_columns(table, ("image_name", "age_approx"), f"metadata {metadata}")
    check_unique(table["image_name"], f"metadata {metadata}")
    names = pd.Series([Path(path).stem for path in paths])
    if not names.isin(table["image_name"]).any():
        raise ValueError(
            f"metadata {metadata}: expected the files' names without their suffix, such as "
            f"{names.iloc[0]}, as image_name, found none of them"
        )
    by_name = known_ages(table).set_axis(table["image_name"])
    ages: NDArray[np.float32] = names.map(by_name).fillna(-1).to_numpy(np.float32)
    return ages
