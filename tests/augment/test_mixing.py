import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.augment.mixing import cutmix, mixup, partner_is_valid
from lightning_melanoma.augment.pipeline import BatchAugment
from lightning_melanoma.data.draws import NUM_DRAWS

NUM_ROWS = 4
unit = st.floats(0, 1, exclude_max=True, width=32)


def plain_images(side: int = 10) -> torch.Tensor:
    """Image n has the value n / 10 in every pixel, so that a mean tells whose pixels it has."""
    levels = torch.arange(NUM_ROWS).float() / 10
    return levels.view(-1, 1, 1, 1).expand(NUM_ROWS, 3, side, side).contiguous()


TARGETS = torch.tensor([0.0, 1.0, 1.0, 0.0])


def test_partner_is_the_row_before():
    images, targets = mixup(plain_images(), TARGETS, weight=torch.ones(NUM_ROWS))
    assert torch.equal(images, plain_images().roll(1, 0))
    assert torch.equal(targets, TARGETS.roll(1, 0))


@given(weights=st.lists(unit, min_size=NUM_ROWS, max_size=NUM_ROWS))
def test_mixup_blends_images_and_targets_alike(weights):
    weight = torch.tensor(weights)
    images, targets = mixup(plain_images(), TARGETS, weight=weight)
    partners = plain_images().roll(1, 0)
    blend = (1 - weight).view(-1, 1, 1, 1) * plain_images() + weight.view(-1, 1, 1, 1) * partners
    torch.testing.assert_close(images, blend)
    torch.testing.assert_close(targets, (1 - weight) * TARGETS + weight * TARGETS.roll(1, 0))


@given(x=unit, y=unit, area=st.floats(0, 1, width=32), side=st.integers(1, 16))
def test_target_of_cutmix_counts_the_pasted_pixels(x, y, area, side):
    row = torch.ones(NUM_ROWS)
    targets = torch.arange(NUM_ROWS).float() / 10
    images, mixed = cutmix(plain_images(side), targets, x=x * row, y=y * row, area=area * row)
    # Image and target started with the same number, so they must end with it.
    torch.testing.assert_close(images.mean((1, 2, 3)), mixed)
    is_pasted = images != plain_images(side)
    # To the next whole pixel along each axis.
    assert float(is_pasted.float().mean()) == pytest.approx(area, abs=1 / side)


def test_cutmix_pastes_one_rectangle():
    row = torch.ones(NUM_ROWS)
    images, _ = cutmix(plain_images(), TARGETS, x=0.0 * row, y=0.99 * row, area=0.25 * row)
    expected = plain_images()
    expected[..., 5:, :5] = plain_images().roll(1, 0)[..., 5:, :5]
    assert torch.equal(images, expected)


def test_nothing_to_mix_changes_no_bit():
    images = torch.rand(NUM_ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(NUM_ROWS)
    for mixed, targets in (
        mixup(images, TARGETS, weight=zero),
        cutmix(images, TARGETS, x=zero, y=zero, area=zero),
    ):
        assert torch.equal(mixed, images)
        assert torch.equal(targets, TARGETS)


def test_partner_of_the_first_row_is_the_last():
    assert partner_is_valid(torch.tensor([True, True, False])).tolist() == [False, True, True]


@pytest.mark.parametrize("op", ["mixup", "cutmix"])
def test_padding_is_never_a_partner(op):
    augment = BatchAugment("none", {f"{op}_probability": 1.0})
    # Gates that let all through, and the largest share.
    draws = torch.full((NUM_ROWS, NUM_DRAWS), 0.99)
    valid = torch.tensor([True, False, True, False])
    images, targets = augment(plain_images(), TARGETS, valid, draws)
    assert torch.equal(images[valid], plain_images()[valid])
    assert torch.equal(targets[valid], TARGETS[valid])
    images, _ = augment(plain_images(), TARGETS, torch.ones(NUM_ROWS, dtype=torch.bool), draws)
    assert not torch.isclose(images, plain_images()).all((1, 2, 3)).any()
