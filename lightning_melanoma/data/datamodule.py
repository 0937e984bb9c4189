"""The data module: shards to tables to folds to loaders."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from numpy.typing import NDArray

from lightning_melanoma.data.cache import CacheKind, CacheSettings, parse_size
from lightning_melanoma.data.dataset import MelanomaDataset
from lightning_melanoma.data.draws import run_seed
from lightning_melanoma.data.loader import MelanomaLoader
from lightning_melanoma.data.processes import first_process_first
from lightning_melanoma.data.sample import Batch
from lightning_melanoma.data.sampling import Sampling, class_counts
from lightning_melanoma.data.selection import Selection
from lightning_melanoma.data.skipped import SkippedRecords
from lightning_melanoma.data.split_caches import SplitCaches
from lightning_melanoma.data.splits import FoldRule, SplitName, check_test_shards, splits_of_stage
from lightning_melanoma.data.synthetic import demo_data
from lightning_melanoma.data.table import OnCorrupt, Split
from lightning_melanoma.records import storage
from lightning_melanoma.records.remote import log_repeated
from lightning_melanoma.records.storage import Shard


class MelanomaDataModule(pl.LightningDataModule):
    """Training, validation and test records from TFRecord shards.

    With neither `train` nor `test` named, it is the embedded demo data, made once in the cache
    folder.

    Args:
        train: shards to train on: a path, glob, folder or URL, or a list of them.
        val: shards to validate on; None holds fold `fold` of `num_folds` out of `train`.
        test: shards to predict; they need no target.
        extra_train: shards that are trained on besides, and never validated on.
        extra_rate: share of an epoch's images that come from them, in (0, 1); None for all of them,
            each once.
        positive_rate: share of melanomas in an epoch, in (0, 1), for which they are repeated; None
            for each once. Class weights and output bias are then those of what the epoch shows.
        metadata: a CSV in Kaggle's columns that is joined on `image_name`: names instead of codes,
            and the patient.
        split: `patients` holds out whole patients, stratified by target and source, whatever the
            shards; `shards` holds out whole shards (number modulo folds, by source). None:
            `patients` when the records tell them, else `shards`.
        num_folds: None for 5 (4 on the demo data).
        fold: which fold is held out, from 0.
        allow_patient_overlap: train although a patient stands in both training and validation.
        exclude: ids to leave out of training and validation, or a file of them (`audit --drop`).
        image_size: pixels of a side.
        batch_size: images a step, all devices together.
        num_workers: processes that read; 0 reads in threads of the main process.
        decode_threads: threads that decode; 0 for one a core.
        cache: keep decoded pixels of training and validation, in memory or on a disk.
        cache_size: most bytes that they may take, such as 8GB; None for what the machine has.
        cache_dir: folder of the cache on a disk; None for one in the user's cache folder.
        on_corrupt: `raise` stops at a record that cannot be read, `skip` leaves it out and says so.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        extra_train: str | list[str] | None = None,
        extra_rate: float | None = None,
        positive_rate: float | None = None,
        metadata: str | None = None,
        split: FoldRule | None = None,
        num_folds: int | None = None,
        fold: int = 0,
        allow_patient_overlap: bool = False,
        exclude: str | list[str] | None = None,
        image_size: int = 128,
        batch_size: int = 64,
        num_workers: int = 0,
        decode_threads: int = 0,
        cache: CacheKind = "none",
        cache_size: int | str | None = None,
        cache_dir: str | None = None,
        on_corrupt: OnCorrupt = "raise",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        _at_least(1, image_size=image_size, batch_size=batch_size)
        _at_least(0, num_workers=num_workers, decode_threads=decode_threads, fold=fold)
        self._selection = Selection(
            train=train,
            val=val,
            test=test,
            extra_train=extra_train,
            metadata=metadata,
            split=split,
            num_folds=num_folds,
            fold=fold,
            allow_patient_overlap=allow_patient_overlap,
            exclude=exclude,
            on_corrupt=on_corrupt,
        )
        #: The splits that `predict` runs over, in this order.
        self.predict_splits: Sequence[SplitName] = ("test",)
        #: Test shards are predicted when `fit` has ended: it reads their table at its start, too.
        self.predicts_after_fit = False
        self._splits: dict[str, Split] = {}
        self._loaders: dict[str, MelanomaLoader] = {}
        self._skipped = SkippedRecords()
        self._caches = SplitCaches(
            CacheSettings(cache, parse_size(cache_size), cache_dir),
            image_size=image_size,
            num_workers=num_workers,
        )

    def prepare_data(self) -> None:
        """Make the demo data if it is wanted, in one process a host."""
        if self._selection.is_demo:
            demo_data(storage.cache_dir())

    def setup(self, stage: str) -> None:
        """Read the tables that a stage needs: `fit`, `validate`, `test` or `predict`."""
        with first_process_first(self.trainer, self._shards):
            self._set_up(stage)

    def table(self, split: SplitName) -> pd.DataFrame:
        """Return the table of a split, a row a record, in the order of the records.

        Columns: ``image_name, patient_id, patient, target, fold`` and the metadata that there is,
        besides each record's place (``shard, record, offset, length``).
        """
        self._ensure(split)
        return self._splits[split].table

    def class_counts(self) -> tuple[int, int]:
        """Return how many (benign, melanoma) records the training split has, extra ones aside.

        They are the population whose prevalence counts.
        """
        return class_counts(self.table("train"))

    def shown_counts(self) -> tuple[int, int]:
        """Return how many (benign, melanoma) images an epoch of training shows."""
        return self._sampling().counts

    def images(self, split: SplitName, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Return the images of some rows of a table, (N, image_size, image_size, 3) uint8 RGB."""
        return self.loader(split).source.images.decode_all(rows)

    def sample_batch(self, count: int) -> Batch:
        """Return the first rows of a training epoch, at most `count`, apart from its batches."""
        return self.loader("train").source.first_rows(count)

    def loader(self, split: SplitName) -> MelanomaLoader:
        """Return the loader of a split: training shuffled, the rest in the order of the records."""
        self._ensure(split)
        if split not in self._loaders:
            hparams = self.hparams
            # Test shards are read once.
            cache = None if split == "test" else self._caches.take(split, self._splits[split])
            dataset = MelanomaDataset(
                self._splits[split].table,
                self._splits[split].shards,
                image_size=hparams["image_size"],
                batch_size=hparams["batch_size"],
                seed=run_seed(),
                shuffle=split == "train",
                rank=self.trainer.global_rank if self.trainer else 0,
                world_size=self.trainer.world_size if self.trainer else 1,
                decode_threads=hparams["decode_threads"],
                on_corrupt=hparams["on_corrupt"],
                sampling=self._sampling() if split == "train" else None,
                cache=cache,
            )
            self._loaders[split] = MelanomaLoader(
                dataset,
                num_workers=hparams["num_workers"],
                pin_memory=self.trainer is not None
                and self.trainer.strategy.root_device.type == "cuda",
            )
        return self._loaders[split]

    def train_dataloader(self) -> MelanomaLoader:
        """Return the training batches."""
        return self.loader("train")

    def val_dataloader(self) -> MelanomaLoader:
        """Return the validation batches."""
        return self.loader("val")

    def test_dataloader(self) -> MelanomaLoader:
        """Return the test batches; `setup` saw to it that they have targets."""
        return self.loader("test")

    def predict_dataloader(self) -> list[MelanomaLoader]:
        """Return the batches of each of `predict_splits`."""
        return [self.loader(split) for split in self.predict_splits]

    def has_test(self) -> bool:
        """Tell whether there is anything to predict."""
        return self._selection.has_test

    def teardown(self, stage: str) -> None:
        """Report the records that were left out, once each, and let the stage's loaders go."""
        for name, split in self._splits.items():
            loader = self._loaders.pop(name, None)
            self._skipped.report(name, split, loader.skipped if loader else ())
        self._caches.clear()
        log_repeated()

    def _ensure(self, split: SplitName) -> None:
        if split not in self._splits:
            self.prepare_data()
            # Not `setup`, in which processes wait for each other: this one may be alone here.
            self._set_up("predict" if split == "test" else "fit")

    def _shards(self) -> list[Shard]:
        return [shard for split in self._splits.values() for shard in split.shards]

    def _set_up(self, stage: str) -> None:
        trainer, wanted = self.trainer, splits_of_stage(stage, self.predict_splits)
        if not {"train", "val"}.isdisjoint(wanted) and "train" not in self._splits:
            self._splits["train"], self._splits["val"] = self._caches.read_training(
                self._selection.read_training,
                num_processes=trainer.world_size // trainer.num_nodes if trainer else 1,
            )
        wants_test = "test" in wanted or (
            stage == "fit" and self.predicts_after_fit and self.has_test()
        )
        if wants_test and "test" not in self._splits:
            test = self._selection.read_test(needs_targets=stage == "test")
            if stage == "fit":
                check_test_shards(test, self._splits["train"])
            self._splits["test"] = test

    def _sampling(self) -> Sampling:
        return Sampling(
            self.table("train"),
            extra_rate=self.hparams["extra_rate"],
            positive_rate=self.hparams["positive_rate"],
        )


def _at_least(lowest: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < lowest:
            raise ValueError(f"data.{name}: expected at least {lowest}, found {value}")
