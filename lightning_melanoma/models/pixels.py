"""How the pixels of an image are distributed, in ten numbers that no training changes.

They tell a page, a grey picture or a landscape from skin, where the features of a network that only
ever saw skin may not.
"""

import torch
from torch import Tensor

# A grey level: what a constant channel deviates by where it does not, so that its logarithm is
# finite and far from that of any photograph.
_GREY_LEVEL = 1 / 255


def pixel_statistics(images: Tensor) -> Tensor:
    """Return means, spreads, spreads of colour and roughness.

    Args:
        images: (B, 3, H, W) float32 in [0, 1], RGB, at least 2 pixels on each side.

    Returns:
        (B, 10) float32: the mean of R, G and B; and of the following the logarithm of a grey level
        more: the standard deviations of R, G, B, R - G and B - G, and the mean absolute step from a
        pixel to the next, along the rows and along the columns.
    """
    red, green, blue = images.float().unbind(1)
    channels = torch.stack([red, green, blue, red - green, blue - green], dim=1)
    means = channels.mean((2, 3), keepdim=True)
    spreads = (channels - means).square().mean((2, 3)).sqrt()
    steps = [images.float().diff(dim=axis).abs().mean((1, 2, 3)) for axis in (3, 2)]
    positive = torch.cat([spreads, torch.stack(steps, dim=1)], dim=1)
    return torch.cat([means[:, :3, 0, 0], (positive + _GREY_LEVEL).log()], dim=1)
