"""What the models of checkpoints say of images: logits of every view, and how rare the image is.

A checkpoint's images come in its own size. Its models run where `fit` would run them, by the same
strategy and precision.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_melanoma.augment.color import unit_range
from lightning_melanoma.callbacks.progress import ImagesPerSecondBar
from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.decisions.novelty import CHECKPOINT_KEY, NoveltyGate
from lightning_melanoma.devices import choose_device
from lightning_melanoma.scoring.files import ImageBatch, ImageFiles
from lightning_melanoma.tasks.classifier import MelanomaClassifier
from lightning_melanoma.tasks.loading import data_settings, load_classifier, read_checkpoint
from lightning_melanoma.tasks.views import Views
from lightning_melanoma.xla.pjrt import num_local_devices
from lightning_melanoma.xla.strategy import SPMDStrategy

#: What images are scored on: as the Trainer's setting of that name.
Accelerator = Literal["auto", "cpu", "cuda", "xla"]

# Enough for a device to be busy, and few enough to fit beside Xception.
_MAX_BATCH_SIZE = 64


@dataclass(frozen=True)
class Member:
    """A checkpoint as it scores.

    Attributes:
        path: of the checkpoint.
        classifier: its model.
        image_size: pixels of a side of what it was trained on.
        calibration: of its probabilities, or None.
        gate: that knows lesions by its embeddings, or None.
    """

    path: str
    classifier: MelanomaClassifier
    image_size: int
    calibration: Calibration | None
    gate: NoveltyGate | None

    @property
    def num_views(self) -> int:
        """The views that a logit is the mean of, as in calibration."""
        tta = self.calibration.tta if self.calibration else self.classifier.hparams["tta"]
        return int(tta)

    @property
    def uses_age(self) -> bool:
        """Whether the model has a term for the patient's age."""
        return self.classifier.age_term is not None


class MemberScores(NamedTuple):
    """What one checkpoint says of N files; NaN where a file cannot be read.

    Attributes:
        logits: (V, N) float64, as the network gave them, one row a view.
        rarity: (N,) float64 in (0, 1], as the gate's; NaN without a gate.
    """

    logits: NDArray[np.float64]
    rarity: NDArray[np.float64]


def load_member(path: str) -> Member:
    """Return the checkpoint of a path.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no checkpoint of this program.
    """
    checkpoint, _ = read_checkpoint(path)
    classifier = load_classifier(path)
    gate = checkpoint.get(CHECKPOINT_KEY)
    return Member(
        path,
        classifier,
        data_settings(checkpoint)["image_size"],
        classifier.calibration,
        NoveltyGate.from_entry(gate) if gate else None,
    )


def scoring_trainer(accelerator: Accelerator) -> pl.Trainer:
    """Return what runs models over files, on one device or all devices of XLA.

    Args:
        accelerator: as the Trainer's setting.

    Raises:
        MisconfigurationException: Lightning's, there is no such device.
    """
    config = SimpleNamespace(
        accelerator=accelerator,
        strategy="auto",
        devices="auto",
        precision=None,
        sync_batchnorm=False,
        inference_mode=True,
        use_distributed_sampler=False,
    )
    choose_device(config)
    if config.accelerator == "cuda":
        # Several cards would need several processes, each of which would score everything.
        config.devices, config.strategy, config.sync_batchnorm = 1, "auto", False
    if config.accelerator == "cpu":
        config.devices = 1
    with _quiet():
        return pl.Trainer(
            **vars(config),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[ImagesPerSecondBar()],
        )


def run_members(
    members: Sequence[Member],
    paths: Sequence[str],
    ages: NDArray[np.float32],
    *,
    num_views: int,
    trainer: pl.Trainer,
) -> tuple[list[MemberScores], dict[int, str]]:
    """Return what each checkpoint says of the files, and why files cannot be read.

    Files are read once for each size of images that there is among the checkpoints.

    Args:
        members: at least one.
        paths: of the files, at least one.
        ages: (N,) float32, years of each file's patient, below 0 where unknown.
        num_views: symmetries of the square that are looked at, if calibration does not want more.
        trainer: from `scoring_trainer`.

    Returns:
        One entry a member; faults by the file's place.

    Raises:
        ValueError: a model gives no finite logits.
    """
    scores: dict[int, MemberScores] = {}
    faults: dict[int, str] = {}
    for size in sorted({member.image_size for member in members}):
        places = [place for place, member in enumerate(members) if member.image_size == size]
        files = ImageFiles(paths, image_size=size, batch_size=_batch_size(len(paths), trainer))
        network = _Networks([members[place] for place in places], ages, num_views)
        with _quiet():
            outputs: Any = trainer.predict(network, dataloaders=files)
        faults |= files.faults
        for number, place in enumerate(places):
            parts = [(rows, said[number]) for rows, said in outputs]
            scores[place] = _gathered(members[place], parts, num_files=len(paths))
    return [scores[place] for place in range(len(members))], faults


class _Networks(pl.LightningModule):
    """Looks at every batch by all models of one image size."""

    _ages: Tensor

    def __init__(
        self, members: Sequence[Member], ages: NDArray[np.float32], num_views: int
    ) -> None:
        super().__init__()
        self.register_buffer("_ages", torch.from_numpy(ages))
        self.classifiers = nn.ModuleList([member.classifier for member in members])
        self._num_views = [max(num_views, member.num_views) for member in members]

    def setup(self, stage: str) -> None:
        """Lay weights out as the images are."""
        self.to(memory_format=torch.channels_last)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> tuple[Tensor, list[Views]]:
        """Return the rows, and what each model says of them."""
        images = unit_range(batch.images)
        classifiers = cast("Iterable[MelanomaClassifier]", self.classifiers)
        pairs = zip(classifiers, self._num_views, strict=True)
        ages = self._ages[batch.rows]
        said = [classifier.views(images, number, ages=ages) for classifier, number in pairs]
        # Computed anew: torch_xla refuses to make whole what came in sharded, and copies of it.
        return torch.where(batch.rows < 0, -1, batch.rows), said


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Lightning says of a training to come out of a command that has none."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def _batch_size(num_files: int, trainer: pl.Trainer) -> int:
    """Return the one size of all batches: as equal as can be, a multiple of the devices."""
    # SPMD is one device to Lightning.
    num_devices = num_local_devices() if isinstance(trainer.strategy, SPMDStrategy) else 1
    num_batches = -(-num_files // _MAX_BATCH_SIZE)
    size = -(-num_files // num_batches)
    return -(-size // num_devices) * num_devices


def _gathered(
    member: Member, parts: Sequence[tuple[Tensor, Views]], *, num_files: int
) -> MemberScores:
    """Return the outputs of all steps, (B,) rows and what is said of them, by file."""
    rows = torch.cat([rows for rows, _ in parts]).cpu().numpy()
    found = torch.cat([views.logits for _, views in parts], dim=1).cpu().numpy()
    is_file = rows >= 0
    if num_unusable := (~np.isfinite(found[:, is_file])).any(axis=0).sum():
        raise ValueError(
            f"ckpt_path: expected a model with finite logits, found NaN or infinite ones of "
            f"{num_unusable} images from {member.path}; its training diverged"
        )
    logits = np.full((len(found), num_files), np.nan)
    logits[:, rows[is_file]] = found[:, is_file]
    rarity = np.full(num_files, np.nan)
    if member.gate:
        embeddings = zip(*(views.embedding for _, views in parts), strict=True)
        arrays = [torch.cat(steps).cpu().numpy()[is_file] for steps in embeddings]
        rarity[rows[is_file]] = member.gate.rarity(arrays)
    return MemberScores(logits, rarity)
