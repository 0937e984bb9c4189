"""Symmetries of the square and small affine warps of a batch, by selects and matrix products.

Nothing here reads pixels at computed addresses: torch_xla has no lowering of ``grid_sample``
(pytorch/xla issue 6581; it would leave the graph for the host in every step), and gathers are slow
on a TPU. An affine map is two one-dimensional passes instead (Catmull and Smith, SIGGRAPH 1980):
every row is shifted by its own amount, columns and rows are resampled by one matrix each, and every
column is shifted. What comes from outside the image is black, as with the 2020 winner's
``border_mode=0``.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

#: Flips, quarter turns and transposes of a square.
NUM_SYMMETRIES = 8


class Affine(NamedTuple):
    """How each image of a batch is warped: rotated, then zoomed, sheared and shifted; (B,) each."""

    #: Radians, counter-clockwise.
    angle: Tensor
    #: Factor: above 1 enlarges.
    zoom: Tensor
    #: Radians by which vertical lines lean to the right at their top.
    shear: Tensor
    #: To the right, in widths of the image.
    shift_x: Tensor
    #: Downwards, in heights of the image.
    shift_y: Tensor


def dihedral(images: Tensor, k: int) -> Tensor:
    """Return one of the 8 symmetries of a whole batch.

    Args:
        images: (B, C, S, S), any dtype.
        k: 0 to 7: transposed if bit 2 is set, then flipped top to bottom if bit 1 is, then left to
            right if bit 0 is. So 0 is the identity, 0 to 3 are the mirrored views.

    Returns:
        (B, C, S, S), dtype of `images`.

    Raises:
        ValueError: `k` is none of them, or the images are not square.
    """
    if not 0 <= k < NUM_SYMMETRIES:
        raise ValueError(f"dihedral: expected k from 0 to {NUM_SYMMETRIES - 1}, found {k}")
    _check_square(images)
    if k & 4:
        images = images.mT
    axes = [axis for axis, bit in ((-1, 1), (-2, 2)) if k & bit]
    return images.flip(axes) if axes else images


def symmetries(images: Tensor, k: Tensor) -> Tensor:
    """Return each image in a symmetry of its own.

    Args:
        images: (B, C, S, S), any dtype.
        k: (B,) integer in 0..7, as in `dihedral`; 0 leaves an image as it is.

    Returns:
        (B, C, S, S), dtype of `images`.

    Raises:
        ValueError: the images are not square.
    """
    _check_square(images)
    if images.device.type == "xla" and images.dtype == torch.uint8:
        return symmetries_by_products(images, k)
    k = k.view(-1, 1, 1, 1)
    images = torch.where((k & 4) > 0, images.mT, images)
    images = torch.where((k & 2) > 0, images.flip(-2), images)
    return torch.where((k & 1) > 0, images.flip(-1), images)


def symmetries_by_products(images: Tensor, k: Tensor) -> Tensor:
    """Return what `symmetries` does, by matrix products that mirror rows and columns.

    A TPU reverses an axis in passes over memory of their own, in float32; its matrix unit does it
    on the way. bfloat16 holds all of 0 to 255, and each sum has one term, so nothing is rounded.

    Args:
        images: (B, C, S, S) uint8.
        k: (B,) integer in 0..7.

    Returns:
        (B, C, S, S) uint8.
    """
    size = images.shape[-1]
    is_transposed = (k & 4) > 0
    # A transposed image is the transpose of one that is mirrored along the other axis.
    mirrors_columns = torch.where(is_transposed, k & 2, k & 1) > 0
    mirrors_rows = torch.where(is_transposed, k & 1, k & 2) > 0
    places = torch.arange(size, device=images.device)
    keep = (places[:, None] == places).to(torch.bfloat16)
    turn = (places[:, None] + places == size - 1).to(torch.bfloat16)
    columns = torch.where(mirrors_columns[:, None, None], turn, keep)
    rows = torch.where(mirrors_rows[:, None, None], turn, keep)
    pixels = images.to(torch.bfloat16)
    pixels = (pixels.flatten(1, 2) @ columns).view(pixels.shape)
    pixels = torch.einsum("brs,bcsw->bcrw", rows, pixels)
    return torch.where(is_transposed[:, None, None, None], pixels.mT, pixels).to(torch.uint8)


def warp_affine(images: Tensor, affine: Affine, *, max_angle: float, max_shear: float) -> Tensor:
    """Return the images rotated, zoomed, sheared and shifted about their centres.

    An output pixel (x, y) from the centre shows the source at A (x, y) + t with A = R K / zoom, R
    the rotation and K = ((1, tan shear), (0, 1)). Rows are shifted by (b / d) y, columns by
    (c / d) x, both linearly interpolated; in between, each axis is resampled by cubic convolution
    (Keys, 1981, a = -1/2), clamped to [0, 1]. Identity parameters give the image bit by bit.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        affine: the parameters of each image.
        max_angle: no angle is further from 0 than this, radians, at most pi / 4. Like `max_shear`
            it is a number, since it fixes the shapes in between.
        max_shear: likewise for the shear, radians.

    Returns:
        (B, C, H, W) float32 in [0, 1], black where the source lies outside.
    """
    height, width = images.shape[-2:]
    cos, sin, lean = affine.angle.cos(), affine.angle.sin(), affine.shear.tan()
    a, b = cos / affine.zoom, (lean * cos - sin) / affine.zoom
    c, d = sin / affine.zoom, (lean * sin + cos) / affine.zoom
    shift_x, shift_y = affine.shift_x * width, affine.shift_y * height
    offset_x, offset_y = -(a * shift_x + b * shift_y), -(c * shift_x + d * shift_y)
    row_slope, column_slope = b / d, c / d
    # The steepest slopes that the bounds allow, times half a side: pixels.
    row_reach = math.ceil(math.tan(max_angle + max_shear) * (height - 1) / 2)
    steepest = math.tan(max_angle) / (1 - math.tan(max_angle) * math.tan(max_shear))
    column_reach = math.ceil(steepest * (width - 1) / 2)

    # Rows, channels, columns: so that both resamplings are one matrix product an image, uncopied.
    lines = F.pad(images.transpose(1, 2), (2 * row_reach, 2 * row_reach + 1))
    offsets = _outer(row_slope, _centred(height, like=row_slope)) + row_reach
    lines = _shift(lines, offsets[:, :, None, None], dim=3, reach=2 * row_reach)

    columns = _centred(width, like=row_slope)
    places = _outer(a - b * column_slope, columns) + (offset_x - row_slope * offset_y)[:, None]
    size = lines.shape[3]
    weights = _cubic_weights(places + (size - 1) / 2, size=size)
    lines = (lines.flatten(1, 2) @ weights.mT).view(-1, height, images.shape[1] * width)

    # One row more than the shift needs at most, for the interpolation.
    num_rows = height + 2 * column_reach + 1
    rows = _centred(num_rows - 1, like=d)
    rows = torch.cat([rows, rows[-1:] + 1])
    places = _outer(d, rows) + offset_y[:, None]
    lines = _cubic_weights(places + (height - 1) / 2, size=height) @ lines

    offsets = _outer(column_slope, columns) + column_reach
    lines = lines.view(-1, num_rows, images.shape[1], width)
    lines = _shift(lines, offsets[:, None, None], dim=1, reach=2 * column_reach)
    return lines.clamp_(0, 1).transpose(1, 2).contiguous()


def _shift(lines: Tensor, offsets: Tensor, *, dim: int, reach: int) -> Tensor:
    """Return lines that start `offsets` pixels further on, linearly interpolated.

    A whole shift is a sum of halving steps, each of them one select over the whole batch.

    Args:
        lines: (B, H, C, W) float32, along `dim` longer by `reach` + 1 than what is wanted of it.
        offsets: (B, H, 1, 1) or (B, 1, 1, W) float32 in [0, reach], pixels.
        dim: along which the lines run.
        reach: the largest offset.

    Returns:
        (B, H, C, W) float32, shorter by `reach` + 1 along `dim`.
    """
    # Rounding must not carry an offset over either end.
    offsets = offsets.clamp(0, reach)
    whole = offsets.floor()
    fraction = offsets - whole
    while reach:
        step = (reach + 1) // 2
        size = lines.shape[dim] - step
        is_moved = whole >= step
        lines = torch.where(is_moved, lines.narrow(dim, step, size), lines.narrow(dim, 0, size))
        whole = whole - step * is_moved
        reach -= step
    size = lines.shape[dim] - 1
    return torch.lerp(lines.narrow(dim, 0, size), lines.narrow(dim, 1, size), fraction)


def _cubic_weights(places: Tensor, *, size: int) -> Tensor:
    """Return (B, N, size) float32, the weights of `size` pixels in N values at (B, N) `places`.

    Keys' kernel with a = -1/2, written in powers cut off at 0 so that it needs no select.
    """
    pixels = torch.arange(size, device=places.device, dtype=places.dtype)
    distance = (places[..., None] - pixels).abs()
    outer, inner = (2 - distance).clamp_min(0), (1 - distance).clamp_min(0)
    return outer.square() * (0.5 * outer - 0.5) + inner.square() * (1 - 2 * inner)


def _centred(size: int, *, like: Tensor) -> Tensor:
    """Return (size,) float32, the pixel centres of a line from its middle, in pixels."""
    return torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2


def _outer(slopes: Tensor, places: Tensor) -> Tensor:
    """Return (B, N), each of (B,) `slopes` times (N,) `places`."""
    return slopes[:, None] * places


def _check_square(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f"symmetries: expected square images, found {height}x{width} pixels; a transpose would "
            "change their shape"
        )
