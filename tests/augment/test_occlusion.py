import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.augment.occlusion import Hairs, cut_holes, draw_hairs, mask_circle

SIDE = 64


def white(num: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.ones(num, 3, side, side)


def hair(**changes: float) -> Hairs:
    """One hair in one image; without changes it is level, straight and in the middle."""
    values = {"x": 0.5, "y": 0.5, "angle": 0, "length": 1, "sag": 0, "thickness": 0.05} | changes
    return Hairs(*(torch.full((1, 1), float(values[name])) for name in Hairs._fields))


def black(hairs: Hairs) -> torch.Tensor:
    """How much of each pixel of a white image a black hair covers."""
    return 1 - draw_hairs(white(), hairs, shade=torch.zeros(1))[0, 0]


def test_hair_is_as_thick_and_as_long_as_it_says():
    ink = black(hair(length=0.5))
    # 3.2 pixels at an opacity of 0.9.
    assert float(ink[:, SIDE // 2].sum()) == pytest.approx(0.9 * 3.2, abs=0.1)
    ends = torch.nonzero(ink.max(0).values > 0.05).squeeze(1)
    # The tips are thinner than a pixel.
    assert int(ends[-1] - ends[0] + 1) == pytest.approx(SIDE / 2, abs=6)


def test_hair_lies_in_its_direction():
    rows, columns = torch.nonzero(black(hair(angle=math.pi / 4)) > 0.5, as_tuple=True)
    # The image's y points downwards.
    assert int((rows - columns).abs().max()) <= 3
    assert len(rows) > SIDE


def test_hair_bends_to_its_sag_at_both_ends():
    ink = black(hair(sag=0.1, length=0.8))
    heights = (ink * torch.arange(SIDE)[:, None]).sum(0) / ink.sum(0).clamp_min(1e-6)
    middle, near_end = float(heights[SIDE // 2]), float(heights[SIDE // 2 + 22])
    # 22 of 25.6 pixels to the end, and 6.4 pixels of sag.
    assert near_end - middle == pytest.approx(6.4 * (22 / 25.6) ** 2, abs=0.5)


def test_hair_out_of_sight_leaves_no_trace():
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for angle in torch.linspace(0, math.pi, 16).tolist():
        hairs = hair(x=-10, angle=angle, length=1.4, sag=0.17)
        assert torch.equal(draw_hairs(images, hairs, shade=torch.ones(1)), images)


@given(
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    angle=st.floats(0, math.pi),
    sag=st.floats(-0.2, 0.2),
    shade=st.floats(0, 1),
)
def test_hair_keeps_shape_and_range(x, y, angle, sag, shade):
    drawn = draw_hairs(
        white(side=16), hair(x=x, y=y, angle=angle, sag=sag), shade=torch.full((1,), shade)
    )
    assert drawn.shape == (1, 3, 16, 16)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_light_hair_is_brown():
    darkest = draw_hairs(white(), hair(), shade=torch.ones(1)).amin((0, 2, 3))
    assert darkest[0] > darkest[1] > darkest[2] > 0


def test_hair_of_one_setting_covers_the_same_share_at_every_size():
    shares = [
        float((1 - draw_hairs(white(side=side), hair(), shade=torch.zeros(1))).mean())
        for side in (64, 128, 256)
    ]
    # The tips are anti-aliased by pixels, not by sides.
    assert shares == pytest.approx([shares[-1]] * 3, rel=0.1)


def test_circle_is_as_large_as_it_says():
    masked = mask_circle(white(2), torch.tensor([0.4, 1.0]))
    assert float(masked[0].mean()) == pytest.approx(math.pi * 0.4**2, abs=0.002)
    assert torch.equal(masked[1], white()[0])
    assert torch.equal(masked[0], masked[0].flip(-1))
    assert float(masked[0, 0, 0, 0]) == 0


def test_holes_are_square_black_and_where_they_should_be():
    side = torch.tensor([0.25, 0.0])
    centres = torch.tensor([[0.25, 0.75], [0.25, 0.75]])
    cut = cut_holes(white(2), centres, centres.flip(1), side=side)
    expected = white()
    # Sides of 16 pixels around pixels 16 and 48.
    expected[..., 40:56, 8:24] = 0
    expected[..., 8:24, 40:56] = 0
    assert torch.equal(cut[:1], expected)
    assert torch.equal(cut[1:], white())


def test_hole_is_cut_off_at_the_border():
    corner = torch.zeros(1, 1)
    cut = cut_holes(white(), corner, corner, side=torch.tensor([0.5]))
    assert float(1 - cut.mean()) == 0.25**2


def test_overlapping_holes_are_black_too():
    centres = torch.full((1, 3), 0.5)
    cut = cut_holes(white(), centres, centres, side=torch.tensor([0.5]))
    assert float(1 - cut.mean()) == 0.5**2
    assert set(cut.unique().tolist()) == {0.0, 1.0}
