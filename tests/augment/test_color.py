import colorsys
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as theirs

from lightning_melanoma.augment.color import add_noise, adjust_color, blur

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


def random_images(seed: int = 0, *, num: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


def recolor(images: torch.Tensor, **changes: float) -> torch.Tensor:
    values = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | changes
    return adjust_color(
        images, **{name: torch.full((len(images),), value) for name, value in values.items()}
    )


def test_no_change_of_colour_changes_no_bit():
    images = random_images()
    assert torch.equal(recolor(images), images)


@given(seed=st.integers(0, 999), factor=st.floats(0, 2))
def test_contrast_equals_torchvision(seed, factor):
    images = random_images(seed)
    # Their weights of the luma are rounded to four places, 0.2989 for red.
    torch.testing.assert_close(
        recolor(images, contrast=factor).clamp(0, 1),
        theirs.adjust_contrast(images, factor),
        atol=5e-4,
        rtol=0,
    )


@given(seed=st.integers(0, 999), factor=st.floats(0, 2))
def test_saturation_equals_torchvision(seed, factor):
    images = random_images(seed)
    # As for contrast.
    torch.testing.assert_close(
        recolor(images, saturation=factor).clamp(0, 1),
        theirs.adjust_saturation(images, factor),
        atol=5e-4,
        rtol=0,
    )


@given(seed=st.integers(0, 999), change=st.floats(-1, 1))
def test_brightness_is_a_sum(seed, change):
    images = random_images(seed)
    torch.testing.assert_close(recolor(images, brightness=change), images + change)


@pytest.mark.parametrize("degrees", [-90, -15, 3.6, 20, 180])
def test_hue_equals_a_rotation_in_the_standard_library(degrees):
    color = (0.6, 0.4, 0.35)
    luma, in_phase, quadrature = colorsys.rgb_to_yiq(*color)
    turned = complex(in_phase, quadrature) * complex(
        math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    )
    expected = colorsys.yiq_to_rgb(luma, turned.real, turned.imag)
    images = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    ours = recolor(images, hue=math.radians(degrees))[0, :, 0, 0]
    # Theirs are the axes of 1953 to two digits; the change itself is above 0.05 from 20 degrees on.
    assert ours.tolist() == pytest.approx(expected, abs=0.005)


@given(seed=st.integers(0, 999), hue=st.floats(-math.pi, math.pi), saturation=st.floats(0, 2))
def test_hue_and_saturation_keep_the_luma(seed, hue, saturation):
    images = random_images(seed)
    changed = recolor(images, hue=hue, saturation=saturation)
    torch.testing.assert_close((changed * LUMA).sum(1), (images * LUMA).sum(1), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 999), hue=st.floats(-math.pi, math.pi))
def test_hue_back_again_is_the_identity(seed, hue):
    images = random_images(seed)
    # Twice a rounding of the matrix, in float32.
    torch.testing.assert_close(
        recolor(recolor(images, hue=hue), hue=-hue), images, atol=1e-5, rtol=0
    )


def test_all_changes_at_once_equal_one_after_the_other():
    images = random_images()
    changes = {"brightness": 0.1, "contrast": 1.2, "saturation": 0.7, "hue": 0.3}
    expected = images
    for name, value in changes.items():
        expected = recolor(expected, **{name: value})
    torch.testing.assert_close(recolor(images, **changes), expected, atol=1e-5, rtol=0)


def test_images_are_recoloured_each_on_its_own():
    images = random_images()
    contrast = torch.tensor([0.5, 1.0, 1.5])
    zeros, ones = torch.zeros(3), torch.ones(3)
    changed = adjust_color(images, brightness=zeros, contrast=contrast, saturation=ones, hue=zeros)
    for row in range(3):
        alone = recolor(images[row : row + 1], contrast=float(contrast[row]))
        torch.testing.assert_close(changed[row], alone[0])


def test_blur_of_zero_changes_no_bit():
    images = random_images()
    assert torch.equal(blur(images, torch.zeros(3)), images)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.1, 2.0])
def test_blur_equals_torchvision(sigma):
    images = random_images()
    ours = blur(images, torch.tensor([0.0, sigma, sigma / 2]))
    torch.testing.assert_close(ours[1], theirs.gaussian_blur(images[1], 5, sigma))
    torch.testing.assert_close(ours[2], theirs.gaussian_blur(images[2], 5, sigma / 2))
    assert torch.equal(ours[0], images[0])


def test_noise_has_the_standard_deviation_of_its_image():
    images = torch.full((2, 3, 64, 64), 0.5)
    normal = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = add_noise(images, torch.tensor([0.0, 0.02]), normal=normal)
    assert torch.equal(noisy[0], images[0])
    # Of 12,288 numbers, the standard error is 0.6 %.
    assert float((noisy[1] - 0.5).std()) == pytest.approx(0.02, rel=0.03)
