"""Which splits there are, how validation is held out of training, and what both must promise."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_melanoma.data.folds import patient_folds, shard_folds
from lightning_melanoma.data.table import Split

#: The parts of the data, by the names that tables and loaders go by.
SplitName = Literal["train", "val", "test"]
#: What folds keep whole.
FoldRule = Literal["patients", "shards"]

# Ids that an error names before it says "and so on".
_NAMED_IDS = 3

_log = logging.getLogger(__name__)


def splits_of_stage(stage: str, predicted: Sequence[SplitName]) -> Sequence[SplitName]:
    """Return the splits that a stage runs over.

    Args:
        stage: `fit`, `validate`, `test` or `predict`.
        predicted: those of `predict`.
    """
    stages: dict[str, Sequence[SplitName]] = {
        "fit": ("train", "val"),
        "validate": ("val",),
        "test": ("test",),
        "predict": predicted,
    }
    return stages[stage]


def assign_folds(split: Split, by: FoldRule, *, num_folds: int) -> NDArray[np.int64]:
    """Return (N,) int64, the fold of each record, in [0, num_folds).

    Args:
        split: all records that training and validation are made of.
        by: `patients` keeps patients whole and spreads target and source evenly; `shards` keeps
            shards whole.
        num_folds: at least 2.
    """
    table = split.table
    if by == "shards":
        folds = shard_folds([shard.data_set for shard in split.shards], num_folds=num_folds)
        return np.take(folds, table["shard"].to_numpy(np.int64))
    strata = table["target"].astype(str) + table["source"]
    # The folds stay the same whatever the run's seed, so that runs can be compared.
    return patient_folds(list(table["patient"]), list(strata), num_folds=num_folds, seed=0)


def hold_out(split: Split, fold: int) -> tuple[Split, Split]:
    """Return the records outside of a fold, and those in it.

    Raises:
        ValueError: all or none are in it.
    """
    held_out = split.table["fold"] == fold
    if held_out.all() or not held_out.any():
        raise ValueError(
            f"data.fold: expected records in fold {fold} and in others, found {held_out.sum()} of "
            f"{len(held_out)} in it; {len(split.shards)} shards are too few: give "
            "--data.split patients, fewer --data.num_folds, or validation shards by --data.val"
        )
    train = split._replace(table=split.table[~held_out].reset_index(drop=True))
    # What was left out at indexing is nobody's in particular: it is reported once, with training.
    return train, Split(split.shards, split.table[held_out].reset_index(drop=True), [])


def check_test_shards(test: Split, train: Split) -> None:
    """Check that no shard is both trained on and predicted.

    Raises:
        ValueError: one is.
    """
    trained = {train.shards[number].url for number in train.table["shard"].unique()}
    shared = [shard.url for shard in test.shards if shard.url in trained]
    if shared:
        raise ValueError(
            f"data.test: expected shards of its own, found {len(shared)} of {len(test.shards)} "
            f"trained on as well, the first {shared[0]}; a folder without files named test* is "
            "taken whole: name the test shards, or give --predict_after_fit false"
        )


def add_extra(train: Split, extra: Split) -> Split:
    """Return the training split with the records of `data.extra_train` behind it.

    Its table tells them apart by the column ``is_extra``.
    """
    table = extra.table.assign(shard=extra.table["shard"] + len(train.shards))
    tables = [train.table.assign(is_extra=False), table.assign(is_extra=True)]
    return Split(
        [*train.shards, *extra.shards],
        pd.concat(tables, ignore_index=True),
        [*train.skipped, *extra.skipped],
    )


def check_classes(train: Split, val: Split) -> None:
    """Check that there is something to learn, and say when there is nothing to rank.

    Raises:
        ValueError: the training records are of one class.
    """
    counts = train.table["target"].value_counts()
    if len(counts) < 2:
        raise ValueError(
            f"data.train: expected both classes, found {len(train.table)} records of target "
            f"{int(counts.index[0])} only; name more shards"
        )
    if val.table["target"].nunique() < 2:
        _log.warning(
            "The validation split has one class only, so its AUROC is undefined; name more shards."
        )


def check_patients(train: Split) -> None:
    """Say when nothing tells which records are of one patient."""
    if not (train.table["patient"] != "").any():
        _log.warning(
            "The records name no patients, so a leak between training and validation cannot be "
            "ruled out; a CSV with `patient_id`, given as --data.metadata, would tell."
        )


def check_fold(fold: int, num_folds: int) -> None:
    """Check that a fold is one of several.

    Raises:
        ValueError: it is none of them, or there are fewer than two.
    """
    if fold >= num_folds or num_folds < 2:
        raise ValueError(
            f"data.fold: expected 0 to {num_folds - 1} with data.num_folds "
            f"{num_folds} (at least 2), found {fold}"
        )


def check_names(split: Split, what: str) -> None:
    """Check that each image is in a split once.

    Args:
        split: to be predicted.
        what: the setting that names it, for the error.

    Raises:
        ValueError: one is in it again; the message says which.
    """
    twice = split.table["image_name"].duplicated()
    if twice.any():
        raise ValueError(
            f"{what}: expected each image_name once, found {twice.sum()} again, the first "
            f"{split.table['image_name'][twice].iloc[0]}; name each shard once"
        )


def check_overlap(train: Split, val: Split, *, splits_itself: bool) -> None:
    """Check that no patient and no image is in both splits.

    Args:
        train: the training split.
        val: the validation split.
        splits_itself: whether validation is held out of the training shards, not named.

    Raises:
        ValueError: one is; the message names some, and the ways out.
    """
    shared = _shared(train, val)
    if shared:
        what, found = shared
        way = "" if splits_itself else "leave data.val out and "
        raise ValueError(
            f"data: expected no {what} in both training and validation, found {found}; "
            f"{way}give --data.split patients to hold out whole patients, or "
            "--data.allow_patient_overlap true to go on all the same"
        )


def check_extra(extra: Split, val: Split) -> None:
    """Check that no patient and no image of `data.extra_train` is validated on.

    Raises:
        ValueError: one is; the message names some.
    """
    shared = _shared(extra, val)
    if shared:
        what, found = shared
        raise ValueError(
            f"data.extra_train: expected no {what} that are validated on, found {found}; name "
            "shards without them, or give --data.allow_patient_overlap true to go on all the same"
        )


def _shared(train: Split, val: Split) -> tuple[str, str] | None:
    """Return what both splits have, and how many with the first ids; None where they are apart."""
    for column, what in (("patient", "patients"), ("image_name", "images")):
        ids = sorted(set(train.table[column]) & set(val.table[column]) - {""})
        if ids:
            named = ", ".join(ids[:_NAMED_IDS]) + (" and so on" if len(ids) > _NAMED_IDS else "")
            return what, f"{len(ids)}: {named}"
    return None
