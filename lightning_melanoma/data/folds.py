"""Folds: which records are held out for validation. Pure numpy.

`patient_folds` keeps every patient in one fold and spreads the strata (target and source) evenly;
`shard_folds` follows the shards, as Kaggle's competitors did.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def patient_folds(
    patients: Sequence[str], strata: Sequence[str], *, num_folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each record, such that no patient is in two folds.

    Patients are taken from the one that is hardest to place (the most uneven over the strata) to
    the easiest, each into the fold that it leaves most even: the greedy rule of scikit-learn's
    StratifiedGroupKFold.

    Args:
        patients: (N,) who each record is of; "" is unknown, and equal to nobody.
        strata: (N,) the class that is to be spread evenly, e.g. target and source joined.
        num_folds: at least 2.
        seed: decides between patients that are alike.

    Returns:
        (N,) int64 in [0, num_folds).
    """
    names, groups = np.unique(
        [patient or f"\0{row}" for row, patient in enumerate(patients)], return_inverse=True
    )
    classes, stratum = np.unique(np.asarray(strata), return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (groups, stratum), 1)
    total = counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].std(axis=1), kind="stable")]
    filled = np.zeros((num_folds, len(classes)))
    sizes = np.zeros(num_folds)
    fold_of_group = np.empty(len(names), np.int64)
    for group in order:
        # Unevenness after placing the patient in each fold, for all folds at once: only row k
        # changes.
        share = filled / total
        moved = (filled + counts[group]) / total
        mean = share.mean(axis=0)
        square = (share**2).mean(axis=0)
        change = (moved - share) / num_folds
        variance = square + (moved**2 - share**2) / num_folds - (mean + change) ** 2
        unevenness = np.sqrt(np.clip(variance, 0, None)).mean(axis=1)
        best = np.lexsort((sizes, unevenness.round(12)))[0]
        filled[best] += counts[group]
        sizes[best] += counts[group].sum()
        fold_of_group[group] = best
    return fold_of_group[groups]


def shard_folds(shard_sources: Sequence[str], *, num_folds: int) -> NDArray[np.int64]:
    """Return (S,) int64, the fold of each shard: its number in its source modulo `num_folds`."""
    seen: dict[str, int] = {}
    folds = []
    for source in shard_sources:
        folds.append(seen.get(source, 0) % num_folds)
        seen[source] = seen.get(source, 0) + 1
    return np.array(folds, np.int64)
