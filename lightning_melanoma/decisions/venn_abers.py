"""Inductive Venn-Abers intervals: how far a calibration set settles a probability.

A new image is added to the calibration set once as benign and once as melanoma; the isotonic
regression of each set says one probability for it, p0 and p1. Whatever the scores' distribution,
one of the two is calibrated if images are exchangeable (Vovk, Petej and Fedorova, "Large-scale
probabilistic predictors with and without guarantees of validity", NIPS 2015). They are far apart
where calibration images are few. All regressions are precomputed, in exact arithmetic, as slopes of
one convex minorant (algorithms 1 and 2 there), so a score costs one search.
"""

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.rows import FloatArray, checked

# Cumulated (images, melanomas).
_Point = tuple[int, int]


class VennAbers:
    """The intervals that one calibration set gives.

    Args:
        targets: (N,) in {0, 1}, 1 for melanoma, N above 0.
        scores: (N,) finite, higher for melanoma, on any scale: only their order counts.

    Raises:
        ValueError: there is no row, or a row is not as it must be.
    """

    def __init__(self, targets: npt.ArrayLike, scores: npt.ArrayLike) -> None:
        is_melanoma, values = checked(targets, scores, "scores")
        if not len(values):
            raise ValueError("scores: expected a calibration set, found no row")
        self._scores, groups = np.unique(values, return_inverse=True)
        images = np.bincount(groups)
        melanomas = np.bincount(groups, is_melanoma).astype(np.int64)
        # Above all scores, an added melanoma stands alone: 1. An added benign image is an added
        # melanoma where order and classes are turned around.
        self._upper = np.array([*_added_melanoma(images, melanomas), 1.0])
        turned = _added_melanoma(images[::-1], (images - melanomas)[::-1])
        self._lower = np.array([0.0, *(1 - np.array(turned)[::-1])])

    def interval(self, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return p0 and p1 of new scores.

        Args:
            scores: (M,) finite, on the scale of the calibration set.

        Returns:
            Two (M,) float64 in [0, 1], the first nowhere above the second.
        """
        values = np.asarray(scores, dtype=np.float64)
        lower = self._lower[np.searchsorted(self._scores, values, "right")]
        upper = self._upper[np.searchsorted(self._scores, values, "left")]
        return lower, upper


def _added_melanoma(images: npt.NDArray[np.int64], melanomas: npt.NDArray[np.int64]) -> list[float]:
    """Return what isotonic regression says of a melanoma added to each of some groups.

    Args:
        images: (K,) how many have each distinct score, by rising score.
        melanomas: (K,) how many of them are melanomas.

    Returns:
        K numbers in [0, 1].
    """
    points = [(0, 0), *zip(np.cumsum(images).tolist(), np.cumsum(melanomas).tolist(), strict=True)]
    # The corners of the minorant from the added melanoma on, the leftmost last. That image is put
    # ahead of its group, and what is left of it moved by it, so that the rest never changes.
    corners: list[_Point] = []
    for point in [*reversed(points), (-1, -1)]:
        _push(corners, point)
    found = []
    for total, positive in points[1:]:
        start, end = corners[-1], corners[-2]
        found.append((end[1] - start[1]) / (end[0] - start[0]))
        added = (total - 1, positive - 1)
        if _is_below(added, start, end):
            corners.pop()
            _push(corners, added)
    return found


def _push(corners: list[_Point], point: _Point) -> None:
    """Put a point on the left of a minorant, without the corners that it takes away."""
    while len(corners) > 1 and not _is_below(corners[-1], point, corners[-2]):
        corners.pop()
    corners.append(point)


def _is_below(point: _Point, start: _Point, end: _Point) -> bool:
    """Tell whether a point lies below the line from `start` to `end`, which is right of it."""
    rise = (end[1] - start[1]) * (point[0] - start[0])
    return (point[1] - start[1]) * (end[0] - start[0]) < rise
