"""The convolutional network that is trained from scratch, and the sets of layers it is made of.

A conv set halves the feature map, a deconv set doubles it, a dense set works on pooled features:
functions that return a module, so a network is a list of widths. What Keras calls a dense layer on
a feature map is a linear map over the channels of every pixel: a 1x1 convolution.

Nothing here decides by a tensor's values, so the network traces to one static graph. No convolution
directly ahead of a batch norm has a bias: Adam scales its gradient, rounding noise, to full steps.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def conv_set(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    pool: int = 2,
    depth: int = 1,
    dense: int = 0,
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return convolution, max pool, batch norm, activation, dropout and an optional dense layer.

    Pooling comes first, so that batch norm and activation work on a quarter of the pixels.

    Args:
        in_channels: of the feature map that comes in.
        out_channels: of every convolution.
        kernel_size: of every convolution, in pixels, odd.
        stride: of the first convolution, in pixels.
        pool: side and stride of the max pool, in pixels; 1 for none.
        depth: number of convolutions; those before the last have batch norm and activation only.
        dense: width of the dense layer over the channels; 0 for none.
        activation: elu, gelu, leaky_relu, relu or silu.
        dropout: probability that a whole channel of an image is dropped, in [0, 1].

    Returns:
        A module, (B, in_channels, H, W) to (B, dense or out_channels, H / stride / pool, W / ...).

    Raises:
        ValueError: the kernel is even, there is no convolution, or the activation is unknown.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number of pixels, found {kernel_size}")
    if depth < 1:
        raise ValueError(f"depth: expected at least 1 convolution in a conv set, found {depth}")
    convolution = partial(nn.Conv2d, padding=kernel_size // 2, bias=False)
    layers: list[nn.Module] = [convolution(in_channels, out_channels, kernel_size, stride=stride)]
    for _ in range(depth - 1):
        layers += [nn.BatchNorm2d(out_channels), _activation(activation)]
        layers += [convolution(out_channels, out_channels, kernel_size)]
    if pool > 1:
        layers.append(nn.MaxPool2d(pool))
    layers += [nn.BatchNorm2d(out_channels), _activation(activation), nn.Dropout2d(dropout)]
    if dense:
        layers.append(nn.Conv2d(out_channels, dense, 1))
    return nn.Sequential(*layers)


def deconv_set(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 4,
    stride: int = 2,
    dense: int = 0,
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return transposed convolution, batch norm, an optional dense layer, activation and dropout.

    Args:
        in_channels: of the feature map that comes in.
        out_channels: of the transposed convolution.
        kernel_size: in pixels, the stride plus an even number. Multiples of the stride leave no
            checkerboard, as every output pixel sums equally many terms (Odena et al., 2016).
        stride: the factor by which the feature map grows.
        dense: width of the dense layer over the channels; 0 for none.
        activation: as in `conv_set`.
        dropout: probability that a whole channel of an image is dropped, in [0, 1].

    Returns:
        A module, (B, in_channels, H, W) to (B, dense or out_channels, H * stride, W * stride).

    Raises:
        ValueError: kernel and stride do not go together, or the activation is unknown.
    """
    excess = kernel_size - stride
    if excess < 0 or excess % 2:
        raise ValueError(
            f"kernel_size: expected the stride, {stride}, plus an even number of pixels, "
            f"found {kernel_size}"
        )
    grow = partial(nn.ConvTranspose2d, stride=stride, padding=excess // 2, bias=False)
    layers = [grow(in_channels, out_channels, kernel_size), nn.BatchNorm2d(out_channels)]
    if dense:
        layers.append(nn.Conv2d(out_channels, dense, 1))
    layers += [_activation(activation), nn.Dropout2d(dropout)]
    return nn.Sequential(*layers)


def dense_set(
    in_features: int, out_features: int, *, activation: str = "relu", dropout: float = 0.0
) -> nn.Sequential:
    """Return linear layer, activation and dropout, (B, in_features) to (B, out_features).

    `activation` is as in `conv_set`, `dropout` the probability that a feature of an image is
    dropped, in [0, 1].
    """
    linear = nn.Linear(in_features, out_features)
    return nn.Sequential(linear, _activation(activation), nn.Dropout(dropout))


def logit_head(in_features: int) -> nn.Linear:
    """Return the last layer, (B, in_features) to (B, 1), whose first logits are close to its bias.

    The task sets the bias by the prior, which the weights must not blur; at zero, they would let no
    gradient through in the first step.
    """
    head = nn.Linear(in_features, 1)
    # 512 features of about 1 then spread the first logits by some hundredths.
    nn.init.normal_(head.weight, std=1e-3)
    nn.init.zeros_(head.bias)
    return head


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


def _activation(name: str) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(_ACTIVATIONS)}, found {name!r}")
    return _ACTIVATIONS[name]()
