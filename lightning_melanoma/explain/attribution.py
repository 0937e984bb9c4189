"""Which parts of an image speak for melanoma: Grad-CAM, integrated gradients, occlusion.

Functions of a task in evaluation mode and images to one signed heat map an image: above 0 where the
image speaks for melanoma, below 0 where it speaks against. The methods are Captum's; here are the
choices that dermoscopy asks for. A heat map is no outline of a lesion, and no proof: models of
random weights have heat maps, too (Adebayo et al., arXiv 1810.03292).
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from lightning_melanoma.explain.layers import grad_cam_layer
from lightning_melanoma.tasks.classifier import MelanomaClassifier

#: What `heat_maps` can do.
Method = Literal["grad_cam", "integrated_gradients", "occlusion"]

# Points of the path that gradients are integrated over; Captum's own default.
_NUM_STEPS = 50
# Copies of images that go through the network at once, for memory.
_ROWS_AT_ONCE = 64
# An occluding square is this part of an image's side, and moves on by the other. Squares of an
# eighth raised the logit of demo melanomas as much as they lowered it: a small patch of skin
# within a lesion looks like one more irregularity.
_SQUARE, _STEP = 1 / 4, 1 / 16
# Part of an image's side that is taken for its border.
_BORDER = 1 / 16


def heat_maps(
    task: MelanomaClassifier,
    images: Tensor,
    *,
    method: Method = "grad_cam",
    layer: str | None = None,
) -> Tensor:
    """Return how much each pixel speaks for melanoma by one of the three methods.

    Args:
        task: any; it is set to evaluation mode for the time.
        images: (B, 3, H, W) float32 in [0, 1], RGB, of the size that the task was trained on.
        method: `grad_cam`, `integrated_gradients` or `occlusion`.
        layer: of Grad-CAM, as `grad_cam` takes it.

    Returns:
        (B, H, W) float32 on the CPU, without gradient.

    Raises:
        ValueError: Captum is not there, the method is unknown, `layer` is given to a method without
            one, or `grad_cam` refuses it.
    """
    _check_method(method, layer)
    settings = {"layer": layer} if method == "grad_cam" else {}
    with _evaluating(task):
        heat = _METHODS[method](task, images.to(task.device), **settings)
    return heat.detach().float().cpu()


def check_settings(
    task: MelanomaClassifier, *, image_size: int, method: Method, layer: str | None
) -> None:
    """Check ahead of long work that `heat_maps` will take these settings.

    Args:
        task: any.
        image_size: pixels of a side.
        method: as `heat_maps` takes it.
        layer: likewise.

    Raises:
        ValueError: as `heat_maps`.
    """
    _check_method(method, layer)
    if method == "grad_cam":
        images = torch.zeros(1, 3, image_size, image_size, device=task.device)
        with _evaluating(task):
            grad_cam_layer(task, images, layer=layer)


def grad_cam(task: MelanomaClassifier, images: Tensor, *, layer: str | None = None) -> Tensor:
    """Return the sum of a layer's feature maps, each weighted by the mean gradient of the logit.

    Selvaraju et al., "Grad-CAM" (ICCV 2017), equations 1 and 2, without the rectifier at the end:
    what is below 0 is their counterfactual explanation.

    Args:
        task: in evaluation mode.
        images: (B, 3, H, W) float32 in [0, 1].
        layer: by its name in the task's network; None for the one that
            `layers.grad_cam_layer` takes.

    Returns:
        (B, H, W) float32.

    Raises:
        ValueError: the network has no such layer, or the layer no feature maps.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    module = task.network.get_submodule(grad_cam_layer(task, images, layer=layer))
    maps = LayerGradCam(task, module).attribute(images)
    size = tuple(images.shape[-2:])
    resized: Tensor = LayerAttribution.interpolate(maps, size, "bilinear").squeeze(1)
    return resized


def integrated_gradients(task: MelanomaClassifier, images: Tensor) -> Tensor:
    """Return what each pixel adds to the logit on the way from bare skin to the image.

    Sundararajan, Taly and Yan (ICML 2017). An image's heat map sums to the difference of its logit
    to that of bare skin: one even colour, that of the image's border. The usual black would say
    that what is dark, as melanoma is, adds nothing.

    Args:
        task: in evaluation mode.
        images: (B, 3, H, W) float32 in [0, 1].

    Returns:
        (B, H, W) float32, in log-odds a pixel.
    """
    from captum.attr import IntegratedGradients

    parts: Tensor = IntegratedGradients(task).attribute(
        images,
        bare_skin(images).expand_as(images),
        n_steps=_NUM_STEPS,
        internal_batch_size=max(_ROWS_AT_ONCE, len(images)),
    )
    return parts.sum(dim=1)


def occlusion(task: MelanomaClassifier, images: Tensor) -> Tensor:
    """Return by how much the logit falls where a square of bare skin hides the image.

    Zeiler and Fergus (ECCV 2014). Squares overlap; a pixel has the mean of those over it.

    Args:
        task: in evaluation mode.
        images: (B, 3, H, W) float32 in [0, 1].

    Returns:
        (B, H, W) float32, in log-odds.
    """
    from captum.attr import Occlusion

    sides = [max(round(side * _SQUARE), 1) for side in images.shape[-2:]]
    strides = [max(round(side * _STEP), 1) for side in images.shape[-2:]]
    with torch.no_grad():
        parts: Tensor = Occlusion(task).attribute(
            images,
            sliding_window_shapes=(3, *sides),
            strides=(3, *strides),
            baselines=bare_skin(images).expand_as(images),
            perturbations_per_eval=max(_ROWS_AT_ONCE // len(images), 1),
        )
    # Squares hide all three channels, so these are equal.
    return parts[:, 0]


def bare_skin(images: Tensor) -> Tensor:
    """Return the colour of the skin around each lesion: the median of the image's border.

    Args:
        images: (B, 3, H, W).

    Returns:
        (B, 3, 1, 1), of the dtype of `images`.
    """
    height, width = images.shape[-2:]
    across, down = max(round(width * _BORDER), 1), max(round(height * _BORDER), 1)
    inside = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    inside[down:-down, across:-across] = True
    return images[..., ~inside].median(dim=-1).values[..., None, None]


@contextmanager
def _evaluating(task: MelanomaClassifier) -> Iterator[None]:
    was_training = task.training
    task.eval()
    try:
        yield
    finally:
        task.train(was_training)


def _check_method(method: str, layer: str | None) -> None:
    if importlib.util.find_spec("captum") is None:
        raise ValueError(
            "explain: expected the package captum, found none; "
            "pip install 'lightning_melanoma[explain]'"
        )
    if method not in _METHODS:
        raise ValueError(f"explain: expected one of {', '.join(_METHODS)}, found {method!r}")
    if layer is not None and method != "grad_cam":
        raise ValueError(f"layer: expected none with {method}, which has no layer, found {layer!r}")


_METHODS: dict[str, Callable[..., Tensor]] = {
    "grad_cam": grad_cam,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
}
