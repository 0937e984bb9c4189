"""What hides a part of the skin: holes, drawn hair, and the black border of a microscope.

All of them are arithmetic on the pixel grid, with lengths in sides of the image, so that one
setting means the same at every size. Hair is drawn, not pasted: no pictures of hair to ship or to
license.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# RGB of the lightest hair, brown; the darkest is black.
_BROWN = (0.30, 0.20, 0.14)
# How much of the skin a hair hides in its middle: the rest shines through, as in real images.
_HAIR_OPACITY = 0.9


class Hairs(NamedTuple):
    """The hairs of a batch, N an image: arcs of a parabola, thickest in the middle; (B, N) each."""

    #: Of the middle, from the left edge, in sides; far outside where there is no hair.
    x: Tensor
    #: Of the middle, from the top edge, in sides.
    y: Tensor
    #: Of the tangent in the middle, radians.
    angle: Tensor
    #: Sides.
    length: Tensor
    #: Distance of the ends from that tangent, in sides, small beside the length.
    sag: Tensor
    #: In the middle, across the tangent, in sides.
    thickness: Tensor


def draw_hairs(images: Tensor, hairs: Hairs, *, shade: Tensor) -> Tensor:
    """Return the images with hairs over them, anti-aliased.

    Args:
        images: (B, 3, S, S) float32 in [0, 1], RGB.
        hairs: N an image.
        shade: (B,) in [0, 1], from black to brown, one for all hairs of an image.

    Returns:
        (B, 3, S, S) float32 in [0, 1].
    """
    side = images.shape[-1]
    places = _pixel_centres(side, like=shade)
    ink = torch.zeros_like(images[:, 0])
    for number in range(hairs.x.shape[1]):
        x, y, angle, length, sag, thickness = (field[:, number, None, None] for field in hairs)
        from_x, from_y = places - x, places[:, None] - y
        cos, sin = angle.cos(), angle.sin()
        # Pixels along the tangent, squared, and across it.
        squared = (side * (from_x * cos + from_y * sin)).square()
        across = side * (from_y * cos - from_x * sin)
        # 1 at the ends of the hair once it is multiplied by the square: where the curve has its
        # full sag, and the thickness is 0; behind them it is negative.
        to_end = 4 / (side * length).square()
        distance = torch.addcmul(across, squared, -side * sag * to_end).abs()
        half = side * thickness / 2
        # A pixel that the edge halves is half covered.
        ink = torch.maximum(ink, torch.addcmul(half + 0.5, squared, -half * to_end) - distance)
    ink = _HAIR_OPACITY * ink.clamp_max(1)
    colors = torch.stack([level * shade for level in _BROWN], dim=1)
    return torch.lerp(images, colors[:, :, None, None], ink[:, None])


def mask_circle(images: Tensor, radius: Tensor) -> Tensor:
    """Return the images black outside a centred circle, as a microscope shows them.

    Args:
        images: (B, C, S, S) float32 in [0, 1].
        radius: (B,) in sides; from 0.71 on, beyond the corners, nothing changes.

    Returns:
        (B, C, S, S) float32 in [0, 1].
    """
    side = images.shape[-1]
    squares = (_pixel_centres(side, like=radius) - 0.5).square()
    distance = (squares + squares[:, None]).sqrt()
    # A pixel that the edge halves is half covered.
    keep = (side * (radius.view(-1, 1, 1, 1) - distance) + 0.5).clamp(0, 1)
    return images * keep


def cut_holes(images: Tensor, x: Tensor, y: Tensor, *, side: Tensor) -> Tensor:
    """Return the images with black squares, cut off at the border as in the Cutout paper.

    DeVries and Taylor, arXiv:1708.04552, section 3.2: a centre may lie anywhere in the image.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        x: (B, N) in [0, 1), the centres of N holes, in widths.
        y: (B, N) in [0, 1), likewise, in heights.
        side: (B,) of all holes of an image, in sides; 0 for no hole.

    Returns:
        (B, C, H, W) float32 in [0, 1].
    """
    height, width = images.shape[-2:]
    half = side[:, None, None] / 2
    columns = (_pixel_centres(width, like=x) - x[..., None]).abs() < half
    rows = (_pixel_centres(height, like=y) - y[..., None]).abs() < half
    # How many holes a pixel lies in: (B, H, N) times (B, N, W).
    num_holes = rows.to(images.dtype).mT @ columns.to(images.dtype)
    return images * (num_holes < 0.5)[:, None]


def _pixel_centres(size: int, *, like: Tensor) -> Tensor:
    """Return (size,) float32 in (0, 1), the pixel centres of a line, in sides."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
