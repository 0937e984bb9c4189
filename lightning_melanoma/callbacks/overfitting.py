"""The overfitting check: since when validation log loss has risen while training's fell.

It reads the rows that a run keeps of its epochs and judges the unweighted log loss, which class
weights do not move. It says nothing about AUROC, which often goes on rising while the probabilities
get worse.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

History = Sequence[Mapping[str, float]]

# So many epochs have to follow the best one, and each of the last so many to lie above it: one or
# two bad epochs are chance.
NUM_EPOCHS_AFTER = 3
# At this multiple of a mean step 20 epochs of mere noise are called a rise 1 time in 100.
MIN_RISE_IN_STEPS = 3.5
# As a share of the lowest loss: a smooth curve has next to no noise, and less is no finding.
MIN_RELATIVE_RISE = 0.01


def rising_since(history: History) -> int | None:
    """Return the first epoch of the rise of validation log loss, or None when there is none.

    The rise begins after the epoch of the lowest validation log loss. It counts when three epochs
    or more followed, each of the last three lies above the lowest by 1 % and beyond noise, and
    training log loss is below what it was then. Noise is what goes against the trend: the mean of
    the steps up before the lowest epoch and down after it, of which a smooth curve has none.

    Args:
        history: one row an epoch with `epoch`, `val_log_loss` and `train_log_loss` (nats); epochs
            without a finite validation log loss are passed over.

    Returns:
        The epoch after the best one, in the numbering of `history`.
    """
    rows = _judged(history)
    if not rows:
        return None
    validation = np.array([row["val_log_loss"] for row in rows])
    best = int(validation.argmin())
    if len(rows) - 1 - best < NUM_EPOCHS_AFTER:
        return None
    lowest, latest = validation[best], validation[-NUM_EPOCHS_AFTER:]
    margin = max(MIN_RISE_IN_STEPS * _contrary_step(validation, best), MIN_RELATIVE_RISE * lowest)
    training_then = rows[best].get("train_log_loss", math.nan)
    training_now = rows[-1].get("train_log_loss", math.nan)
    # False when training log loss is not known: NaN compares false.
    if latest.min() > lowest + margin and training_now < training_then:
        return int(rows[best + 1]["epoch"])
    return None


def overfitting_sentence(history: History) -> str | None:
    """Return the finding of `rising_since` in one sentence with the numbers, or None.

    Args:
        history: as in `rising_since`.
    """
    since = rising_since(history)
    if since is None:
        return None
    rows = _judged(history)
    then, now = min(rows, key=lambda row: row["val_log_loss"]), rows[-1]
    return (
        f"overfitting: validation log loss has risen since epoch {since}, from "
        f"{then['val_log_loss']:.4f} to {now['val_log_loss']:.4f}, while training's fell from "
        f"{then['train_log_loss']:.4f} to {now['train_log_loss']:.4f}"
    )


def _judged(history: History) -> History:
    return [row for row in history if math.isfinite(row.get("val_log_loss", math.nan))]


def _contrary_step(values: npt.NDArray[np.float64], best: int) -> float:
    """Return the mean size of the steps up before the lowest value and down after it, 0 without."""
    steps = np.diff(values)
    steps[best:] *= -1
    contrary = steps[steps > 0]
    return float(contrary.mean()) if len(contrary) else 0.0
