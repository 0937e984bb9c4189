"""Mixup and cutmix: a row takes a part of the row before it, and the same part of its target.

The partner of a row is its neighbour, one roll over the batch: the order of a batch is random
already. A row whose partner is padding stays as it is. Targets become soft, so a loss must take
them.
"""

import torch
from torch import Tensor


def partner_is_valid(valid: Tensor) -> Tensor:
    """Return (B,) bool, True where the partner of a row is no padding; `valid` (B,) bool."""
    return valid.roll(1, 0)


def mixup(images: Tensor, targets: Tensor, *, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Blend each image with its partner, as in mixup (Zhang et al., arXiv:1710.09412, eq. 2).

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        targets: (B,) float32 in [0, 1].
        weight: (B,) float32 in [0, 1], the share of the partner; 0 changes nothing.

    Returns:
        Images (B, C, H, W) float32 in [0, 1] and targets (B,) float32 in [0, 1].
    """
    blended = torch.lerp(images, images.roll(1, 0), weight.view(-1, 1, 1, 1))
    return blended, torch.lerp(targets, targets.roll(1, 0), weight)


def cutmix(
    images: Tensor, targets: Tensor, *, x: Tensor, y: Tensor, area: Tensor
) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of its partner into each image (Yun et al., arXiv:1905.04899, eq. 1 and 2).

    Unlike the paper's, the rectangle lies wholly inside the image. It has the image's proportions,
    in whole pixels, and the target counts these pixels.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        targets: (B,) float32 in [0, 1].
        x: (B,) float32 in [0, 1), from the leftmost place of the rectangle to the rightmost.
        y: (B,) float32 in [0, 1), from the uppermost to the lowest.
        area: (B,) float32 in [0, 1], the wanted share of the partner; 0 changes nothing.

    Returns:
        Images (B, C, H, W) float32 in [0, 1] and targets (B,) float32 in [0, 1].
    """
    height, width = images.shape[-2:]
    rows = _interval(y, area.sqrt(), size=height)
    columns = _interval(x, area.sqrt(), size=width)
    is_pasted = (rows[:, :, None] & columns[:, None, :])[:, None]
    share = rows.float().mean(1) * columns.float().mean(1)
    pasted = torch.where(is_pasted, images.roll(1, 0), images)
    return pasted, torch.lerp(targets, targets.roll(1, 0), share)


def _interval(place: Tensor, share: Tensor, *, size: int) -> Tensor:
    """Return (B, size) bool, True in an interval of `share` (B,) of the line at `place` (B,)."""
    length = (share * size).round()
    start = (place * (size - length + 1)).floor()
    pixels = torch.arange(size, device=place.device, dtype=place.dtype)
    return (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
