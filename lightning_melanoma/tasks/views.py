"""What a network says of images in several symmetries of the square, and what kind they are of."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_melanoma.augment.geometry import dihedral


class Embedding(NamedTuple):
    """What tells images of one kind from others, on the device.

    Attributes:
        features: (B, F) float32, what the head of the network sees.
        pixels: (B, P) float32, statistics of the pixels.
    """

    features: Tensor
    pixels: Tensor


class Views(NamedTuple):
    """What a network says of images in several symmetries, on the device.

    Attributes:
        logits: (V, B) float32, one row a view.
        embedding: of the images as they are.
    """

    logits: Tensor
    embedding: Embedding


def look(network: nn.Module, images: Tensor, num_views: int) -> tuple[Tensor, Tensor]:
    """Return (V, B) float32 logits of the views, and (B, F) float32 features of the first.

    Args:
        network: with `embed` and `classify`.
        images: (B, 3, S, S) float32, normalised for it.
        num_views: V, the first so many symmetries, 1 to 8; 4 are the mirrored views.
    """
    parts: Any = network
    features = [parts.embed(dihedral(images, k)) for k in range(num_views)]
    logits = [parts.classify(each).float() for each in features]
    return torch.stack(logits), features[0].float()
