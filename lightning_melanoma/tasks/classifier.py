"""The LightningModule that both tasks share: augment, normalise, classify, weigh.

batch -> augmented -> logits -> loss; `JudgedModule` makes metrics of it. Subclasses bring the
network and may bring their own parameter groups. Constructors take numbers, names, lists and flat
tables only, so that ``load_from_checkpoint`` works anywhere and checkpoints load with
``weights_only=True``.
"""

from typing import Any, Literal

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lightning_melanoma.augment.color import unit_range
from lightning_melanoma.augment.pipeline import BatchAugment
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.draws import step_seed
from lightning_melanoma.data.sample import Batch
from lightning_melanoma.models.pixels import pixel_statistics
from lightning_melanoma.tasks.age import AgeTerm, check_ages
from lightning_melanoma.tasks.judged import JudgedModule
from lightning_melanoma.tasks.losses import (
    ClassWeights,
    OutputBias,
    check_loss_settings,
    class_weights,
    masked_mean,
    output_bias,
    weighted_bce,
)
from lightning_melanoma.tasks.optimizers import (
    Schedule,
    check_optimizer_settings,
    decayed_groups,
    scheduled_optimizer,
    training_steps,
)
from lightning_melanoma.tasks.outputs import Prediction, StepOutputs, TrainingOutputs, step_outputs
from lightning_melanoma.tasks.place import seed_of
from lightning_melanoma.tasks.views import Embedding, Views, look


class MelanomaClassifier(JudgedModule):
    """Trains a network to tell melanoma, and says how well it does.

    Args:
        augment: preset of the augmentation: `none`, `light` or `strong`.
        augment_changes: single settings that differ from the preset, by name.
        class_weights: `balanced` (N / 2n each), `none`, or the weights of benign and melanoma.
        output_bias: what the output layer starts with: `prior` (the log-odds of the prevalence),
            `balanced` (the optimum under the class weights) or a number.
        label_smoothing: share of the way that targets move to 1/2, in [0, 1).
        focal_gamma: exponent of the focal loss; 0 for plain cross-entropy.
        optimizer: `adamw` or `sgd` (with Nesterov momentum 0.9).
        learning_rate: base rate, behind the warm-up.
        weight_decay: of weights; biases and norms have none.
        schedule: of the rate behind the warm-up: `cosine`, `constant` or `step`.
        warmup_epochs: of a linear rise; may be a fraction.
        use_age: add a term for the patient's age, `age_approx`, to what the network says.
        tta: views that `validate`, `test` and `predict` average over: 1, 4 (the mirrored) or 8 (all
            symmetries of the square).

    Raises:
        ValueError: a setting is out of its range.
    """

    #: Set by the subclass: normalised images (B, 3, H, W) to logits (B,), with `mean`, `std` and
    #: `head`.
    network: nn.Module
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        augment: str = "light",
        augment_changes: dict[str, float] | None = None,
        class_weights: ClassWeights = "balanced",
        output_bias: OutputBias = "prior",
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        schedule: Schedule = "cosine",
        warmup_epochs: float = 1.0,
        use_age: bool = False,
        tta: Literal[1, 4, 8] = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_loss_settings(label_smoothing, focal_gamma, class_weights)
        check_optimizer_settings(
            learning_rate=learning_rate, weight_decay=weight_decay, warmup_epochs=warmup_epochs
        )
        self.augment = BatchAugment(augment, augment_changes)
        if use_age and self.mixes_targets:
            raise ValueError(
                "model.use_age: expected an augmentation that leaves images whole, found mixup or "
                "cutmix, whose images are of two ages; leave out one of both"
            )
        self.age_term = AgeTerm() if use_age else None

    def register_normalization(self) -> None:
        """Take mean and std from the network; subclasses call it once they have built that."""
        # Buffers, so that no step brings them to the device anew.
        for name in ("mean", "std"):
            channels = torch.tensor(getattr(self.network, name)).view(3, 1, 1)
            self.register_buffer(f"_{name}", channels, persistent=False)

    def setup(self, stage: str) -> None:
        """Take weights, bias and slope from the training split, once in a model's life."""
        # Batches come in channels-last memory; convolutions are fastest when their weights agree.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
        data: MelanomaDataModule = self.trainer.datamodule  # type: ignore[attr-defined]  # ours
        # Loaders may have been given instead, which nothing is known of.
        if self.age_term is not None and data is not None:
            check_ages(data, stage)
        if stage != "fit" or self.prior.is_known:
            return
        shown = data.shown_counts()
        weights = class_weights(shown, self.hparams["class_weights"])
        bias = output_bias(shown, weights, rule=self.hparams["output_bias"])
        self.prior.set(data.class_counts(), weights, shown=shown)
        nn.init.constant_(self.network.head.bias, bias)  # type: ignore[union-attr, arg-type]  # ours
        if self.age_term is not None:
            self.age_term.start(data.table("train"))

    @property
    def mixes_targets(self) -> bool:
        """Whether training mixes images, so that their targets are soft."""
        return self.augment.mixes_targets

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (B,) float32, of images, (B, 3, H, W) uint8 or float32 in [0, 1].

        They are of the images alone, of any age.
        """
        return self._classify(unit_range(images), None)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout and noise by the step alone, so that a run that goes on draws the same."""
        place = self.current_epoch, batch_idx
        torch.manual_seed(step_seed(seed_of(self.trainer), *place, rank=self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> TrainingOutputs:
        """Return the weighted loss of an augmented batch, the mean of its valid rows, and those."""
        with torch.no_grad():
            images, targets = self.augment(batch.images, batch.targets, batch.valid, batch.draws)
        # The schedule moves on behind the step; the log says the rate that was used.
        self.epochs.learning_rate = self.trainer.optimizers[0].param_groups[-1]["lr"]
        logits = self._classify(images, batch.ages)
        losses = self._losses(logits, targets)
        num_valid = self._valid_rows_a_rank(batch.valid)
        return {
            "loss": masked_mean(losses, batch.valid, num_valid=num_valid),
            "outputs": step_outputs(batch, logits, targets, losses),
        }

    def validation_step(  # type: ignore[override]  # Lightning takes any tree of tensors
        self, batch: Batch, batch_idx: int
    ) -> StepOutputs:
        """Return the outputs of a batch; while fitting without test-time augmentation."""
        images = unit_range(batch.images)
        fitting = self.trainer.state.fn == "fit"
        num_views = 1 if fitting else self.hparams["tta"]
        logits = self._look(images, num_views, batch.ages)[0].mean(0)
        return step_outputs(batch, logits, batch.targets, self._losses(logits, batch.targets))

    #: A labelled test batch is judged as one of validation.
    test_step = validation_step  # type: ignore[assignment]  # likewise

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Prediction:
        """Return what is said of the rows of a batch, with test-time augmentation."""
        images = unit_range(batch.images)
        logits, embedding = self.views(images, self.hparams["tta"], ages=batch.ages)
        return Prediction(torch.where(batch.valid, batch.rows, -1), logits.mean(0), embedding)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: weights with decay; biases and norms without."""
        return decayed_groups(self.network, self.hparams["weight_decay"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer and its schedule, a factor a step.

        Raises:
            ValueError: the training has no end that the schedule could be laid over.
        """
        hparams = self.hparams
        num_steps, steps_per_epoch = training_steps(self.trainer)
        groups = self.parameter_groups()
        if self.age_term is not None:
            groups.append(self.age_term.parameter_group())
        return scheduled_optimizer(
            groups,
            optimizer=hparams["optimizer"],
            learning_rate=hparams["learning_rate"],
            schedule=hparams["schedule"],
            warmup_epochs=hparams["warmup_epochs"],
            num_steps=num_steps,
            steps_per_epoch=steps_per_epoch,
        )

    def views(self, images: Tensor, num_views: int, *, ages: Tensor | None = None) -> Views:
        """Return what the network says of images in the first so many symmetries of the square.

        Args:
            images: (B, 3, S, S) float32 in [0, 1], RGB.
            num_views: 1 to 8; 4 are the mirrored views.
            ages: (B,) float32, years, below 0 where unknown; None where all are.
        """
        logits, features = self._look(images, num_views, ages)
        return Views(logits, Embedding(features, pixel_statistics(images)))

    def _look(self, images: Tensor, num_views: int, ages: Tensor | None) -> tuple[Tensor, Tensor]:
        # Mirrored behind the normalisation, which treats all pixels alike.
        logits, features = look(self.network, self._normalized(images), num_views)
        return self._with_age(logits, ages), features

    def _normalized(self, images: Tensor) -> Tensor:
        return (images - self._mean) / self._std

    def _classify(self, images: Tensor, ages: Tensor | None) -> Tensor:
        logits: Tensor = self.network(self._normalized(images))
        return self._with_age(logits.float(), ages)

    def _with_age(self, logits: Tensor, ages: Tensor | None) -> Tensor:
        """Return logits, (..., B), with what the ages, (B,), add to them."""
        if self.age_term is None or ages is None:
            return logits
        term: Tensor = self.age_term(ages)
        return logits + term

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return weighted_bce(
            logits,
            targets,
            self.prior.weights,
            label_smoothing=self.hparams["label_smoothing"],
            focal_gamma=self.hparams["focal_gamma"],
        )

    def _valid_rows_a_rank(self, valid: Tensor) -> Tensor | None:
        # Ranks average their gradients, so each divides by its share of all valid rows.
        if self.trainer.world_size == 1:
            return None
        totals = self.all_gather(valid.sum())
        assert isinstance(totals, Tensor)
        # One total for each rank, or that of the global batch where a step sees all of it.
        return totals.sum() / totals.numel()
