import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lightning_melanoma.models.scratch import ScratchCNN
from lightning_melanoma.models.sets import conv_set, deconv_set, dense_set, logit_head

# Every option at once, small.
RICH = {
    "conv_channels": [8, 12, 16],
    "deconv_channels": [12, 8],
    "dense_units": [10, 6],
    "channel_dense": 9,
    "activation": "silu",
    "conv_dropout": 0.1,
}
LEAN = {"conv_channels": [8, 16], "depth": 1}
NETWORKS = pytest.mark.parametrize("settings", [{}, LEAN, RICH], ids=["default", "lean", "rich"])


def build(**settings: object) -> ScratchCNN:
    torch.manual_seed(0)
    return ScratchCNN(**settings)


def images(count: int = 4, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@NETWORKS
def test_images_of_any_size_give_one_logit_each(settings):
    network = build(**settings)
    assert network(images(3, 64)).shape == (3,)
    assert network(images(2, 97)).shape == (2,)
    assert network(images()).dtype == torch.float32


@NETWORKS
def test_gradient_reaches_every_parameter(settings):
    network = build(**settings)
    network(images()).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@NETWORKS
def test_the_same_seed_gives_the_same_logits(settings):
    first, second = (build(**settings)(images()) for _ in range(2))
    assert torch.equal(first, second)


@NETWORKS
def test_the_logit_of_an_image_does_not_depend_on_its_batch_mates_in_evaluation(settings):
    network = build(**settings).eval()
    whole, alone = network(images())[0], network(images()[:1])[0]
    # Convolutions of other batch sizes sum in another order.
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


@NETWORKS
def test_head_of_the_embedding_is_the_forward_pass(settings):
    network = build(**settings).eval()
    assert network.head.out_features == 1
    assert torch.equal(network.head(network.embed(images())).squeeze(1), network(images()))


@NETWORKS
def test_no_convolution_directly_ahead_of_a_batch_norm_has_a_bias(settings):
    layers = [m for m in build(**settings).modules() if not isinstance(m, nn.Sequential)]
    # A max pool between the two commutes with the bias.
    layers = [m for m in layers if not isinstance(m, nn.MaxPool2d)]
    ahead = [a for a, b in pairwise(layers) if isinstance(b, nn.BatchNorm2d)]
    assert ahead
    assert all(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m.bias is None for m in ahead)


@NETWORKS
def test_first_logits_are_close_to_the_bias_of_the_head(settings):
    network = build(**settings)
    nn.init.constant_(network.head.bias, -4.0)
    # The weights of the head have a standard deviation of 1e-3, over some 512 features.
    assert (network(images()) + 4.0).abs().max() < 0.2


@NETWORKS
def test_no_shape_and_no_branch_depends_on_values(settings):
    # Tensors on this device have shapes and no values: reading one raises.
    assert build(**settings).to("meta")(images().to("meta")).shape == (4,)


def test_dense_layer_on_a_feature_map_is_linear_over_the_channels_of_each_pixel():
    layers = conv_set(3, 8, dense=5)
    dense = layers[-1]
    linear = nn.Linear(8, 5)
    linear.load_state_dict({"weight": dense.weight[:, :, 0, 0], "bias": dense.bias})
    maps = layers[:-1](images())
    theirs = linear(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(dense(maps), theirs)


def test_conv_set_orders_its_layers_as_convolution_pool_norm_activation_dropout_dense():
    kinds = [type(layer).__name__ for layer in conv_set(3, 8, dense=4, dropout=0.2)]
    assert kinds == ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU", "Dropout2d", "Conv2d"]


def test_deconv_set_orders_its_layers_as_transposed_convolution_norm_dense_activation_dropout():
    kinds = [type(layer).__name__ for layer in deconv_set(3, 8, dense=4, dropout=0.2)]
    assert kinds == ["ConvTranspose2d", "BatchNorm2d", "Conv2d", "ReLU", "Dropout2d"]


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (conv_set(3, 8), (4, 8, 32, 32)),
        (conv_set(3, 8, kernel_size=5, stride=2, pool=1, depth=3), (4, 8, 32, 32)),
        (conv_set(3, 8, stride=2, pool=4, dense=6), (4, 6, 8, 8)),
        (deconv_set(3, 8), (4, 8, 128, 128)),
        (deconv_set(3, 8, kernel_size=3, stride=3, dense=6), (4, 6, 192, 192)),
    ],
)
def test_sets_shrink_and_grow_the_feature_map_by_whole_factors(layers, shape):
    assert layers(images()).shape == shape


def test_dense_set_maps_features_to_units():
    assert dense_set(7, 3, dropout=0.5)(torch.randn(4, 7)).shape == (4, 3)
    assert logit_head(7)(torch.randn(4, 7)).shape == (4, 1)


def test_deconv_sets_come_after_the_conv_sets_and_only_when_wanted():
    def transposed(**settings: object) -> list[bool]:
        sets = build(conv_channels=[8, 8], **settings).features
        return [any(isinstance(m, nn.ConvTranspose2d) for m in one) for one in sets]

    assert transposed() == [False, False]
    assert transposed(deconv_channels=[4, 4]) == [False, False, True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv_channels": []}, r"at least one conv set .*found \[\], \[\], \[\]"),
        ({"deconv_channels": [0]}, r"widths of at least 1, .*found \[32, 64, 128, 256\], \[0\]"),
        ({"kernel_size": 4}, "kernel_size: expected an odd number of pixels, found 4"),
        ({"kernel_size": -1}, "kernel_size: expected an odd number of pixels, found -1"),
        ({"stem_stride": 0}, "stride: expected at least 1 pixel, found 0"),
        ({"channel_dense": -4}, "dense: expected a width, or 0 for no dense layer, found -4"),
        ({"depth": 0}, "depth: expected at least 1 convolution in a conv set, found 0"),
        ({"activation": "rellu"}, "activation: expected one of elu, .*, silu, found 'rellu'"),
    ],
)
def test_wrong_setting_is_told_with_what_was_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_deconv_set_refuses_a_kernel_that_would_shift_the_pixels():
    with pytest.raises(ValueError, match="the stride, 2, plus an even number of pixels, found 3"):
        deconv_set(3, 8, kernel_size=3)


def test_image_smaller_than_the_pooling_is_told_with_the_size_it_needs():
    message = "expected at least 32 x 32 pixels for these conv sets, found 16 x 64"
    with pytest.raises(ValueError, match=re.escape(message)):
        build()(torch.zeros(1, 3, 16, 64))
