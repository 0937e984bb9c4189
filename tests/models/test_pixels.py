import numpy as np
import pytest
import torch

from lightning_melanoma.models.pixels import pixel_statistics


def test_statistics_are_numpys():
    images = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    red, green, blue = np.moveaxis(images.double().numpy(), 1, 0)
    channels = [red, green, blue, red - green, blue - green]
    means = [channel.mean((1, 2)) for channel in channels[:3]]
    spreads = [channel.std((1, 2)) for channel in channels]
    steps = [np.abs(np.diff(images.double().numpy(), axis=a)).mean((1, 2, 3)) for a in (3, 2)]
    expected = np.stack([*means, *np.log(np.array([*spreads, *steps]) + 1 / 255)], axis=1)
    assert pixel_statistics(images).numpy() == pytest.approx(expected, abs=1e-4)


def test_grey_and_flat_images_have_finite_statistics_far_from_a_photographs():
    grey = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(1, 3, 8, 8)
    flat = torch.full((1, 3, 8, 8), 0.5)
    for image, is_flat in ((grey, [0, 0, 0, 1, 1, 0, 0]), (flat, [1] * 7)):
        logarithms = pixel_statistics(image)[0, 3:]
        assert list(logarithms < -5.5) == [bool(each) for each in is_flat]


def test_half_precision_is_not_kept():
    assert pixel_statistics(torch.ones(1, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32
