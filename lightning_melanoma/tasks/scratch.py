"""The task of the convolutional network that is trained from scratch."""

from typing import Any

from lightning_melanoma.models.scratch import ScratchCNN
from lightning_melanoma.tasks.classifier import MelanomaClassifier


class ScratchClassifier(MelanomaClassifier):
    """Trains a `ScratchCNN`: conv sets, deconv sets after them (or none), a dense head.

    Args:
        conv_channels: width of each conv set.
        deconv_channels: width of each deconv set after them; an empty list for none.
        dense_units: width of each dense set after the global pooling.
        kernel_size: of the conv sets, in pixels, odd.
        stem_stride: of the first convolution, in pixels.
        depth: convolutions in each conv set but the first.
        channel_dense: width of the dense layer over the channels in every set; 0 for none.
        activation: elu, gelu, leaky_relu, relu or silu.
        conv_dropout: probability that a channel is dropped after a set.
        dropout: probability that a pooled feature or dense unit is dropped.
        **kwargs: as `MelanomaClassifier`.
    """

    def __init__(
        self,
        conv_channels: list[int] = [24, 48, 96, 192],  # noqa: B006 - never changed
        deconv_channels: list[int] = [96, 48],  # noqa: B006 - never changed
        dense_units: list[int] = [],  # noqa: B006 - never changed
        kernel_size: int = 3,
        stem_stride: int = 2,
        depth: int = 2,
        channel_dense: int = 0,
        activation: str = "relu",
        conv_dropout: float = 0.0,
        dropout: float = 0.3,
        **kwargs: Any,  # noqa: ANN401 - the base class types them
    ) -> None:
        super().__init__(**kwargs)
        self.network = ScratchCNN(
            conv_channels,
            deconv_channels,
            dense_units=dense_units,
            kernel_size=kernel_size,
            stem_stride=stem_stride,
            depth=depth,
            channel_dense=channel_dense,
            activation=activation,
            conv_dropout=conv_dropout,
            dropout=dropout,
        )
        self.register_normalization()
