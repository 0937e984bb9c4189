"""The sets of layers that networks are made of: functions that return a module.

A conv set halves the feature map, a deconv set doubles it, a dense set works on pooled features, so
a network is a list of widths. What Keras calls a dense layer on a feature map is a linear map over
the channels of every pixel: a 1x1 convolution. No convolution directly ahead of a batch norm has a
bias: Adam scales its gradient, rounding noise, to full steps.
"""

from functools import partial

from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def check_dropout(**probabilities: float) -> None:
    """Check probabilities of dropout, each by its name.

    Raises:
        ValueError: one is not in [0, 1].
    """
    for name, probability in probabilities.items():
        if not 0 <= probability <= 1:
            raise ValueError(f"{name}: expected a probability in [0, 1], found {probability}")


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
        ValueError: the kernel is even, there is no convolution, a stride or the dense layer is out
            of its range, or the activation is unknown.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number of pixels, found {kernel_size}")
    if stride < 1:
        raise ValueError(f"stride: expected at least 1 pixel, found {stride}")
    if dense < 0:
        raise ValueError(f"dense: expected a width, or 0 for no dense layer, found {dense}")
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


def _activation(name: str) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(_ACTIVATIONS)}, found {name!r}")
    return _ACTIVATIONS[name]()
