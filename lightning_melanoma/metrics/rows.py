"""What all metrics do to their rows first: check them, and count wins of sorted scores."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def checked(
    targets: npt.ArrayLike, values: npt.ArrayLike, name: str
) -> tuple[BoolArray, FloatArray]:
    """Return which rows are positive, and their values as float64.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a value is not finite.
    """
    is_positive, numbers = binary(targets, "targets"), np.asarray(values, dtype=np.float64)
    if numbers.shape != is_positive.shape:
        raise ValueError(
            f"{name}: expected shape {is_positive.shape}, one per target, found {numbers.shape}"
        )
    if num_unusable := np.count_nonzero(~np.isfinite(numbers)):
        raise ValueError(f"{name}: expected finite numbers, found {num_unusable} NaN or infinite")
    return is_positive, numbers


def binary(values: npt.ArrayLike, name: str) -> BoolArray:
    """Return which values are 1.

    Raises:
        ValueError: there is more than one axis, or a value that is neither 0 nor 1.
    """
    numbers: npt.NDArray[Any] = np.asarray(values)
    if numbers.ndim != 1:
        raise ValueError(f"{name}: expected one axis of rows, found shape {numbers.shape}")
    is_one: BoolArray = numbers == 1
    others = numbers[~is_one & (numbers != 0)]
    if len(others):
        raise ValueError(f"{name}: expected 0 or 1, found {others[0]} ({len(others)} rows in all)")
    return is_one


def doubled_wins(rising: FloatArray, others: FloatArray) -> IntArray:
    """Return for each of `rising` twice the number of sorted `others` below it; a tie is one."""
    wins = np.searchsorted(others, rising, "left") + np.searchsorted(others, rising, "right")
    return wins.astype(np.int64)


def share(flags: BoolArray) -> float:
    """Return the share that is True, NaN without a row."""
    return float(flags.mean()) if len(flags) else math.nan
