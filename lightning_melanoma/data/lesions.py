"""Drawn pigmented lesions: what dermatologists' ABCD rule looks at, from one latent number.

A lesion's *severity* is normal with variance 1, around 0 when benign and around `SEPARATION` when
malignant, so the two overlap and no model can be perfect. Asymmetry, border irregularity, colour
variegation, diameter and structure are each a noisy function of it: the `Cues`. The rest of the
lesion (how dark, network or globules, soft or sharp edge, where it lies) and all of `skin` depend
on nothing. Units are those of `skin`; ranges were set by eye, beside real images.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.data.fields import Array, grid, smooth_noise, smoothstep
from lightning_melanoma.data.skin import Skin, View, photograph, planes, reflect, skin_density

#: Mean severity of a melanoma; its AUROC is Phi(SEPARATION / sqrt(2)) = 0.967.
SEPARATION = 2.6
#: Standard deviation of each cue around the severity.
CUE_NOISE = 0.5
# Harmonics of the outline: the slow ones make it asymmetric, the quick ones ragged.
_HARMONICS = np.arange(1, 17)
_NUM_SLOW = 4
# Colours that malignant patches take: bluish veil and scar-like white.
_VEIL = np.array([0.50, 0.54, 0.62], np.float32)
_SCAR = np.array([0.90, 0.80, 0.79], np.float32)


class Cues(NamedTuple):
    """What tells a melanoma, each in (0, 1) and near 0.5 half way between the classes.

    Attributes:
        asymmetry: of outline and pigment.
        border: raggedness of the outline.
        color: area of the patches of other colours.
        diameter: from the smallest to the largest.
        structure: disorder of network and mottling.
    """

    asymmetry: float
    border: float
    color: float
    diameter: float
    structure: float


class Lesion(NamedTuple):
    """The parameters of a lesion; only the cues depend on its severity.

    Attributes:
        cues: what tells a melanoma.
        center: (2,) float32, x and y.
        angle: of the long axis, radians.
        stretch: log of the ratio of the axes.
        jitter: log of the factor on the radius that says nothing.
        harmonics: (16, 2) float32, normal cosine and sine parts of the outline.
        density: optical density of the melanin.
        redness: optical density of the blood.
        softness: width of the edge.
        network: strength of the pigment network.
        globules: strength of the globules.
        palette: (4,) float32, shares of black, red, bluish and white in the patches.
    """

    cues: Cues
    center: Array
    angle: float
    stretch: float
    jitter: float
    harmonics: Array
    density: float
    redness: float
    softness: float
    network: float
    globules: float
    palette: Array


class Picture(NamedTuple):
    """A drawn dermoscopy image, and where its lesion is.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        mask: (size, size) bool, True within the outline, whatever lies over it.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw_severity(rng: np.random.Generator, target: int) -> float:
    """Return the severity of a lesion of a class (0 benign, 1 melanoma)."""
    return float(rng.normal(SEPARATION * target))


def draw_lesion(rng: np.random.Generator, severity: float) -> Lesion:
    """Return a lesion of some severity; the same numbers are drawn whatever it is."""
    cues = severity + CUE_NOISE * rng.standard_normal(len(Cues._fields))
    # 0.7: so that most lesions lie on the slope.
    levels = 1 / (1 + np.exp((SEPARATION / 2 - cues) / 0.7))
    return Lesion(
        cues=Cues(*map(float, levels)),
        center=rng.normal(0, 0.08, 2).astype(np.float32),
        angle=float(rng.uniform(0, np.pi)),
        stretch=float(rng.normal(0, 0.15)),
        jitter=float(rng.normal(0, 0.16)),
        harmonics=rng.standard_normal((len(_HARMONICS), 2), np.float32),
        density=float(rng.uniform(0.4, 1.8)),
        redness=float(rng.uniform(0.0, 0.35)),
        softness=float(rng.uniform(0.05, 0.16)),
        network=float(rng.choice([0.0, 0.5]) * rng.uniform(0.5, 1)),
        globules=float(rng.choice([0.0, 0.5]) * rng.uniform(0.5, 1)),
        palette=rng.dirichlet(np.full(4, 1.2)).astype(np.float32),
    )


def lesion_depth(rng: np.random.Generator, lesion: Lesion, size: int) -> tuple[Array, Array, Array]:
    """Return how deep inside the lesion each pixel is, and where.

    Returns:
        ``depth`` (size, size) float32, 1 in the centre, 0 on the outline, negative outside; and
        coordinates ``(u, v)`` of each pixel along the lesion's axes, in its radii.
    """
    x, y = grid(size)
    warp = smooth_noise(rng, 8, size, count=2) + 0.6 * smooth_noise(rng, 22, size, count=2)
    # Half frames that the outline is out of place by.
    warp *= 0.012 + 0.045 * lesion.cues.border
    x, y = x - lesion.center[0] + warp[0], y - lesion.center[1] + warp[1]
    # 0.24 to 0.78 half frames.
    radius = (0.24 + 0.46 * lesion.cues.diameter) * math.exp(lesion.jitter)
    cos, sin = math.cos(lesion.angle), math.sin(lesion.angle)
    stretch = math.exp(lesion.stretch * (0.6 + lesion.cues.asymmetry))
    u = (x * cos + y * sin) / (radius * stretch)
    v = (y * cos - x * sin) / (radius / stretch)
    # The outline by degrees.
    around = np.linspace(-np.pi, np.pi, 361)
    outline = np.interp(np.arctan2(v, u).ravel(), around, _outline(lesion, around))
    distance = np.sqrt(u * u + v * v)
    return 1 - distance / outline.reshape(size, size).astype(np.float32), u, v


def draw_picture(
    rng: np.random.Generator, lesion: Lesion, *, skin: Skin, view: View, size: int
) -> Picture:
    """Return the dermoscopy image of a lesion, `size` pixels a side, and its mask."""
    melanin, blood = skin_density(rng, skin, size)
    depth, u, v = lesion_depth(rng, lesion, size)
    cover = _coverage(lesion, depth)
    patches = _patches(rng, lesion, depth, size) * cover
    density = _pigment(rng, lesion, depth, u, v) + 1.7 * patches[0]
    # White is pigment that is gone.
    density = cover * density * (1 - 0.7 * patches[3])
    color = reflect(melanin + density, blood + cover * lesion.redness + 1.1 * patches[1])
    for veil, alpha in ((_VEIL, patches[2]), (_SCAR, 0.6 * patches[3])):
        # What lies above darkens it too.
        seen = planes(veil) * np.exp(-0.5 * (skin.melanin + 0.5 * density))
        color += (seen - color) * (0.75 * alpha)
    # The outline, where half of the pigment's density is seen.
    return Picture(photograph(rng, color, skin, view), depth >= 0)


def _outline(lesion: Lesion, around: NDArray[np.floating]) -> NDArray[np.floating]:
    # Amplitudes fall with the harmonic, as those of natural outlines do.
    slow = (0.06 + 0.26 * lesion.cues.asymmetry) / _HARMONICS[:_NUM_SLOW]
    quick = (0.08 + 0.26 * lesion.cues.border) / _HARMONICS[_NUM_SLOW:]
    amplitudes = np.concatenate([slow, quick])[:, None] * lesion.harmonics
    # The first harmonic only shifts the lesion.
    amplitudes[0] *= 0.3
    phase = _HARMONICS[:, None] * around
    wave = (amplitudes[:, :1] * np.cos(phase) + amplitudes[:, 1:] * np.sin(phase)).sum(axis=0)
    # exp keeps the radius positive.
    return np.asarray(np.exp(0.6 * wave))


def _coverage(lesion: Lesion, depth: Array) -> Array:
    # A ragged lesion also ends abruptly.
    width = lesion.softness * (1.6 - lesion.cues.border) / 0.4
    return smoothstep(depth, -width * 0.6, width * 0.6)


def _pigment(rng: np.random.Generator, lesion: Lesion, depth: Array, u: Array, v: Array) -> Array:
    size = len(depth)
    (coarse,) = smooth_noise(rng, 9, size, count=1)
    fine = smooth_noise(rng, 26, size, count=1)[0] + 0.6 * smooth_noise(rng, 48, size, count=1)[0]
    # Lighter towards the edge; darker on one side when asymmetric.
    profile = 0.75 + 0.35 * np.clip(depth, 0, 1) + 0.45 * lesion.cues.asymmetry * np.clip(u, -1, 1)
    mottle = (0.10 + 0.20 * lesion.cues.structure) * coarse + 0.10 * fine
    globules = lesion.globules * smoothstep(fine, 0.6, 1.6)
    texture = 1 + mottle + globules + lesion.network * _network(rng, lesion, size)
    return np.asarray(lesion.density * profile * np.maximum(texture, 0.1))


def _network(rng: np.random.Generator, lesion: Lesion, size: int) -> Array:
    if lesion.network == 0:
        return np.zeros((size, size), np.float32)
    # Three waves at 60 degrees make a honeycomb of period 0.09 half frames.
    x, y = grid(size)
    bend = smooth_noise(rng, 9, size, count=2) * (0.02 + 0.04 * lesion.cues.structure)
    (strength,) = smooth_noise(rng, 5, size, count=1)
    x, y = x + bend[0], y + bend[1]
    waves = np.zeros((size, size), np.float32)
    for turn in range(3):
        angle = lesion.angle + turn * math.pi / 3
        cos, sin = math.cos(angle), math.sin(angle)
        waves += np.cos(2 * math.pi / 0.09 * (x * cos + y * sin))
    # Light holes where the waves meet (3), dark lines between (-1.5); stronger here, fainter there.
    lines = 0.45 - smoothstep(waves, -1.5, 2.5)
    return np.asarray(lines * smoothstep(strength, -1.2, 0.8))


def _patches(rng: np.random.Generator, lesion: Lesion, depth: Array, size: int) -> Array:
    # (4, size, size): black, red, bluish, white.
    fields = smooth_noise(rng, 6, size, count=4) + 0.35 * smooth_noise(rng, 20, size, count=1)
    # Thresholds in standard deviations: a colour that is there covers more as the cue grows.
    weight = lesion.cues.color * np.sqrt(lesion.palette)
    thresholds = 2.2 - 2.4 * weight
    inside = smoothstep(depth, -0.1, 0.25)
    steps = [smoothstep(f, t - 0.2, t + 0.8) for f, t in zip(fields, thresholds, strict=True)]
    return np.stack(steps) * inside
