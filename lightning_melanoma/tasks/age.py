"""What the patient's age adds to what is seen: a term of the log-odds beside the network's."""

import logging
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.sampling import own_records
from lightning_melanoma.data.splits import splits_of_stage
from lightning_melanoma.metrics.logistic import logistic_line
from lightning_melanoma.predictions import known_ages

#: Years at which the term is 0, about the mean of the ISIC sets: an unknown age counts as this.
MIDDLE_AGE = 50.0
# Years that the slope is for.
_DECADE = 10.0
# Decades from the middle at which a benign record and a melanoma each are added to those that the
# slope is fitted to: of a handful of records it stays moderate, and there always is one.
_ADDED = (-2.0, 2.0)

_log = logging.getLogger(__name__)


class AgeTerm(nn.Module):
    """Adds to the logit in proportion to age; nothing where that is unknown, and before `start`.

    Attributes:
        slope: () float32, what the log-odds rise by in ten years.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def start(self, table: pd.DataFrame) -> None:
        """Begin with the slope of a logistic regression on age alone.

        From 0 it would not get far: it moves by about the sum of the learning rates at most, and
        a network that knows its training images by heart leaves it little to explain.

        Args:
            table: of the training split. Its extra records do not count: where a set is older and
                has more melanomas, that is no effect of age. Nor do those without a known age.
        """
        table = own_records(table)
        ages = known_ages(table)
        is_known = ages.notna()
        decades = (ages[is_known].to_numpy() - MIDDLE_AGE) / _DECADE
        is_melanoma = (table["target"][is_known] == 1).to_numpy()
        _, slope = logistic_line(
            np.concatenate([is_melanoma, [False] * len(_ADDED), [True] * len(_ADDED)]),
            np.concatenate([decades, _ADDED, _ADDED]),
        )
        nn.init.constant_(self.slope, slope)

    def forward(self, ages: Tensor) -> Tensor:
        """Return the term, (B,) float32, of ages, (B,) float32, years, below 0 where unknown."""
        return self.slope * torch.where(ages >= 0, (ages - MIDDLE_AGE) / _DECADE, 0.0)

    def parameter_group(self) -> dict[str, Any]:
        """Return the optimizer's group of the slope: the base rate, and no decay."""
        return {"params": [self.slope], "weight_decay": 0.0, "name": "age_no_decay"}


def check_ages(data: MelanomaDataModule, stage: str) -> None:
    """Check that a model that uses the age is told it.

    Args:
        data: set up for the stage.
        stage: of the Trainer.

    Raises:
        ValueError: no record of the training split has one.
    """
    for split in splits_of_stage(stage, data.predict_splits):
        ages = known_ages(data.table(split))
        missing = int(ages.isna().sum())
        if split == "train" and missing == len(ages):
            raise ValueError(
                "model.use_age: expected an `age_approx` in the training records, found none in "
                f"{missing:,}; give data.metadata with such a column, or leave the age out"
            )
        if missing:
            _log.warning(
                "model.use_age: %d of %d %s records have no age, and count as of %g years",
                missing,
                len(ages),
                split,
                MIDDLE_AGE,
            )
