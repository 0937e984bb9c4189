"""Smooth random fields and blurs on the pixel grid: what `skin` and `lesions` draw with.

Lengths are in half frames: an image spans [-1, 1] both ways, so what is drawn does not depend on
its size. Only element-wise numpy, no matrix products: threads that each call a threaded BLAS wait
for each other (20 times as long, measured with OpenBLAS on two cores).
"""

import functools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@functools.lru_cache(maxsize=8)
def grid(size: int) -> tuple[Array, Array]:
    """Return x and y of the pixel centres, each (size, size) float32 in (-1, 1)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    # Views that cannot be written to, as all callers share them.
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def smooth_noise(rng: np.random.Generator, cells: int, size: int, *, count: int) -> Array:
    """Return (count, size, size) float32 smooth fields of mean 0 and variance 1.

    Normal numbers on a lattice, interpolated by cubic B-splines.

    Args:
        rng: source of the lattice; what it gives does not depend on `size`.
        cells: of the lattice along each side; a blob is about one cell wide.
        size: pixels of a side.
        count: number of fields.
    """
    fields = rng.standard_normal((count, cells + 3, cells + 3), np.float32)
    first, weights = _spline(cells, size)
    # Once along each axis.
    for _ in range(2):
        fields = np.ascontiguousarray(fields.transpose(0, 2, 1))
        taps = (fields[:, first + tap] for tap in range(4))
        fields = _weighted_sum(taps, weights[..., None])
    return fields


def smoothstep(values: Array, low: float, high: float) -> Array:
    """Return `values` mapped smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def blurred(image: Array, deviation: float) -> Array:
    """Return an image blurred by a Gaussian, its border repeated outwards.

    Args:
        image: (C, size, size) float32.
        deviation: standard deviation, half frames.
    """
    size = image.shape[-1]
    pixels = deviation * size / 2
    # 3 standard deviations hold all of a Gaussian but 0.3 %.
    reach = math.ceil(3 * pixels)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / pixels) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    rows = _weighted_sum((padded[:, i : i + size] for i in range(len(weights))), weights)
    return _weighted_sum((rows[:, :, i : i + size] for i in range(len(weights))), weights)


def _weighted_sum(terms: Iterable[Array], weights: Array) -> Array:
    products = (weight * term for term, weight in zip(terms, weights, strict=True))
    total: Array = next(products)
    for product in products:
        # In place: allocating is what takes the time here.
        total += product
    return total


@functools.lru_cache(maxsize=64)
def _spline(cells: int, size: int) -> tuple[NDArray[np.int64], Array]:
    # The first of the 4 knots about each pixel, and their weights, (4, size).
    place = (np.arange(size) + 0.5) * cells / size
    t = place % 1
    near, far = t**3 / 6, (1 - t) ** 3 / 6
    weights = np.stack([far, 2 / 3 - t**2 + t**3 / 2, np.zeros(size), near])
    weights[2] = 1 - weights.sum(axis=0)
    # Unit variance of the interpolated noise, on average over the pixels.
    weights /= np.sqrt(np.square(weights).sum(axis=0).mean())
    return place.astype(int), weights.astype(np.float32)
