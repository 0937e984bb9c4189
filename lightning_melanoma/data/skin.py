"""Everything of a drawn dermoscopy image that is not the lesion: skin, light, hair, lens, camera.

None of it knows the label. What belongs to a patient (tone, texture, light, hairiness) is a `Skin`;
what belongs to one image (hairs, glints, aperture, blur, noise, JPEG quality) is a `View`. Lengths
are in half frames, as in `fields`. Pigment is in optical densities: reflected light is
exp(-density x absorption), so thin pigment is tan, thicker brown and thick black. Ranges without a
source were set by eye, beside real images.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_melanoma.data.fields import Array, blurred, grid, smooth_noise, smoothstep

# Absorption of a unit of pigment in (red, green, blue): melanin takes blue most, haemoglobin green.
_MELANIN = np.array([0.52, 0.80, 1.08], np.float32)
_BLOOD = np.array([0.10, 0.62, 0.48], np.float32)
# Reflectance of skin without pigment.
_PALE = np.array([0.97, 0.87, 0.80], np.float32)
# White balances of dermatoscopes: neutral, polarised pink, fluorescent blue, incandescent yellow.
_TINTS = np.array(
    [[1.0, 1.0, 1.0], [1.03, 0.87, 0.92], [0.94, 0.97, 1.06], [1.04, 0.98, 0.88]], np.float32
)
_HAIR_COLORS = np.array(
    [[0.10, 0.07, 0.06], [0.22, 0.13, 0.08], [0.42, 0.27, 0.15], [0.85, 0.80, 0.72]], np.float32
)


class Skin(NamedTuple):
    """What all images of a patient share.

    Attributes:
        melanin: optical density of the skin, 0.05 (pale) to 1.3 (dark).
        blood: optical density of its redness.
        texture: optical density of its unevenness, standard deviation.
        tint: (3,) float32, white balance of the light.
        exposure: brightness of the light, around 1.
        light: (2,) float32, slope of the brightness along x and y, per half frame.
        hairs: expected number of hairs in an image.
        hair_color: (3,) float32 in [0, 1].
    """

    melanin: float
    blood: float
    texture: float
    tint: Array
    exposure: float
    light: Array
    hairs: float
    hair_color: Array


class View(NamedTuple):
    """What belongs to one image, whatever it shows.

    Attributes:
        hairs: (N, 7) float32: direction (radians), offset, slope, curvature, both ends, half width.
        glints: (N, 3) float32: x, y, radius of reflexes and bubbles.
        aperture: (3,) float32: x, y of the centre and radius of the lens; outside it is black.
        falloff: darkening from the centre to the corner, fraction.
        blur: standard deviation of the optical blur.
        noise: standard deviation of the sensor noise, fraction of white.
        quality: of the JPEG, 1 to 100.
    """

    hairs: Array
    glints: Array
    aperture: Array
    falloff: float
    blur: float
    noise: float
    quality: int


def draw_skin(rng: np.random.Generator) -> Skin:
    """Return a patient's skin, light and hair."""
    angle = rng.uniform(0, 2 * np.pi)
    # Beta(1.2, 3): mostly fair, as in the ISIC archive, with a tail of dark skin.
    tone = float(rng.beta(1.2, 3.0))
    # Four in ten patients are all but hairless.
    hairs = float(rng.choice([0.2, 3.0, 12.0], p=[0.4, 0.4, 0.2]))
    # Fair hair is rare where skin is dark.
    colors = np.array([0.3, 0.35, 0.25, 0.1]) * np.array([1, 1, 1 - tone, (1 - tone) ** 2])
    return Skin(
        melanin=0.05 + 1.25 * tone,
        blood=float(rng.uniform(0.02, 0.24)),
        texture=float(rng.uniform(0.02, 0.07)),
        tint=_TINTS[rng.choice(len(_TINTS), p=[0.45, 0.3, 0.15, 0.1])]
        * rng.normal(1, 0.015, 3).astype(np.float32),
        exposure=float(rng.normal(1.0, 0.06)),
        light=(rng.uniform(0, 0.12) * np.array([np.cos(angle), np.sin(angle)])).astype(np.float32),
        hairs=hairs,
        hair_color=_HAIR_COLORS[rng.choice(len(_HAIR_COLORS), p=colors / colors.sum())],
    )


def draw_view(rng: np.random.Generator, skin: Skin) -> View:
    """Return the accidents of one image of `skin`."""
    num_hairs = min(int(rng.poisson(skin.hairs)), 30)
    # Hair lies mostly one way.
    lie = rng.uniform(0, np.pi)
    start = rng.uniform(-1.4, 0.6, num_hairs)
    hairs = np.stack(
        [
            lie + rng.normal(0, 0.45, num_hairs),
            rng.uniform(-1.1, 1.1, num_hairs),
            rng.normal(0, 0.1, num_hairs),
            rng.normal(0, 0.28, num_hairs),
            start,
            start + rng.uniform(0.5, 2.4, num_hairs),
            rng.uniform(0.006, 0.014, num_hairs),
        ],
        axis=1,
    )
    num_glints = int(rng.poisson(5) if rng.random() < 0.12 else 0)
    places, radii = rng.uniform(-1, 1, (num_glints, 2)), rng.uniform(0.008, 0.03, (num_glints, 1))
    glints = np.concatenate([places, radii], axis=1)
    # A quarter of the images show the edge of the lens; the corner is at 1.41.
    radius = rng.uniform(1.02, 1.3) if rng.random() < 0.25 else 3.0
    return View(
        hairs=hairs.astype(np.float32),
        glints=glints.astype(np.float32),
        aperture=np.array([*rng.normal(0, 0.04, 2), radius], np.float32),
        falloff=float(rng.uniform(0.0, 0.25)),
        blur=float(rng.uniform(0.002, 0.013)),
        noise=float(rng.uniform(0.004, 0.018)),
        quality=int(rng.integers(75, 96)),
    )


def skin_density(rng: np.random.Generator, skin: Skin, size: int) -> tuple[Array, Array]:
    """Return the optical densities (melanin, blood) of bare skin, each (size, size) float32."""
    coarse, flush = smooth_noise(rng, 4, size, count=2)
    (medium,) = smooth_noise(rng, 14, size, count=1)
    (fine,) = smooth_noise(rng, 42, size, count=1)
    freckles = smoothstep(medium + 0.3 * fine, 2.0, 2.9)
    melanin = skin.melanin + skin.texture * (0.8 * coarse + 0.6 * medium + 0.8 * fine)
    blood = skin.blood * (1 + 0.3 * flush + 0.25 * medium - 0.15 * fine)
    return melanin + 5 * skin.texture * freckles, np.maximum(blood, 0)


def planes(color: Array) -> Array:
    """Return a colour, (3,) float32, as (3, 1, 1): one value for each whole plane."""
    return color[:, None, None]


def reflect(melanin: Array, blood: Array) -> Array:
    """Return (3, H, W) float32, the colour of skin with these optical densities, each (H, W)."""
    light = np.exp(-(melanin * planes(_MELANIN) + blood * planes(_BLOOD)))
    # 0.03: light that the surface reflects whatever is below, so that black is never quite black.
    return np.asarray(planes(_PALE) * light + 0.03)


def photograph(rng: np.random.Generator, color: Array, skin: Skin, view: View) -> NDArray[np.uint8]:
    """Return the image that the dermatoscope takes, (H, W, 3) uint8 RGB.

    Args:
        rng: source of the sensor noise.
        color: (3, H, W) float32, what lies under the lens.
        skin: the patient's light and hair.
        view: the accidents of this image.
    """
    size = color.shape[-1]
    x, y = grid(size)
    hair = _hair_coverage(view.hairs, size)
    color = color + (planes(skin.hair_color) - color) * hair
    center_x, center_y, radius = view.aperture
    distance = np.sqrt((x - center_x) ** 2 + (y - center_y) ** 2)
    shade = 1 + skin.light[0] * x + skin.light[1] * y - view.falloff / 2 * distance**2
    color *= planes(skin.exposure * skin.tint) * shade
    for glint_x, glint_y, glint_radius in view.glints:
        squared = (x - glint_x) ** 2 + (y - glint_y) ** 2
        # 30: beyond that it adds nothing but denormal numbers, which are slow.
        color += 0.8 * np.exp(-np.minimum(squared / (2 * glint_radius**2), 30))
    # 0.03: soft edge of the lens. 0.02: what the rim still reflects.
    color = (color - 0.02) * smoothstep(radius - distance, 0, 0.03) + 0.02
    color = blurred(color, view.blur)
    color += view.noise * rng.standard_normal(color.shape, np.float32)
    levels = np.clip(color, 0, 1, out=color) * 255 + 0.5
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def _hair_coverage(hairs: Array, size: int) -> Array:
    x, y = grid(size)
    bare = np.ones((size, size), np.float32)
    for direction, offset, slope, curvature, start, end, half_width in hairs:
        cos, sin = np.cos(direction), np.sin(direction)
        along = x * cos + y * sin
        across = y * cos - x * sin - offset - along * (slope + curvature * along)
        steepness = np.sqrt(1 + (slope + 2 * curvature * along) ** 2)
        # Pixels covered in part: one is 2 / size wide. 0.15: a hair thins out towards its ends.
        taper = np.clip(np.minimum(along - start, end - along) / 0.15, 0, 1)
        cover = (half_width * taper - np.abs(across) / steepness) * (size / 2) + 0.5
        # 0.85: hair lets a little light through.
        bare *= 1 - 0.85 * np.clip(cover, 0, 1) * (taper > 0)
    return 1 - bare
