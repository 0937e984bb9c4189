"""Colour, sharpness and noise of a batch: all colour changes at once are one affine map a pixel.

Brightness is a sum, contrast a stretch about the mean luma, saturation a stretch of the chroma
about the luma, hue a rotation of the chroma, the last two in YIQ. Brightness is defined as in
albumentations, contrast and saturation as in torchvision; the hue is cheaper than theirs in HSV,
and keeps the luma. Nothing is clamped here: the caller clamps once behind the last of these.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Rec. 601: the share of R, G and B in the luma, and the axes I and Q of the chroma (NTSC, 1953).
_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = (_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
# Taps of the blur on each side of its middle: 5 in all, as the winner's `blur_limit`.
_BLUR_REACH = 2


def _chroma_maps() -> tuple[list[list[float]], list[list[float]]]:
    """Return two (3, 3) maps of RGB: to its chroma, and to its chroma turned by a quarter."""
    to_yiq = torch.tensor(_TO_YIQ, dtype=torch.float64)
    to_rgb = torch.linalg.inv(to_yiq)
    keep = torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    turn = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    return (to_rgb @ keep @ to_yiq).tolist(), (to_rgb @ turn @ to_yiq).tolist()


# Numbers, not tensors: a constant of the graph on every device, nothing to move there.
_CHROMA, _TURNED_CHROMA = _chroma_maps()


def unit_range(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]; float32 ones as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def adjust_color(
    images: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Return the images with other colours, in one product a pixel and one mean an image.

    With m the mean luma of an image, x' = contrast K x + (1 - contrast) m + brightness, where K
    keeps the luma, and scales the chroma by `saturation` and turns it by `hue`.

    Args:
        images: (B, 3, H, W) float32 in [0, 1], RGB.
        brightness: (B,) added to every channel; 0 changes nothing.
        contrast: (B,) factor about the mean luma; 1 changes nothing.
        saturation: (B,) factor of the chroma; 0 is grey, 1 changes nothing.
        hue: (B,) radians in the I-Q plane; 0 changes nothing.

    Returns:
        (B, 3, H, W) float32, not clamped.
    """
    red, green, blue = images.mean(dim=(-2, -1)).unbind(1)
    mean = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    offset = (1 - contrast) * mean + brightness
    # Differences from the identity, so that no change is none bit by bit.
    along, across = saturation * hue.cos() - 1, saturation * hue.sin()
    entries = [
        contrast * (float(row == column) + along * chroma + across * turned)
        for row, (chromas, turneds) in enumerate(zip(_CHROMA, _TURNED_CHROMA, strict=True))
        for column, (chroma, turned) in enumerate(zip(chromas, turneds, strict=True))
    ]
    matrices = torch.stack(entries, dim=1).view(-1, 3, 3)
    if images.device.type == "xla":
        # Three rows fill no matrix unit, which would round the pixels to bfloat16, too. Sums fuse
        # with what stands before and behind them: the result is never written for itself.
        shifted = offset.view(-1, 1, 1, 1)
        for channel in range(3):
            column = matrices[:, :, channel].view(-1, 3, 1, 1)
            shifted = shifted + column * images[:, channel : channel + 1]
        return shifted
    pixels = torch.baddbmm(offset[:, None, None], matrices, images.flatten(2))
    return pixels.view(images.shape)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Return the images behind a separable Gaussian of 5 taps, mirrored at the border.

    Args:
        images: (B, C, H, W) float32, H and W at least 3.
        sigma: (B,) standard deviation in pixels; 0 changes nothing.

    Returns:
        (B, C, H, W) float32.
    """
    # A sigma of 0 must give weights, too: at a thousandth of a pixel the outer ones are exactly 0.
    variance = sigma.clamp_min(1e-3).square().view(-1, 1, 1, 1)
    taps = range(-_BLUR_REACH, _BLUR_REACH + 1)
    weights = [torch.exp(-(tap**2) / (2 * variance)) for tap in taps]
    total = sum(weights)
    padded = F.pad(images, (_BLUR_REACH,) * 4, mode="reflect")
    for axis in (-2, -1):
        size = images.shape[axis]
        blurred = padded.narrow(axis, 0, size) * (weights[0] / total)
        for tap in range(1, len(weights)):
            blurred.addcmul_(padded.narrow(axis, tap, size), weights[tap] / total)
        padded = blurred
    return padded


def add_noise(images: Tensor, std: Tensor, *, normal: Tensor) -> Tensor:
    """Return the images with Gaussian noise, independent for each pixel and channel.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        std: (B,) standard deviation of the noise, in the unit of the images; 0 changes nothing.
        normal: (B, C, H, W) float32, standard normal.

    Returns:
        (B, C, H, W) float32, not clamped.
    """
    return images + std.view(-1, 1, 1, 1) * normal
