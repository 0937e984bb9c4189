import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torchvision.transforms.v2 import functional as theirs

from lightning_melanoma.augment.geometry import (
    NUM_SYMMETRIES,
    Affine,
    dihedral,
    symmetries,
    symmetries_by_products,
    warp_affine,
)

SIDE = 48
# A linear interpolation errs by up to an eighth of the second difference, which is at most 0.044 in
# the smooth images: 0.0055 for each axis, and both sides interpolate linearly once along each.
TOLERANCE = 0.022
MAX_ANGLE, MAX_SHEAR = math.radians(45), math.radians(20)


def random_images(*, num: int = 4, side: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


def smooth_images() -> torch.Tensor:
    """Two images without detail at the scale of a pixel, where all interpolations agree."""
    blurred = ndimage.gaussian_filter(random_images(num=2, side=SIDE).numpy(), (0, 0, 3, 3))
    return torch.from_numpy((blurred - blurred.min()) / (blurred.max() - blurred.min()))


def affine_of(num: int = 2, **changes: float) -> Affine:
    values = {"angle": 0, "zoom": 1, "shear": 0, "shift_x": 0, "shift_y": 0} | changes
    return Affine(*(torch.full((num,), float(values[name])) for name in Affine._fields))


def warp(images: torch.Tensor, affine: Affine) -> torch.Tensor:
    return warp_affine(images, affine, max_angle=MAX_ANGLE, max_shear=MAX_SHEAR)


def test_symmetries_are_eight_and_have_inverses():
    images = random_images()
    views = [dihedral(images, k) for k in range(NUM_SYMMETRIES)]
    for number, view in enumerate(views):
        assert not any(torch.equal(view, other) for other in views[:number])
        backs = [torch.equal(dihedral(view, k), images) for k in range(NUM_SYMMETRIES)]
        assert sum(backs) == 1


def test_symmetries_are_closed_under_composition():
    images = random_images(num=1)
    views = [dihedral(images, k) for k in range(NUM_SYMMETRIES)]
    for view in views:
        for k in range(NUM_SYMMETRIES):
            assert any(torch.equal(dihedral(view, k), other) for other in views)


def test_first_four_symmetries_are_the_mirrored_views():
    images = random_images()
    expected = [images, images.flip(-1), images.flip(-2), images.flip(-2, -1)]
    assert all(torch.equal(dihedral(images, k), view) for k, view in enumerate(expected))


@given(ks=st.lists(st.integers(0, 7), min_size=4, max_size=4), seed=st.integers(0, 999))
def test_each_image_has_the_symmetry_that_the_whole_batch_would_have(ks, seed):
    images = random_images(seed=seed)
    ours = symmetries(images, torch.tensor(ks, dtype=torch.int32))
    for row, k in enumerate(ks):
        assert torch.equal(ours[row], dihedral(images, k)[row])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_mirroring_twice_is_the_identity(k):
    images, ks = random_images(), torch.full((4,), k)
    assert torch.equal(symmetries(symmetries(images, ks), ks), images)


@pytest.mark.parametrize("side", [8, 9])
def test_products_mirror_uint8_images_to_the_last_bit(side):
    images = torch.arange(8 * 3 * side * side).remainder(256).to(torch.uint8)
    images, ks = images.view(8, 3, side, side), torch.arange(8, dtype=torch.int32)
    assert torch.equal(symmetries_by_products(images, ks), symmetries(images, ks))


def test_symmetries_refuse_images_that_are_not_square():
    images = torch.rand(2, 3, 4, 6)
    with pytest.raises(ValueError, match="expected square images, found 4x6"):
        symmetries(images, torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="expected square images, found 4x6"):
        dihedral(images, 1)


def test_ninth_symmetry_is_refused():
    with pytest.raises(ValueError, match="expected k from 0 to 7, found 8"):
        dihedral(random_images(), 8)


def test_identity_warp_changes_no_bit():
    images = random_images(side=SIDE)
    assert torch.equal(warp(images, affine_of(num=4)), images)


@given(
    angle=st.floats(-MAX_ANGLE, MAX_ANGLE),
    zoom=st.floats(0.5, 1.5),
    shear=st.floats(-MAX_SHEAR, MAX_SHEAR),
    shift_x=st.floats(-1, 1),
    shift_y=st.floats(-1, 1),
    height=st.integers(3, 12),
    width=st.integers(3, 12),
)
@settings(max_examples=50)
def test_warp_keeps_shape_and_range(angle, zoom, shear, shift_x, shift_y, height, width):
    images = random_images(side=12)[..., :height, :width]
    affine = affine_of(4, angle=angle, zoom=zoom, shear=shear, shift_x=shift_x, shift_y=shift_y)
    warped = warp(images, affine)
    assert warped.shape == images.shape
    assert warped.dtype == torch.float32
    assert 0 <= warped.min() <= warped.max() <= 1


CASES = [
    {"angle": MAX_ANGLE},
    {"angle": -0.26},
    {"zoom": 1.3},
    {"zoom": 0.8},
    {"shear": 0.1},
    {"shift_x": 0.1, "shift_y": -0.05},
    {"angle": 0.2, "zoom": 1.08, "shear": -0.1, "shift_x": 0.07, "shift_y": 0.1},
    {"angle": -0.5, "zoom": 0.9, "shear": 0.2, "shift_x": -0.2},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))
def test_warp_equals_scipy(case):
    images, affine = smooth_images(), affine_of(**case)
    cos, sin = math.cos(affine.angle[0]), math.sin(affine.angle[0])
    rotation = np.array([[cos, -sin], [sin, cos]])
    shear = np.array([[1, math.tan(affine.shear[0])], [0, 1]])
    # Of (x, y), and then of (row, column).
    to_source = (rotation @ shear / float(affine.zoom[0]))[::-1, ::-1]
    shift = SIDE * np.array([affine.shift_y[0], affine.shift_x[0]])
    middle = (SIDE - 1) / 2
    offset = middle - to_source @ (middle + shift)

    def their_warp(channel):
        return ndimage.affine_transform(channel, to_source, offset, mode="grid-constant", order=1)

    expected = np.stack([[their_warp(channel) for channel in image] for image in images.numpy()])
    inside = np.ones((SIDE, SIDE))
    # Where the black outside is an interpolation away, the three passes soften its edge otherwise.
    far_inside = ndimage.minimum_filter(their_warp(inside), 7, mode="constant") > 0.999
    far_outside = ndimage.maximum_filter(their_warp(inside), size=7) < 0.001
    errors = np.abs(warp(images, affine).numpy() - expected)
    assert errors[..., far_inside].max() < TOLERANCE
    assert errors[..., far_outside].max(initial=0) == 0
    assert far_inside.mean() > 0.2
    assert errors.mean() < 0.02


def test_rotation_equals_torchvision_in_the_middle():
    images, degrees = smooth_images(), 15
    ours = warp(images, affine_of(angle=math.radians(degrees)))
    expected = theirs.rotate(images, degrees, theirs.InterpolationMode.BILINEAR)
    middle = slice(SIDE // 4, -SIDE // 4)
    torch.testing.assert_close(
        ours[..., middle, middle], expected[..., middle, middle], atol=TOLERANCE, rtol=0
    )


def test_looser_bounds_of_the_angle_change_only_the_work():
    images, affine = random_images(num=2, side=SIDE), affine_of(angle=0.2)
    tight = warp_affine(images, affine, max_angle=0.2, max_shear=0.0)
    # The sums of the products run over more zeros.
    torch.testing.assert_close(tight, warp(images, affine), atol=1e-5, rtol=0)


def test_rows_are_warped_each_on_its_own():
    images = random_images(side=12)
    angles = torch.linspace(-0.7, 0.7, 4)
    affine = affine_of(4)._replace(angle=angles)
    together = warp(images, affine)
    for row in range(4):
        own = Affine(*(field[row : row + 1] for field in affine))
        torch.testing.assert_close(warp(images[row : row + 1], own)[0], together[row])
