"""The convolutional network that is trained from scratch: conv sets, deconv sets, a dense head.

Nothing here decides by a tensor's values, so the network traces to one static graph.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lightning_melanoma.models.sets import (
    check_dropout,
    conv_set,
    deconv_set,
    dense_set,
    logit_head,
)


class ScratchCNN(nn.Module):
    """Conv sets, deconv sets if any, global average and maximum, dense sets if any, one logit.

    Args:
        conv_channels: width of each conv set.
        deconv_channels: width of each deconv set after them; empty for none.
        dense_units: width of each dense set after the global pooling; empty for none.
        kernel_size: of the conv sets, in pixels, odd.
        stem_stride: of the first convolution, in pixels.
        depth: convolutions in each conv set but the first, which has one.
        channel_dense: width of the dense layer over the channels in every set; 0 for none.
        activation: as in `conv_set`.
        conv_dropout: probability that a channel is dropped after a conv or deconv set, in [0, 1].
        dropout: probability that a pooled feature or dense unit is dropped, in [0, 1].

    Attributes:
        mean: what to subtract from images in [0, 1], for each of R, G, B.
        std: what to divide them by afterwards, likewise.
        head: the last layer, one output.
        deepest_fine_layer: the last layer with rectified maps ahead of the last pooling: that
            makes a grid so coarse (4 x 4 of 128 pixels by default) that no place can be told from
            it, and deconv sets bring back its size only.

    Raises:
        ValueError: there is no conv set, a width is below 1, or a set refuses its arguments.
    """

    def __init__(
        self,
        conv_channels: Sequence[int] = (32, 64, 128, 256),
        deconv_channels: Sequence[int] = (),
        *,
        dense_units: Sequence[int] = (),
        kernel_size: int = 3,
        stem_stride: int = 2,
        depth: int = 2,
        channel_dense: int = 0,
        activation: str = "relu",
        conv_dropout: float = 0.0,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        check_dropout(conv_dropout=conv_dropout, dropout=dropout)
        if not conv_channels or min(*conv_channels, *deconv_channels, *dense_units, 1) < 1:
            found = f"{[*conv_channels]}, {[*deconv_channels]}, {[*dense_units]}"
            raise ValueError(
                "conv_channels, deconv_channels, dense_units: expected at least one conv set and "
                f"widths of at least 1, found {found}"
            )
        self.mean = self.std = (0.5, 0.5, 0.5)
        # The pixels that the conv sets make into one.
        self._min_size = stem_stride * 2 ** len(conv_channels)
        conv = partial(
            conv_set,
            kernel_size=kernel_size,
            dense=channel_dense,
            activation=activation,
            dropout=conv_dropout,
        )
        deconv = partial(
            deconv_set, dense=channel_dense, activation=activation, dropout=conv_dropout
        )
        sets = [conv(3, conv_channels[0], stride=stem_stride)]
        width = channel_dense or conv_channels[0]
        for channels in conv_channels[1:]:
            sets.append(conv(width, channels, depth=depth))
            width = channel_dense or channels
        for channels in deconv_channels:
            sets.append(deconv(width, channels))
            width = channel_dense or channels
        self.features = nn.Sequential(*sets)
        last = len(conv_channels) - 1
        # Three layers for each convolution but the last, behind which is the pooling.
        within = f"features.{last}.{3 * (depth - 1) - 1}"
        self.deepest_fine_layer = (
            within if last > 0 and depth > 1 else f"features.{max(last - 1, 0)}"
        )
        # Twice the channels: their average and their maximum.
        units = [2 * width, *dense_units]
        dense = partial(dense_set, activation=activation, dropout=dropout)
        self.dense = nn.Sequential(nn.Dropout(dropout), *map(dense, units, units[1:]))
        self.head = logit_head(units[-1])

    def embed(self, images: Tensor) -> Tensor:
        """Return the features that the head sees.

        Pooling keeps the maximum beside the average: a structure of a few pixels drowns in that.

        Args:
            images: (B, 3, H, W) float32, RGB, normalised by `mean` and `std`.

        Returns:
            (B, F) float32.

        Raises:
            ValueError: the images are smaller than what the conv sets make into one pixel.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self._min_size:
            raise ValueError(
                f"images: expected at least {self._min_size} x {self._min_size} pixels for these "
                f"conv sets, found {height} x {width}; use larger images or fewer conv_channels"
            )
        maps = self.features(images)
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
        features: Tensor = self.dense(pooled)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits, (B,) float32, of what `embed` returned."""
        logits: Tensor = self.head(features)
        return logits.squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (B,) float32, of normalised images, (B, 3, H, W) float32."""
        return self.classify(self.embed(images))
