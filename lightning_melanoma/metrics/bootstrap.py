"""The bootstrap over patients: every statistic of thousands of draws by matrix arithmetic.

A draw takes as many patients as there are, with replacement, each with all of their images
(Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 8). It is a row of weights,
how often each patient was taken, so a statistic is written once for a block of such rows. Images of
a patient are alike, and draws of images would make every interval too narrow.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from lightning_melanoma.metrics.rows import FloatArray, IntArray

Key = TypeVar("Key", bound=Hashable)

NUM_DRAWS = 2000
#: From weights (B, C) of C clusters in B draws to the values of each metric, (B,) each.
Statistic = Callable[[FloatArray], dict[str, FloatArray]]
# Weights of rows, or of places, that are in memory at a time: 32 MiB of float64 an array.
_BLOCK_SIZE = 1 << 22


def cluster_codes(names: npt.ArrayLike) -> IntArray:
    """Return the number of each row's cluster; a row without a name is a cluster of its own.

    Args:
        names: (N,) of patients; None, NA or NaN where unknown.

    Returns:
        (N,) int64 in [0, C), every number there.
    """
    codes = pd.factorize(np.asarray(names, dtype=object))[0].astype(np.int64)
    unknown = codes < 0
    codes[unknown] = codes.max(initial=-1) + 1 + np.arange(np.count_nonzero(unknown))
    return codes


def bootstrap(
    statistics: Mapping[Key, Statistic],
    num_clusters: int,
    *,
    num_rows: int,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[Key, dict[str, FloatArray]]:
    """Return the values that statistics take in bootstrap draws, the same draws for all of them.

    Args:
        statistics: by any key.
        num_clusters: C, 1 or more.
        num_rows: of the largest statistic; sets how many draws are worked on at a time.
        num_draws: D.
        seed: of the draws, which do not depend on the size of a block.

    Returns:
        For each statistic its metrics by name, (D,) float64 each.
    """
    generator = np.random.default_rng(seed)
    block_size = max(1, _BLOCK_SIZE // max(num_rows, num_clusters))
    blocks: dict[Key, list[dict[str, FloatArray]]] = {name: [] for name in statistics}
    for start in range(0, num_draws, block_size):
        weights = _draw_weights(generator, min(block_size, num_draws - start), num_clusters)
        for name, statistic in statistics.items():
            blocks[name].append(statistic(weights))
    return {
        name: {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}
        for name, parts in blocks.items()
    }


def _draw_weights(generator: np.random.Generator, num_draws: int, num_clusters: int) -> FloatArray:
    taken = generator.integers(0, num_clusters, (num_draws, num_clusters))
    taken += np.arange(num_draws)[:, None] * num_clusters
    counts = np.bincount(taken.ravel(), minlength=num_draws * num_clusters)
    return counts.reshape(num_draws, num_clusters).astype(np.float64)
