"""All augmentations in their order, by the draws that a batch carries.

The order is the winner's: symmetries, colours, blur or noise, warp, hole. Colours come before the
warp, so that its border stays black and does not count in the mean that contrast is about. Hair and
microscope have a colour and a place of their own, so they come after both, and under the holes.
Mixing is last: a target counts the pixels that the network sees.

Each op has fixed columns of the draws, its gate first: switching one op off changes no other. An op
whose probability is 0 is not in the graph at all; any other is applied to the whole batch with
parameters that change nothing where the gate is closed, so shapes and graph depend on no value.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_melanoma.augment.color import add_noise, adjust_color, blur, unit_range
from lightning_melanoma.augment.geometry import NUM_SYMMETRIES, Affine, symmetries, warp_affine
from lightning_melanoma.augment.mixing import cutmix, mixup, partner_is_valid
from lightning_melanoma.augment.occlusion import Hairs, cut_holes, draw_hairs, mask_circle
from lightning_melanoma.augment.presets import augment_settings
from lightning_melanoma.data.draws import NUM_DRAWS

# The first column of each op; what follows the gate is named where it is used. Noise and cutmix
# share the columns of blur and mixup, whose gates they read from the other end: an image has at
# most one of both.
_FIRST_COLUMN = {
    "symmetry": 0,
    "rotation": 2,
    "zoom": 4,
    "shift": 6,
    "shear": 9,
    "blur": 11,
    "brightness": 13,
    "contrast": 15,
    "saturation": 17,
    "hue": 19,
    "vignette": 21,
    "cutout": 23,
    "mixup": 26,
    # Gate, then x and y of each hole.
    "coarse": 30,
    # Gate, count, shade and direction, then 6 of each hair.
    "hair": 47,
}
_DRAWS_A_HAIR = 6
_SHARES_COLUMNS = {"noise": "blur", "cutmix": "mixup"}
_AFFINE = ("rotation", "zoom", "shift", "shear")
_COLOR = ("brightness", "contrast", "saturation", "hue")
_OPS = (*_FIRST_COLUMN, *_SHARES_COLUMNS)
# The largest circle of the vignette, in sides: S/2 + 15 pixels at S = 256, as others drew it.
_LARGEST_CIRCLE = 0.56
# A circle around the whole image, and a place where a hair is not seen, in sides.
_NO_CIRCLE = 1.0
_OUT_OF_SIGHT = -10.0
# Hair of one image lies within this angle of a common direction, radians.
_HAIR_SPREAD = 0.6
# The shortest and the longest hair, in sides, and the most that its ends bend away, in lengths.
_HAIR_LENGTHS = (0.4, 1.4)
_HAIR_SAG = 0.12
# The size that `hair_magnitude` is given for, pixels.
_HAIR_UNIT = 256


class BatchAugment(nn.Module):
    """Augments a batch as its draws say.

    Args:
        preset: `none`, `light` or `strong`.
        changes: single settings that differ from the preset, by name.

    Attributes:
        settings: the preset with the changes.

    Raises:
        ValueError: the preset or a name is unknown, or a value is out of its range.
    """

    def __init__(self, preset: str = "light", changes: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.settings = augment_settings(preset, changes)

    @property
    def mixes_targets(self) -> bool:
        """Whether targets come out soft."""
        return self._has("mixup", "cutmix")

    def forward(
        self, images: Tensor, targets: Tensor, valid: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the images and targets of an augmented batch.

        Args:
            images: (B, 3, S, S) uint8, or float32 in [0, 1], RGB.
            targets: (B,) float32 in [0, 1].
            valid: (B,) bool, False for padding.
            draws: (B, NUM_DRAWS) float32 in [0, 1).

        Returns:
            Images (B, 3, S, S) float32 in [0, 1], in the memory format that they came in, and
            targets (B,) float32 in [0, 1].

        Raises:
            ValueError: there are not NUM_DRAWS draws for each image.
        """
        if draws.shape != (len(images), NUM_DRAWS):
            raise ValueError(
                f"draws: expected shape ({len(images)}, {NUM_DRAWS}), found {tuple(draws.shape)}"
            )
        if not self._has(*_OPS):
            return unit_range(images), targets
        is_channels_last = not images.is_contiguous()
        images = images.contiguous()
        # Half precision would cost the pixels their last bits.
        with torch.autocast(images.device.type, enabled=False):
            # Pixels are cheapest to move before they become float32.
            images = unit_range(self._mirror(images, draws))
            for stage in (self._recolor, self._blur, self._warp, self._cover):
                images = stage(images, draws)
            images, targets = self._mix(images, targets, valid, draws)
        if is_channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets

    def _has(self, *ops: str) -> bool:
        return any(self.settings.probability(op) > 0 for op in ops)

    def _gate(self, op: str, draws: Tensor) -> Tensor:
        """Return (B,) bool, True where an op is applied."""
        gate = _column(draws, op, 0)
        if op in _SHARES_COLUMNS:
            return gate >= 1 - self.settings.probability(op)
        return gate < self.settings.probability(op)

    def _amount(self, op: str, draws: Tensor) -> Tensor:
        """Return (B,) float32, uniform from 0 to the magnitude; 0 where the op is not applied."""
        amount = _column(draws, op, 1) * self.settings.magnitude(op)
        return amount * self._gate(op, draws)

    def _change(self, op: str, draws: Tensor, number: int = 1) -> Tensor:
        """Return (B,) float32, uniform in +-magnitude; 0 where the op is not applied."""
        change = (2 * _column(draws, op, number) - 1) * self.settings.magnitude(op)
        return change * self._gate(op, draws)

    def _mirror(self, images: Tensor, draws: Tensor) -> Tensor:
        if not self._has("symmetry"):
            return images
        k = (_column(draws, "symmetry", 1) * NUM_SYMMETRIES).int()
        return symmetries(images, k * self._gate("symmetry", draws))

    def _recolor(self, images: Tensor, draws: Tensor) -> Tensor:
        if not self._has(*_COLOR):
            return images
        recolored = adjust_color(
            images,
            brightness=self._change("brightness", draws),
            contrast=1 + self._change("contrast", draws),
            saturation=1 + self._change("saturation", draws),
            hue=self._change("hue", draws).deg2rad(),
        )
        return recolored.clamp_(0, 1)

    def _blur(self, images: Tensor, draws: Tensor) -> Tensor:
        if self._has("blur"):
            images = blur(images, self._amount("blur", draws))
        if self._has("noise"):
            # The one op with the device's own generator: draws for all pixels would outweigh them.
            normal = torch.randn_like(images)
            images = add_noise(images, self._amount("noise", draws), normal=normal).clamp_(0, 1)
        return images

    def _warp(self, images: Tensor, draws: Tensor) -> Tensor:
        if not self._has(*_AFFINE):
            return images
        # Bounds of angles that are never drawn would only make the warp larger.
        max_angle, max_shear = (
            math.radians(self.settings.magnitude(op)) * self._has(op)
            for op in ("rotation", "shear")
        )
        affine = Affine(
            angle=self._change("rotation", draws).deg2rad(),
            zoom=1 + self._change("zoom", draws),
            shear=self._change("shear", draws).deg2rad(),
            shift_x=self._change("shift", draws, 1),
            shift_y=self._change("shift", draws, 2),
        )
        return warp_affine(images, affine, max_angle=max_angle, max_shear=max_shear)

    def _cover(self, images: Tensor, draws: Tensor) -> Tensor:
        if self._has("hair"):
            images = draw_hairs(images, self._hairs(draws), shade=_column(draws, "hair", 2))
        if self._has("vignette"):
            radius = _LARGEST_CIRCLE - self._amount("vignette", draws)
            is_masked = self._gate("vignette", draws)
            images = mask_circle(images, torch.where(is_masked, radius, _NO_CIRCLE))
        for op, num_holes in (("cutout", 1), ("coarse", int(self.settings.coarse_count))):
            if self._has(op):
                side = self.settings.magnitude(op) * self._gate(op, draws).float()
                centres = _columns(draws, op, 1, count=2 * num_holes)
                images = cut_holes(images, centres[:, 0::2], centres[:, 1::2], side=side)
        return images

    def _hairs(self, draws: Tensor) -> Hairs:
        num_hairs = int(self.settings.hair_count)
        own = _columns(draws, "hair", 4, count=_DRAWS_A_HAIR * num_hairs)
        x, y, turn, length, sag, thickness = own.reshape(-1, num_hairs, _DRAWS_A_HAIR).unbind(2)
        angle = math.pi * _column(draws, "hair", 3)[:, None] + _HAIR_SPREAD * (2 * turn - 1)
        shortest, longest = _HAIR_LENGTHS
        length = shortest + (longest - shortest) * length
        count = 1 + (_column(draws, "hair", 1) * num_hairs).floor()
        numbers = torch.arange(num_hairs, device=draws.device)
        is_drawn = (numbers < count[:, None]) & self._gate("hair", draws)[:, None]
        thickest = self.settings.hair_magnitude / _HAIR_UNIT
        return Hairs(
            x=torch.where(is_drawn, x, _OUT_OF_SIGHT),
            y=y,
            angle=angle,
            length=length,
            sag=_HAIR_SAG * length * (2 * sag - 1),
            thickness=thickest * (0.5 + 0.5 * thickness),
        )

    def _mix(
        self, images: Tensor, targets: Tensor, valid: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not self.mixes_targets:
            return images, targets
        has_partner = partner_is_valid(valid)
        if self._has("mixup"):
            weight = self._amount("mixup", draws) * has_partner
            images, targets = mixup(images, targets, weight=weight)
        if self._has("cutmix"):
            x, y = _column(draws, "cutmix", 2), _column(draws, "cutmix", 3)
            area = self._amount("cutmix", draws) * has_partner
            images, targets = cutmix(images, targets, x=x, y=y, area=area)
        return images, targets


def _columns(draws: Tensor, op: str, number: int, *, count: int) -> Tensor:
    """Return (B, count) of the draws of an op, from the `number`th on."""
    first = _FIRST_COLUMN[_SHARES_COLUMNS.get(op, op)] + number
    return draws[:, first : first + count]


def _column(draws: Tensor, op: str, number: int) -> Tensor:
    """Return (B,), the `number`th draw of an op."""
    return _columns(draws, op, number, count=1).squeeze(1)
