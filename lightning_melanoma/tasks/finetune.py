"""The task of a pre-trained backbone with a new head."""

from typing import Any

from pytorch_lightning.strategies import DDPStrategy

from lightning_melanoma.models.transfer import TransferNet
from lightning_melanoma.tasks.classifier import MelanomaClassifier


class FinetuneClassifier(MelanomaClassifier):
    """Fine-tunes a timm backbone: first the head alone, then all of it, deeper layers more slowly.

    Args:
        backbone: any name in timm.
        weights: `imagenet` (fetched once), `none`, or the path of a .pth or .safetensors file.
        dropout: probability that a feature is dropped ahead of the head.
        freeze_epochs: in which the head is trained alone.
        freeze_batch_norm: keep the statistics of the backbone's batch norms for the whole training.
        layer_decay: factor on the learning rate for each layer away from the head, in (0, 1].
        **kwargs: as `MelanomaClassifier`.

    Raises:
        ValueError: the backbone is unknown, the weights do not fit it, or a setting is out of its
            range.
        FileNotFoundError: the weights are out of reach.
    """

    network: TransferNet

    def __init__(
        self,
        backbone: str = "legacy_xception",
        weights: str = "imagenet",
        dropout: float = 0.2,
        freeze_epochs: int = 1,
        freeze_batch_norm: bool = False,
        layer_decay: float = 0.9,
        **kwargs: Any,  # noqa: ANN401 - the base class types them
    ) -> None:
        super().__init__(**kwargs)
        if freeze_epochs < 0:
            raise ValueError(f"model.freeze_epochs: expected 0 or more, found {freeze_epochs}")
        self.network = TransferNet(
            backbone, weights, dropout=dropout, freeze_batch_norm=freeze_batch_norm
        )
        self.register_normalization()

    def setup(self, stage: str) -> None:
        """Do as the base class, and check that the strategy can do without some gradients.

        Raises:
            ValueError: DDP would wait for the gradients of the frozen backbone.
        """
        super().setup(stage)
        strategy = self.trainer.strategy
        if (
            stage == "fit"
            and self.hparams["freeze_epochs"]
            and isinstance(strategy, DDPStrategy)
            and not strategy._ddp_kwargs.get("find_unused_parameters")
        ):
            raise ValueError(
                "trainer.strategy: expected ddp_find_unused_parameters_true with "
                f"model.freeze_epochs {self.hparams['freeze_epochs']}, found ddp, which waits for "
                "all gradients; name the former, or set model.freeze_epochs 0"
            )

    def on_train_start(self) -> None:
        """Freeze or not, as the epoch wants, when a run goes on in the middle of it."""
        super().on_train_start()
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Freeze the backbone for the first epochs, then let it go."""
        if self.current_epoch < self.hparams["freeze_epochs"]:
            self.network.freeze_backbone()
        else:
            self.network.unfreeze_backbone()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: a rate for each depth, the full one for the head."""
        return self.network.parameter_groups(
            self.hparams["learning_rate"],
            layer_decay=self.hparams["layer_decay"],
            weight_decay=self.hparams["weight_decay"],
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say that the checkpoint has the weights: loading it must not fetch ImageNet's again."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "weights": "none"}
