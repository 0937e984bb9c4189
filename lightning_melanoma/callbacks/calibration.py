"""Fit a model's calibration to its predicted validation split, and judge it.

What a run says of its probabilities is said here, too: where no fitted line stands behind them.
"""

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.decisions.calibration import calibration_quality, cross_fitted
from lightning_melanoma.metrics import cluster_codes

if TYPE_CHECKING:
    from lightning_melanoma.tasks.classifier import MelanomaClassifier

_log = logging.getLogger(__name__)


def prior_correction(task: "MelanomaClassifier", *, image_size: int) -> Calibration:
    """Return the calibration of a task for which no line is fitted: prior-corrected logits."""
    hparams = task.hparams
    inexact = {
        "focal loss": hparams["focal_gamma"] > 0,
        "label smoothing": hparams["label_smoothing"] > 0,
        "mixed images": task.mixes_targets,
    }
    return Calibration(
        prior_shift=task.prior.shift,
        prevalence=task.prior.prevalence,
        image_size=image_size,
        tta=hparams["tta"],
        fault="calibration: the checkpoint has none (`fit` writes it into best.ckpt as it ends)",
        inexact=" and ".join(name for name, is_used in inexact.items() if is_used),
    )


def fit_to_validation(
    prior: Calibration, table: pd.DataFrame, logits: NDArray[np.float32]
) -> Calibration:
    """Return the calibration of the validation split, with a word in the log on what it is worth.

    Args:
        prior: of the task, without rows.
        table: (N,) rows of the split's table, with `target` and `patient`.
        logits: (N,) finite.
    """
    patients = cluster_codes(table["patient"].mask(table["patient"] == ""))
    calibration = prior.fitted(logits, table["target"].to_numpy(np.int64), patients)
    if calibration.is_fitted:
        _log.info("%s", _sentence(calibration))
        _log.info("%s", _verdict(prior, calibration))
    return calibration


def warn_of_doubts(calibration: Calibration, *, image_size: int, tta: int) -> None:
    """Say in the log why probabilities may not mean what they say, if there is a reason."""
    if not calibration.is_fitted:
        rest = f", which is not exact with {calibration.inexact}" if calibration.inexact else ""
        _log.warning(
            "%s; probabilities have the prior correction and no more%s.",
            calibration.fault,
            rest,
        )
    elif (calibration.image_size, calibration.tta) != (image_size, tta):
        _log.warning(
            "calibration: expected images of %d pixels and model.tta %d, on which it was fitted, "
            "found %d and %d; probabilities are calibrated for other logits.",
            calibration.image_size,
            calibration.tta,
            image_size,
            tta,
        )


def _sentence(calibration: Calibration) -> str:
    done = f"on top of the prior correction of {calibration.prior_shift:.2f}"
    if calibration.inexact:
        done = f"alone, since there is no exact correction for {calibration.inexact}"
    return (
        f"Calibration: offset {calibration.offset:.3f} and temperature "
        f"{calibration.temperature:.3f}, {done}, fitted on {len(calibration.targets)} validation "
        f"images ({calibration.targets.sum()} melanomas)"
    )


def _verdict(prior: Calibration, calibration: Calibration) -> str:
    logits, targets, patients = calibration.logits, calibration.targets, calibration.patients
    try:
        odds = cross_fitted(targets, logits, patients)
    except ValueError as error:
        return f"Calibration: not cross-fitted: {error}"
    before = calibration_quality(targets, prior.log_odds(logits))
    after = calibration_quality(targets, odds)
    num_patients = len(np.unique(patients))
    what = "patients" if num_patients < len(patients) else "images"
    changes = (
        f"{name} {old:.4f} to {new:.4f}"
        for name, old, new in zip(
            ("log loss", "calibration error", "slope"), before, after, strict=True
        )
    )
    return f"Calibration, cross-fitted over {num_patients} {what}: {', '.join(changes)}"
