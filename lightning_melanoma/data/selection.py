"""Which records train, validate and test: the splits that the data settings name."""

from dataclasses import dataclass
from typing import Literal

from lightning_melanoma.data import splits
from lightning_melanoma.data.exclusion import Exclusion
from lightning_melanoma.data.synthetic import demo_data
from lightning_melanoma.data.table import MustKnow, OnCorrupt, Split, read_split, require_targets
from lightning_melanoma.records.index import OnImage
from lightning_melanoma.records.storage import cache_dir

#: Folds when none are asked for; the embedded demo data has its own number.
_NUM_FOLDS, _DEMO_NUM_FOLDS = 5, 4

_Setting = Literal["train", "val", "test", "extra_train"]
_Paths = str | list[str] | None

# Of each setting's records: the CSV is that of the training records.
_MUST_KNOW: dict[_Setting, MustKnow] = {
    "train": "some",
    "extra_train": "patients",
    "val": "patients",
    "test": "nothing",
}


@dataclass(frozen=True)
class Selection:
    """Settings of `MelanomaDataModule` by the same names, where they are explained.

    Raises:
        ValueError: `fold` is none of the folds.
    """

    train: _Paths
    val: _Paths
    test: _Paths
    extra_train: _Paths
    metadata: str | None
    split: splits.FoldRule | None
    num_folds: int | None
    fold: int
    allow_patient_overlap: bool
    exclude: str | list[str] | None
    on_corrupt: OnCorrupt

    def __post_init__(self) -> None:
        splits.check_fold(self.fold, self._num_folds)

    @property
    def is_demo(self) -> bool:
        """Whether nothing is named, so that the embedded demo data is meant."""
        return self.train is None and self.val is None and self.test is None

    @property
    def has_test(self) -> bool:
        """Whether there is anything to predict."""
        return self.is_demo or self.test is not None

    @property
    def _num_folds(self) -> int:
        return self.num_folds or (_DEMO_NUM_FOLDS if self.is_demo else _NUM_FOLDS)

    def read_training(self, on_image: OnImage | None = None) -> tuple[Split, Split]:
        """Return the splits for training and validation, checked against each other.

        Args:
            on_image: as in `index_shards`.

        Raises:
            FileNotFoundError: no shard matches.
            ValueError: the records are not fit for it; the message says why.
        """
        exclusion = Exclusion(self.exclude)
        train = self._read("train", exclusion, on_image)
        require_targets(train, "data.train")
        if self.val is not None:
            val = self._read("val", exclusion, on_image)
            require_targets(val, "data.val")
        else:
            known = not self.is_demo and (train.table["patient"] != "").any()
            usual: splits.FoldRule = "patients" if known else "shards"
            by = self.split or usual
            train.table["fold"] = splits.assign_folds(train, by, num_folds=self._num_folds)
            train, val = splits.hold_out(train, self.fold)
        splits.check_classes(train, val)
        splits.check_patients(train)
        if not self.allow_patient_overlap:
            splits.check_overlap(train, val, splits_itself=self.val is None)
        if self.extra_train is not None:
            extra = self._read("extra_train", exclusion, on_image)
            require_targets(extra, "data.extra_train")
            if not self.allow_patient_overlap:
                splits.check_extra(extra, val)
            train = splits.add_extra(train, extra)
        where = "in neither the training nor the validation records"
        exclusion.report("data.exclude", unknown=where)
        return train, val

    def read_test(self, *, needs_targets: bool) -> Split:
        """Return the split to predict.

        Args:
            needs_targets: as for judging predictions.

        Raises:
            FileNotFoundError: no shard matches.
            ValueError: nothing is named, or the records are not fit for it.
        """
        if not self.has_test:
            raise ValueError(
                "data.test: expected shards to predict, found none; give --data.test PATH"
            )
        test = self._read("test")
        if needs_targets:
            require_targets(test, "data.test")
        splits.check_names(test, "data.test")
        return test

    def _read(
        self,
        setting: _Setting,
        exclusion: Exclusion | None = None,
        on_image: OnImage | None = None,
    ) -> Split:
        paths: _Paths = getattr(self, setting)
        if self.is_demo and setting != "extra_train":
            paths = demo_data(cache_dir()).as_posix()
        if not paths:
            raise ValueError(
                f"data.{setting}: expected shards, found none; give --data.{setting} PATH "
                "(with no data named at all, the embedded demo data is used)"
            )
        return read_split(
            paths,
            prefix=setting.removeprefix("extra_"),
            metadata=self.metadata,
            on_corrupt=self.on_corrupt,
            exclusion=exclusion,
            must_know=_MUST_KNOW[setting],
            on_image=on_image,
        )
