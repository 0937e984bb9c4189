"""Heat maps over their images as PNG files: what spoke for melanoma, where, and how probable it is.

The image is seen twice, as the network saw it and in grey below the heat map, so that all colour
there is the heat map's. Its scale is that of the image itself: the strongest place of one image may
mean little in another. Vermilion speaks for melanoma, as in the other figures, blue against it; of
Grad-CAM only what speaks for it is drawn, as usual, since all bare skin speaks against.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from torch import Tensor

from lightning_melanoma.augment.color import unit_range
from lightning_melanoma.callbacks.style import (
    ACCENT,
    MARGIN,
    MUTED,
    STYLE,
    add_title,
    percent,
    save_figure,
)
from lightning_melanoma.explain.attribution import Method, heat_maps
from lightning_melanoma.tasks.classifier import MelanomaClassifier

FloatArray = npt.NDArray[np.float32]

_AGAINST = "#0072b2"
#: What each method shows, in the words of its figures.
_TITLES = {
    "grad_cam": "Grad-CAM: what speaks for melanoma",
    "integrated_gradients": "Integrated gradients from bare skin",
    "occlusion": "Occlusion by bare skin",
}
_NOTE = "full colour: the strongest place of this image, for or against"
# Inches of each of the two pictures; of the room for the title, and of the scale beside them.
_SIDE, _HEAD, _SCALE = 3.6, 0.95, 1.35
# Images that are explained at once, for memory.
_BATCH_SIZE = 16
# Of a file's name in characters of 4 bytes at most, so that a number and a suffix still fit into
# the 255 bytes that file systems allow.
_NAME_LENGTH = 48
# Of what is written of a name on the picture.
_LABEL_LENGTH = 72
# Part of an image's side: integrated gradients are noise from pixel to pixel, and seen blurred.
_BLUR = 1 / 48


def write_explanations(
    views: Sequence[tuple[MelanomaClassifier, Tensor]],
    *,
    names: Sequence[str],
    probabilities: npt.ArrayLike,
    out_dir: Path | str,
    method: Method = "grad_cam",
    layer: str | None = None,
) -> list[Path]:
    """Write a PNG for each image: the image, the heat map over it, its scale, the probability.

    A file is named by the end of its image's name, with a number behind it where that is taken;
    nothing is overwritten, and each appears whole or not at all.

    Args:
        views: each model and the images as it takes them, (B, 3, S, S) uint8 or float32 in [0, 1],
            RGB; S may differ. The heat maps of several are averaged, the peak of each 1, and drawn
            over the largest images.
        names: B names or paths, which may be equal and hold anything.
        probabilities: (B,) in [0, 1], of melanoma.
        out_dir: the folder, made when it is missing.
        method: as `heat_maps` takes it.
        layer: likewise.

    Returns:
        The path of each image's file.

    Raises:
        ValueError: `heat_maps` refuses method or layer.
        OSError: `out_dir` cannot be written.
    """
    paths = []
    for start in range(0, len(names), _BATCH_SIZE):
        chosen = slice(start, start + _BATCH_SIZE)
        seen = [(task, unit_range(images[chosen])) for task, images in views]
        largest = max((images for _, images in seen), key=lambda images: images.shape[-1])
        heat = _mean_heat(seen, size=largest.shape[-1], method=method, layer=layer)
        pictures = largest.movedim(1, -1).cpu().numpy()
        rows = zip(pictures, heat, names[chosen], np.asarray(probabilities)[chosen], strict=True)
        for picture, shades, name, probability in rows:
            figure = explanation_figure(
                picture, shades.numpy(), name=name, probability=float(probability), method=method
            )
            paths.append(free_path(Path(out_dir), name))
            save_figure(figure, paths[-1])
    return paths


@mpl.rc_context(STYLE)
def explanation_figure(
    image: FloatArray, heat: FloatArray, *, name: str, probability: float, method: Method
) -> Figure:
    """Draw an image, the same below its heat map, and the scale of that.

    Args:
        image: (H, W, 3) float32 in [0, 1], RGB.
        heat: (H, W) float32 in [-1, 1], above 0 for melanoma.
        name: of the image, for the line below the title.
        probability: of melanoma, in [0, 1].
        method: that made the heat map.
    """
    width, height = 2 * _SIDE + _SCALE + 2 * MARGIN, _HEAD + _SIDE + 0.35
    figure = Figure(figsize=(width, height))
    lowest = 0 if method == "grad_cam" else -1
    grey = np.repeat(image @ np.array([0.299, 0.587, 0.114], np.float32)[..., None], 3, axis=-1)
    for number, picture in enumerate((image, _over(grey, heat.clip(lowest, 1)))):
        left = MARGIN + number * (_SIDE + 0.12)
        axes = _axes(figure, left, 0.35, _SIDE, _SIDE)
        axes.imshow(picture, interpolation="bicubic")
        axes.set_axis_off()
    _draw_scale(figure, left=MARGIN + 2 * _SIDE + 0.3, lowest=lowest)
    add_title(
        figure,
        f"Probability of melanoma: {percent(probability)}",
        lines=[(_label(name), MUTED), (f"{_TITLES[method]}; {_NOTE}", MUTED)],
    )
    return figure


def free_path(folder: Path, name: str) -> Path:
    """Return the path of a PNG in `folder` that is not there yet, named as an image is.

    Args:
        folder: may be missing.
        name: any text, such as a path; only its last part is used, and of that letters, digits,
            dots and dashes only.
    """
    stem = re.sub(r"[^\w.-]+", "_", Path(name).stem).strip("._")[:_NAME_LENGTH] or "image"
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.png"
    return path


def _mean_heat(
    seen: Sequence[tuple[MelanomaClassifier, Tensor]],
    *,
    size: int,
    method: Method,
    layer: str | None,
) -> Tensor:
    """Return the mean of the models' heat maps, each with a peak of 1, (B, size, size)."""
    total = torch.zeros(len(seen[0][1]), size, size)
    for task, images in seen:
        heat = heat_maps(task, images, method=method, layer=layer)
        if method == "integrated_gradients":
            heat = _blurred(heat)
        # One that is 0 all over stays so.
        heat = heat / heat.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo().tiny)
        total += F.interpolate(heat[:, None], (size, size), mode="bilinear")[:, 0] / len(seen)
    return total


def _blurred(heat: Tensor) -> Tensor:
    """Return heat maps, (B, H, W), averaged over squares twice, for the eye."""
    side = 2 * round(heat.shape[-1] * _BLUR) + 1
    for _ in range(2):
        heat = F.avg_pool2d(heat, side, stride=1, padding=side // 2, count_include_pad=False)
    return heat


def _over(grey: FloatArray, shades: FloatArray) -> FloatArray:
    """Return a grey picture with the colour of each shade, in [-1, 1], over it."""
    colors = np.where(shades[..., None] > 0, to_rgb(ACCENT), to_rgb(_AGAINST)).astype(np.float32)
    # Even the strongest shade lets some of the picture through.
    cover = 0.8 * np.abs(shades)[..., None]
    # Paler than the picture: colours stand out from it, as they would not from black.
    return np.asarray((1 - cover) * (0.25 + 0.75 * grey) + cover * colors)


def _draw_scale(figure: Figure, *, left: float, lowest: int) -> None:
    axes = _axes(figure, left, 0.35, 0.16, _SIDE)
    shades = np.linspace(lowest, 1, 256, dtype=np.float32)[:, None]
    grey = np.full((256, 1, 3), 0.8, np.float32)
    axes.imshow(_over(grey, shades), extent=(0, 1, lowest, 1), aspect="auto", origin="lower")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    words = {-1: "against\nmelanoma", 0: "neither", 1: "for\nmelanoma"}
    axes.set_yticks(range(lowest, 2), [words[tick] for tick in range(lowest, 2)])
    # Within the height of the pictures.
    axes.get_yticklabels()[0].set_verticalalignment("bottom")
    axes.get_yticklabels()[-1].set_verticalalignment("top")
    axes.tick_params(length=0, pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return new axes at a place in inches."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / down, width / across, height / down))


def _label(name: str) -> str:
    """Return a name in characters that the font has, its beginning cut off where it is long."""
    font = get_font(findfont(STYLE["font.family"]))
    known = [c.isprintable() and font.get_char_index(ord(c)) for c in name]
    shown = "".join(c if is_known else "?" for c, is_known in zip(name, known, strict=True))
    return (
        shown if len(shown) <= _LABEL_LENGTH else "\N{HORIZONTAL ELLIPSIS}" + shown[-_LABEL_LENGTH:]
    )
