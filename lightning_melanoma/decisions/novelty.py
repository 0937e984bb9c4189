"""A gate for images that are unlike all that a model was calibrated on: photographs, blank frames.

An image is embedded in parts, such as what the head of the network sees and how the pixels are
distributed: a network that was taught to tell lesions apart may have forgotten what tells a lesion
from a cat. Each part is described by one Gaussian of standardised features, whose covariance is
that of probabilistic principal components: free along the leading ones, the same along all others
(Tipping and Bishop, "Probabilistic Principal Component Analysis", 1999, equations 7 and 8), which
is what a few hundred images can settle in a thousand dimensions. The distance is Mahalanobis' (for
networks: Lee et al., NeurIPS 2018). An image is as novel as its rarest distance is among images
that the Gaussians were not fitted on; each part has its share of the false alarms. Melanoma and
benign lesions are one population here: the gate asks whether a lesion is in view, not which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_melanoma.metrics.rows import FloatArray, IntArray

#: The entry of a checkpoint.
CHECKPOINT_KEY = "novelty"
#: Share of lesions that the gate may take for something else.
FALSE_ALARMS = 0.05

_Floats = npt.NDArray[np.float32]

# Of 2,048 float32 features these take 256 KiB.
_MAX_COMPONENTS = 32
# A component that fewer images settle would fit their noise.
_IMAGES_A_COMPONENT = 8
_NUM_FOLDS = 5
# A distance beyond all of 19 is as rare as the share of false alarms, beyond fewer never.
_MIN_IMAGES = 40
# Features that never move have no deviation, and would be divided by it: of the mean deviation.
_LEAST_DEVIATION = 1e-3
# Likewise for directions, of the mean variance.
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Gaussian:
    """One part of the embeddings of lesions.

    Attributes:
        center: (F,) float32, their mean.
        deviation: (F,) float32, that features are divided by.
        components: (K, F) float32, orthonormal: the leading principal components.
        variances: (K + 1,) float32, along each of them, and the mean along any other direction.
    """

    center: _Floats
    deviation: _Floats
    components: _Floats
    variances: _Floats

    def distances(self, embeddings: npt.ArrayLike) -> FloatArray:
        """Return (N,) squared Mahalanobis distances of (N, F) embeddings."""
        values = np.asarray(embeddings, dtype=np.float64)
        moved = (values - self.center) / self.deviation
        along = moved @ self.components.T
        rest = np.maximum((moved**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squares = np.column_stack([along**2, rest]) / self.variances
        found: FloatArray = squares.sum(axis=1)
        return found


@dataclass(frozen=True, eq=False)
class NoveltyGate:
    """What is known of the embeddings of lesions.

    Attributes:
        gaussians: one a part.
        distances: (N, P) float32, in every part, of images to the Gaussian of others.
        weights: (P,) float32 above 0, in proportion to which the parts may raise false alarms.
    """

    gaussians: tuple[Gaussian, ...]
    distances: _Floats
    weights: _Floats

    def rarity(self, parts: Sequence[npt.ArrayLike]) -> FloatArray:
        """Return how rare an image as far away is among lesions.

        Args:
            parts: (M, F) each, in the order that the gate was fitted in.

        Returns:
            (M,) float64 in (0, 1], a p-value: of lesions like those of the calibration set, a share
            of about p is at p or below. NaN embeddings are the rarest.
        """
        shares, own = [], []
        for it, part, known, weight in zip(
            self.gaussians, parts, self.distances.T, self.weights, strict=True
        ):
            shares.append(_share_beyond(known, it.distances(part)) / weight)
            own.append(_share_beyond(known, known) / weight)
        least = np.sort(np.min(own, axis=0))
        num_rarer = np.searchsorted(least, np.min(shares, axis=0), "right")
        rare: FloatArray = (num_rarer + 1) / (len(least) + 1)
        return rare

    def to_entry(self) -> dict[str, Any]:
        """Return the arrays in lists and tables, for a checkpoint."""
        return {**vars(self), "gaussians": [vars(part) for part in self.gaussians]}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "NoveltyGate":
        """Return what `to_entry` was made of, from arrays or CPU tensors."""
        gaussians = (
            Gaussian(**{field.name: np.asarray(part[field.name]) for field in fields(Gaussian)})
            for part in entry["gaussians"]
        )
        return cls(tuple(gaussians), np.asarray(entry["distances"]), np.asarray(entry["weights"]))


def fit_gate(
    parts: Sequence[npt.ArrayLike],
    patients: IntArray,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> NoveltyGate:
    """Return the gate of a set of lesions.

    The distance of each image is that to the Gaussian of the other folds' patients; the gate's own
    Gaussian is that of all.

    Args:
        parts: (N, F) each, the embeddings of the images.
        patients: (N,) the number of each image's patient.
        weights: one a part, above 0, in proportion to which it may raise false alarms; None for the
            same of all.
        seed: of the folds.

    Raises:
        ValueError: there are too few images or patients, or an embedding is not finite.
    """
    values = [np.asarray(part, dtype=np.float64) for part in parts]
    num_images, num_patients = len(patients), len(np.unique(patients))
    if num_images < _MIN_IMAGES or num_patients < _NUM_FOLDS:
        raise ValueError(
            f"novelty: expected at least {_MIN_IMAGES} images of {_NUM_FOLDS} patients to know "
            f"lesions by, found {num_images} of {num_patients}"
        )
    if not all(np.isfinite(part).all() for part in values):
        raise ValueError("novelty: expected finite embeddings, found NaN or infinite ones")
    folds = _folds(patients, seed)
    # As many for the Gaussian of all as for those of the folds, whose distances it is compared to.
    num_fitted = num_images - np.bincount(folds).max()
    most = min(_MAX_COMPONENTS, int(num_fitted) // _IMAGES_A_COMPONENT)
    distances = np.empty((num_images, len(values)), np.float32)
    for column, part in enumerate(values):
        for fold in range(_NUM_FOLDS):
            inside = folds == fold
            distances[inside, column] = _fit(part[~inside], most).distances(part[inside])
    shares = np.ones(len(values)) if weights is None else np.array(weights)
    gaussians = tuple(_fit(part, most) for part in values)
    return NoveltyGate(gaussians, distances, shares.astype(np.float32))


def _share_beyond(known: npt.ArrayLike, distances: npt.ArrayLike) -> FloatArray:
    """Return for each distance the share of known ones that are as far, itself among them."""
    rising = np.sort(np.asarray(known, dtype=np.float64))
    # NaN is sorted last, as if it were infinite.
    num_nearer = np.searchsorted(rising, np.asarray(distances, dtype=np.float64), "left")
    shares: FloatArray = (len(rising) - num_nearer + 1) / (len(rising) + 1)
    return shares


def _folds(patients: IntArray, seed: int) -> IntArray:
    """Return (N,) the fold of each image: the patients shuffled and dealt out."""
    known, codes = np.unique(patients, return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(len(known)) % _NUM_FOLDS
    folds: IntArray = dealt[codes]
    return folds


def _fit(values: FloatArray, max_components: int) -> Gaussian:
    num_images, num_features = values.shape
    center, deviation = values.mean(axis=0), values.std(axis=0)
    smallest = _LEAST_DEVIATION * deviation.mean() + np.finfo(np.float32).tiny
    deviation = np.maximum(deviation, smallest)
    moved = (values - center) / deviation
    # Rising eigenvalues; the eigenvectors are columns.
    variances, directions = np.linalg.eigh(moved.T @ moved / num_images)
    num_components = min(max_components, num_features - 1)
    split = num_features - num_components
    smallest = _LEAST_VARIANCE * variances.mean() + np.finfo(np.float32).tiny
    kept = np.maximum([*variances[split:], variances[:split].mean()], smallest)
    arrays = (center, deviation, directions[:, split:].T, kept)
    return Gaussian(*(array.astype(np.float32) for array in arrays))
