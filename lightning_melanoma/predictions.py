"""The prediction table: probabilities that keep the order of the logits, as CSV.

The table has one row an image, with the columns `image_name, patient_id, fold, target, logit,
probability` and, where known, `sex, age_approx, anatom_site_general_challenge, source, width,
height`; what is not known is an empty field. `logit` is what the network gave, `probability` what
`decisions` made of it; where no calibration was fitted, a last column `calibration` says so.
Nothing is judged here: see `metrics`. What Kaggle gets of it: see `submission`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from lightning_melanoma.csv_tables import check_columns, read_csv, write_csv_atomically

REQUIRED_DTYPES = {
    "image_name": "string",
    "patient_id": "string",
    "fold": "Int64",
    "target": "Int64",
    "logit": "float64",
    "probability": "float64",
}
OPTIONAL_DTYPES = {
    "sex": "string",
    "age_approx": "float64",
    "anatom_site_general_challenge": "string",
    "source": "string",
    "width": "Int64",
    "height": "Int64",
}
#: The column that marks a table of probabilities that no fitted line stands behind.
UNCALIBRATED = {"calibration": "prior correction only"}
# Years: an `age_approx` above it says that none is known.
_OLDEST = 120
_DTYPES = {**REQUIRED_DTYPES, **OPTIONAL_DTYPES, **dict.fromkeys(UNCALIBRATED, "string")}


def known_ages(table: pd.DataFrame) -> "pd.Series[float]":
    """Return the `age_approx` of each row of a table, years, NaN where it is unknown.

    That is where it is missing, no number, below 0 (-1 says so in some sets) or above 120 (999).
    """
    if "age_approx" not in table:
        return pd.Series(np.nan, table.index)
    ages = pd.to_numeric(table["age_approx"], errors="coerce").astype("float64")
    return ages.where(ages.between(0, _OLDEST))


def probabilities_of(
    logits: npt.NDArray[np.floating], log_odds: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Return the sigmoid of log-odds, strictly increasing: different logits never tie.

    The sigmoid in float64 equals 1 from log-odds of 37 on and repeats itself before; a submission
    would lose the order there. So a probability that is not above the one before it, in the order
    of the logits, becomes the next larger float64, and where that would pass 1 the steps go down
    from 1. Equal logits keep equal probabilities.

    Args:
        logits: (N,) finite, any floating dtype.
        log_odds: (N,), nowhere falling with the logit, such as what `Calibration.log_odds` gives;
            None for the logits themselves. Ties are those of `logits`, whatever rounding did.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: a logit is not finite.
    """
    if num_unusable := np.count_nonzero(~np.isfinite(logits)):
        raise ValueError(f"logits: expected finite numbers, found {num_unusable} NaN or infinite")
    _, first, places = np.unique(logits, return_index=True, return_inverse=True)
    rising = (logits if log_odds is None else log_odds)[first].astype(np.float64)
    # By logaddexp, which neither overflows nor loses the digits of a probability near 0.
    sigmoid = np.exp(-np.logaddexp(0.0, -rising))
    # The bits of a float64 of 0 or more, as an integer, count the representable numbers below it.
    steps = np.arange(len(rising))
    above = np.maximum.accumulate(sigmoid.view(np.int64) - steps) + steps
    one = np.float64(1.0).view(np.int64)
    probabilities: npt.NDArray[np.float64] = np.minimum(above, one - steps[::-1]).view(np.float64)
    return probabilities[places]


def prediction_table(
    records: pd.DataFrame,
    logits: npt.NDArray[np.floating],
    *,
    log_odds: npt.NDArray[np.float64] | None = None,
    fold: int | None = None,
) -> pd.DataFrame:
    """Return the prediction table of some records, in their order.

    Args:
        records: one row an image: `image_name` and, where known, the other columns of the table;
            a `patient_id` or `fold` of -1 is not known.
        logits: (N,) finite, of the same rows.
        log_odds: (N,), as in `probabilities_of`.
        fold: the fold that the model was not trained on; None leaves what `records` says.

    Returns:
        The columns of the module docstring; of the first six, NA where `records` has none.

    Raises:
        ValueError: the numbers of records and logits differ, or a logit is not finite.
    """
    if len(records) != len(logits):
        raise ValueError(f"logits: expected {len(records)}, one per record, found {len(logits)}")
    known = [name for name in (*REQUIRED_DTYPES, *OPTIONAL_DTYPES) if name in records]
    table: pd.DataFrame = records[known].reset_index(drop=True)
    table["logit"] = logits.astype(np.float64)
    table["probability"] = probabilities_of(logits, log_odds)
    if fold is not None:
        table["fold"] = fold
    order = [*REQUIRED_DTYPES, *(name for name in known if name in OPTIONAL_DTYPES)]
    table = _typed(table.reindex(columns=order))
    for name, unknown in (("patient_id", "-1"), ("fold", -1)):
        table[name] = table[name].mask(table[name] == unknown)
    return table


def write_predictions(table: pd.DataFrame, path: Path | str) -> None:
    """Write a prediction table, whole or not at all.

    Args:
        table: has the required columns; others stay as they are.
        path: the CSV, replaced when it is there.

    Raises:
        ValueError: a required column is missing, or a value does not fit its column.
        OSError: `path` cannot be written.
    """
    check_columns(table, list(REQUIRED_DTYPES), "prediction table")
    write_csv_atomically(_typed(table), path)


def read_predictions(path: Path | str) -> pd.DataFrame:
    """Return a prediction table exactly as it was written.

    Args:
        path: a CSV with the required columns.

    Returns:
        The columns of the file, of the dtypes above; NA where a field is empty.

    Raises:
        ValueError: a required column is missing, or a field is not of its column's type.
        OSError: `path` cannot be read.
    """
    table = read_csv(path, _DTYPES)
    check_columns(table, list(REQUIRED_DTYPES), str(path))
    return table


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    own = {name: dtype for name, dtype in _DTYPES.items() if name in table}
    typed: pd.DataFrame = table.astype(own)
    return typed
