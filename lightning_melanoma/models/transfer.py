"""A backbone from timm with a new head of one logit: freezing, parameter groups by depth."""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self, override

from lightning_melanoma.models.backbones import create_backbone
from lightning_melanoma.models.sets import check_dropout, logit_head


class TransferNet(nn.Module):
    """A timm backbone, dropout, and a linear head of one logit.

    Args:
        backbone: any name in timm.
        weights: `imagenet`, `none`, or the path of a .pth or .safetensors file.
        dropout: probability that a feature is dropped ahead of the head, in [0, 1].
        freeze_batch_norm: keep the statistics of the backbone's batch norms in training, too.

    Attributes:
        mean: what to subtract from images in [0, 1], for each of R, G, B: that of the weights.
        std: what to divide them by afterwards, likewise.
        head: the last layer, one output.
        is_frozen: whether the backbone is frozen.

    Raises:
        FileNotFoundError: the weights are out of reach.
        ValueError: the backbone is unknown, or the weights do not fit it.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(
        self,
        backbone: str = "legacy_xception",
        weights: str = "imagenet",
        *,
        dropout: float = 0.2,
        freeze_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        self.is_frozen = False
        self.freeze_batch_norm = freeze_batch_norm
        self.backbone = create_backbone(backbone, weights)
        config = cast(dict[str, Any], self.backbone.pretrained_cfg)
        self.mean = tuple(config["mean"])
        self.std = tuple(config["std"])
        self._only_size = tuple(config["input_size"][1:]) if config["fixed_input_size"] else None
        self.dropout = nn.Dropout(dropout)
        # Not `num_features`: some networks widen once more after the pooling.
        self.head = logit_head(cast(int, self.backbone.head_hidden_size))

    def embed(self, images: Tensor) -> Tensor:
        """Return the features that the head sees.

        Args:
            images: (B, 3, H, W) float32, RGB, normalised by `mean` and `std`.

        Returns:
            (B, F) float32.

        Raises:
            ValueError: the backbone takes images of one size only, and these have another.
        """
        size = tuple(images.shape[-2:])
        if self._only_size not in (None, size):
            raise ValueError(
                f"images: expected {self._only_size} pixels, the one size of this backbone, found "
                f"{size}; set data.image_size, or choose a convolutional backbone"
            )
        features: Tensor = self.dropout(self.backbone(images))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits, (B,) float32, of what `embed` returned."""
        logits: Tensor = self.head(features)
        return logits.squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (B,) float32, of normalised images, (B, 3, H, W) float32."""
        return self.classify(self.embed(images))

    def freeze_backbone(self) -> None:
        """Train the head alone: no gradient for the backbone, which works as in evaluation."""
        self._set_frozen(True)

    def unfreeze_backbone(self) -> None:
        """Train the backbone, too."""
        self._set_frozen(False)

    def _set_frozen(self, is_frozen: bool) -> None:
        self.is_frozen = is_frozen
        self.backbone.requires_grad_(not is_frozen)
        self.train(self.training)

    @override
    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, which what is frozen does not follow."""
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
        elif self.freeze_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def parameter_groups(
        self, learning_rate: float, *, layer_decay: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Return every parameter once, grouped for torch's optimizers by depth and weight decay.

        The rate of the backbone's layer k of 0 to n-1, as timm counts them, is learning_rate times
        layer_decay ** (n - k): general edges and colours move less than what is built on them
        (Howard and Ruder, arXiv 1801.06146). The head has the full rate. Frozen parameters are
        there, too, so the groups of a run are the same before and after unfreezing.

        Of a few backbones timm counts no layers: each of those is one.

        Args:
            learning_rate: of the head, above 0.
            layer_decay: factor from a layer to the one below it, in (0, 1].
            weight_decay: of weights; biases, norms and what timm exempts have none.

        Returns:
            Dicts with `params`, `lr`, `weight_decay` and a `name` such as `backbone_03` or
            `backbone_03_no_decay`, from the stem to the head.

        Raises:
            ValueError: `layer_decay` is out of range.
        """
        import timm

        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay: expected a factor in (0, 1], found {layer_decay}")
        backbone = cast(Any, self.backbone)
        if hasattr(backbone, "group_matcher"):
            matcher = backbone.group_matcher(coarse=False)
            layers = timm.models.group_parameters(self.backbone, matcher, reverse=True)
        else:
            layers = {name: 0 for name, _ in self.backbone.named_parameters()}
        exempt = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else set()
        depth = max(layers.values()) + 1
        groups: dict[str, dict[str, Any]] = {}
        named = sorted(self.backbone.named_parameters(), key=lambda item: layers[item[0]])
        entries = [(f"backbone_{layers[name]:02d}", layers[name], name, p) for name, p in named]
        entries += [("head", depth, name, p) for name, p in self.head.named_parameters()]
        for label, layer, name, parameter in entries:
            decays = parameter.ndim > 1 and not name.endswith(".bias") and name not in exempt
            label = label if decays else f"{label}_no_decay"
            group = groups.setdefault(label, {"name": label, "params": []})
            group["lr"] = learning_rate * layer_decay ** (depth - layer)
            group["weight_decay"] = weight_decay if decays else 0.0
            group["params"].append(parameter)
        return list(groups.values())
