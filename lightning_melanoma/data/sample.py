"""The fields of the ISIC records, and the batch that reaches the device."""

from typing import NamedTuple

from torch import Tensor

#: Fields that describe a record beside image, name, patient and target; any may be absent.
METADATA = (
    "sex",
    "age_approx",
    "anatom_site_general_challenge",
    "diagnosis",
    "source",
    "width",
    "height",
)


class Batch(NamedTuple):
    """Rows of one step, always of the same shape.

    Attributes:
        images: (B, 3, H, W) uint8 in channels-last memory, RGB.
        targets: (B,) float32, 1 for melanoma, 0 else and where it is unknown.
        valid: (B,) bool, False for rows that only fill up the last batch.
        draws: (B, NUM_DRAWS) float32 in [0, 1), the random numbers of each record in this epoch.
        rows: (B,) int64, the row of each record in the split's table.
        ages: (B,) float32, years of each patient, below 0 where unknown.
    """

    images: Tensor
    targets: Tensor
    valid: Tensor
    draws: Tensor
    rows: Tensor
    ages: Tensor
