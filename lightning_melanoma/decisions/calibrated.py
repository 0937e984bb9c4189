"""What a checkpoint knows of its calibration: the line, the rows behind it, their geometry.

`fit` writes it into ``best.ckpt`` as the entry ``calibration``, of plain numbers and lists, which
``torch.load(weights_only=True)`` reads. `predict` takes probabilities from the line; what needs the
rows (intervals, thresholds, abstention) finds them in it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_melanoma.decisions.calibration import fit_calibration, to_prevalence
from lightning_melanoma.metrics.rows import FloatArray, IntArray

#: The entry of a checkpoint.
CHECKPOINT_KEY = "calibration"

# With fewer melanomas, or fewer benign images, the fitted line is further from the truth than the
# prior correction: its intercept alone has a standard error of 1 / sqrt(10), 0.3 in log-odds.
_MIN_ROWS_OF_A_CLASS = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """How a model's logits become probabilities, and the validation rows that say so.

    log-odds = offset + (logit - prior_shift) / temperature, which rises with the logit.

    Attributes:
        prior_shift: what class weights and oversampling added to every logit, undone first; 0 where
            the line does it alone, since the loss has no exact correction.
        prevalence: share of melanomas, in (0, 1), in the population that the log-odds are of: that
            of the rows, or of the training split where no line is fitted.
        image_size: pixels of a side of the images that the rows are of, squeezed to a square.
        tta: views that each row's logit is the mean of, as the task's setting of that name.
        offset: added to the log-odds; 0 where no line is fitted.
        temperature: above 0; 1 where no line is fitted.
        fault: why no line is fitted, one line; "" where one is.
        inexact: what the training has that no prior correction undoes, such as `focal loss`; ""
            where it is exact.
        logits: (N,) float32, as the network gave them, of the validation split of the checkpoint's
            epoch; nothing is undone in them.
        targets: (N,) int64 in {0, 1}, 1 for melanoma.
        patients: (N,) int64, the number of each row's patient; a row of no known patient has a
            number of its own.
    """

    prior_shift: float
    prevalence: float
    image_size: int
    tta: int
    offset: float = 0.0
    temperature: float = 1.0
    fault: str = "calibration: no line was fitted"
    inexact: str = ""
    logits: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    targets: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    patients: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def is_fitted(self) -> bool:
        """Tell whether the line is fitted; else the prior correction is all there is."""
        return not self.fault

    def log_odds(self, logits: npt.ArrayLike, *, prevalence: float | None = None) -> FloatArray:
        """Return the log-odds of melanoma behind logits.

        Args:
            logits: (N,) finite, of images of the same geometry.
            prevalence: share of melanomas in another population to be right for; None for the one
                that the line holds in.

        Returns:
            (N,) float64, nowhere falling with the logit.

        Raises:
            ValueError: `prevalence` is not between 0 and 1.
        """
        values = np.asarray(logits, dtype=np.float64)
        odds: FloatArray = self.offset + (values - self.prior_shift) / self.temperature
        if prevalence is None:
            return odds
        return to_prevalence(odds, source=self.prevalence, target=prevalence)

    def fitted(
        self, logits: npt.ArrayLike, targets: npt.ArrayLike, patients: npt.ArrayLike
    ) -> "Calibration":
        """Return what a calibration without rows becomes by them: the most likely line.

        Where there is none, or too few rows to tell, the prior correction stays and `fault` says
        why; the rows are kept either way.

        Args:
            logits: (N,) finite.
            targets: (N,) in {0, 1}.
            patients: (N,) numbers, as the attribute.
        """
        with_rows = replace(
            self,
            logits=np.asarray(logits, dtype=np.float32),
            targets=np.asarray(targets, dtype=np.int64),
            patients=np.asarray(patients, dtype=np.int64),
        )
        prior_shift = 0.0 if self.inexact else self.prior_shift
        try:
            with_rows._check_rows()
            line = fit_calibration(
                with_rows.targets, with_rows.logits.astype(np.float64) - prior_shift
            )
        except ValueError as error:
            # What is wrong with the rows is a result here, not an error of the user's.
            return replace(with_rows, fault=str(error))
        return replace(
            with_rows,
            prior_shift=prior_shift,
            offset=line.offset,
            temperature=line.temperature,
            prevalence=float(with_rows.targets.mean()),
            fault="",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as numbers, text and lists, for a checkpoint or JSON."""
        lists = {name: getattr(self, name).tolist() for name in ("logits", "targets", "patients")}
        return {**asdict(self), **lists}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Calibration":
        """Return what `to_dict` was made of: the same bits.

        Args:
            entry: of a checkpoint, by `CHECKPOINT_KEY`.
        """
        return cls(
            **{
                **entry,
                "logits": np.array(entry["logits"], np.float32),
                "targets": np.array(entry["targets"], np.int64),
                "patients": np.array(entry["patients"], np.int64),
            }
        )

    def _check_rows(self) -> None:
        fewest = int(min(self.targets.sum(), (1 - self.targets).sum())) if len(self.targets) else 0
        if fewest < _MIN_ROWS_OF_A_CLASS:
            raise ValueError(
                f"calibration: expected at least {_MIN_ROWS_OF_A_CLASS} melanomas and as many "
                f"benign images to fit a line, found {int(self.targets.sum())} melanomas of "
                f"{len(self.targets)} images"
            )
