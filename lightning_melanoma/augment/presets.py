"""The settings of the augmentation and the presets `none`, `light` and `strong`.

Settings are flat numbers, `<op>_probability` and `<op>_magnitude`, so that one of them can be
changed in YAML or on the command line. Each magnitude has a sensible default where its op is off:
giving the probability alone switches an op on.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

#: As many hairs and holes as there are draws for.
MAX_HAIRS = MAX_HOLES = 8


def _up_to(most: float, *, default: float, least: float = 0.0) -> Any:  # noqa: ANN401  # as `field`
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """What is done to how many images, and how strongly.

    Probabilities are in [0, 1], for each image on its own. Where nothing else is said, a parameter
    is uniform between minus and plus the magnitude. A side is the height or width of the image.

    Attributes:
        symmetry_probability: flips, quarter turns, transposes: one of the 8, each equally likely.
        rotation_probability: rotation.
        rotation_magnitude: degrees, 0 to 45; with the symmetries, 45 reaches every angle.
        zoom_probability: zoom about the centre.
        zoom_magnitude: the factor is 1 plus a number up to this, 0 to 0.5.
        shift_probability: shift, along both axes.
        shift_magnitude: sides, 0 to 1.
        shear_probability: horizontal shear.
        shear_magnitude: degrees, 0 to 20.
        blur_probability: Gaussian blur, never together with noise.
        blur_magnitude: largest standard deviation in pixels, 0 to 2; uniform from 0.
        noise_probability: Gaussian noise; with `blur_probability` at most 1.
        noise_magnitude: largest standard deviation, of the range from black to white, 0 to 1;
            uniform from 0.
        brightness_probability: brightness.
        brightness_magnitude: added, of the range from black to white, 0 to 1.
        contrast_probability: contrast about the mean luma.
        contrast_magnitude: the factor is 1 plus a number up to this, 0 to 1.
        saturation_probability: saturation.
        saturation_magnitude: the factor is 1 plus a number up to this, 0 to 1.
        hue_probability: hue.
        hue_magnitude: degrees in the I-Q plane, 0 to 180.
        hair_probability: drawn hair.
        hair_magnitude: thickness of the thickest hairs in pixels of an image of 256, 0 to 16; a
            hair has at least half of it.
        hair_count: most hairs an image, 1 to 8; uniform from 1.
        vignette_probability: black outside a centred circle.
        vignette_magnitude: width of the range of radii below 0.56 sides, in sides, 0 to 0.5.
        cutout_probability: one black square, centred anywhere.
        cutout_magnitude: its side, in sides, 0 to 1.
        coarse_probability: several black squares, centred anywhere.
        coarse_magnitude: their sides, in sides, 0 to 1.
        coarse_count: how many squares, 1 to 8.
        mixup_probability: mixup, never together with cutmix.
        mixup_magnitude: largest share of the partner, 0 to 1; uniform from 0. 0.5 is the paper's
            Beta(1, 1), as an image and its partner may change places.
        cutmix_probability: cutmix; with `mixup_probability` at most 1.
        cutmix_magnitude: largest area of the partner, of the image, 0 to 1; uniform from 0.

    Raises:
        ValueError: a setting is out of its range.
    """

    symmetry_probability: float = 0.0
    rotation_probability: float = 0.0
    rotation_magnitude: float = _up_to(45.0, default=15.0)
    zoom_probability: float = 0.0
    zoom_magnitude: float = _up_to(0.5, default=0.1)
    shift_probability: float = 0.0
    shift_magnitude: float = 0.1
    shear_probability: float = 0.0
    # Two standard deviations of Deotte's.
    shear_magnitude: float = _up_to(20.0, default=4.0)
    blur_probability: float = 0.0
    # What OpenCV takes for a kernel of 5 pixels, the winner's largest: 0.3 ((5 - 1) / 2 - 1) + 0.8.
    blur_magnitude: float = _up_to(2.0, default=1.1)
    noise_probability: float = 0.0
    # The winner's largest variance, 30 in grey levels.
    noise_magnitude: float = 30**0.5 / 255
    brightness_probability: float = 0.0
    brightness_magnitude: float = 0.2
    contrast_probability: float = 0.0
    contrast_magnitude: float = 0.2
    saturation_probability: float = 0.0
    saturation_magnitude: float = 0.2
    hue_probability: float = 0.0
    # Deotte's, 0.01 of a turn.
    hue_magnitude: float = _up_to(180.0, default=3.6)
    hair_probability: float = 0.0
    hair_magnitude: float = _up_to(16.0, default=2.0)
    # 0 to 5 in ar90n's pasted hair.
    hair_count: float = _up_to(MAX_HAIRS, default=5, least=1)
    vignette_probability: float = 0.0
    # A radius of S/2 - 3 to S/2 + 15 pixels at S = 256.
    vignette_magnitude: float = _up_to(0.5, default=0.07)
    cutout_probability: float = 0.0
    cutout_magnitude: float = 0.375
    coarse_probability: float = 0.0
    coarse_magnitude: float = 0.2
    coarse_count: float = _up_to(MAX_HOLES, default=MAX_HOLES, least=1)
    mixup_probability: float = 0.0
    mixup_magnitude: float = 0.5
    cutmix_probability: float = 0.0
    cutmix_magnitude: float = 0.5

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least, most = field.metadata.get("least", 0.0), field.metadata.get("most", 1.0)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_inside = is_number and least <= value <= most
            is_whole = not field.name.endswith("_count") or (is_inside and value == int(value))
            if not (is_inside and is_whole):
                kind = "a whole number" if field.name.endswith("_count") else "a number"
                raise ValueError(
                    f"{field.name}: expected {kind} from {least:g} to {most:g}, found {value!r}"
                )
        for one, other in (("blur", "noise"), ("mixup", "cutmix")):
            total = self.probability(one) + self.probability(other)
            if total > 1:
                raise ValueError(
                    f"{one}_probability, {other}_probability: expected at most 1 together, found "
                    f"{total:g}; an image has one of both"
                )

    def probability(self, op: str) -> float:
        """Return the probability of an op, by its name."""
        return float(getattr(self, f"{op}_probability"))

    def magnitude(self, op: str) -> float:
        """Return the magnitude of an op, by its name, in the op's own unit."""
        return float(getattr(self, f"{op}_magnitude"))


#: By name. `light` is the original Keras project's: flips and colour. `strong` is the list of the
#: winner of SIIM-ISIC 2020 (haqishen, `dataset.py`), with what docs/augmentation.md says left out.
PRESETS: dict[str, AugmentSettings] = {
    "none": AugmentSettings(),
    "light": AugmentSettings(
        symmetry_probability=1.0,
        brightness_probability=1.0,
        brightness_magnitude=0.1,
        contrast_probability=1.0,
        saturation_probability=1.0,
        saturation_magnitude=0.3,
        hue_probability=1.0,
    ),
    "strong": AugmentSettings(
        # Transpose and both flips with probability 1/2 each are one of the 8, all equally likely.
        symmetry_probability=1.0,
        rotation_probability=0.85,
        zoom_probability=0.85,
        shift_probability=0.85,
        # One of four with 0.7 together; the Gaussian stands for the motion and the median blur.
        blur_probability=0.525,
        noise_probability=0.175,
        brightness_probability=0.75,
        contrast_probability=0.75,
        saturation_probability=0.5,
        hue_probability=0.5,
        # 10 steps of OpenCV's hue are 20 degrees in HSV: from the colour of skin 22 degrees in the
        # I-Q plane towards yellow, but 15 towards purple.
        hue_magnitude=15.0,
        cutout_probability=0.7,
    ),
}


def augment_settings(preset: str, changes: Mapping[str, float] | None = None) -> AugmentSettings:
    """Return the settings of a preset with single ones changed.

    Args:
        preset: `none`, `light` or `strong`.
        changes: values by the names of the settings.

    Raises:
        ValueError: the preset or a name is unknown, or a value is out of its range.
    """
    if preset not in PRESETS:
        raise ValueError(f"augment: expected one of {', '.join(PRESETS)}, found {preset!r}")
    names = [field.name for field in dataclasses.fields(AugmentSettings)]
    for name in changes or {}:
        if name not in names:
            # A cutoff of 0 so that there is an answer to every misspelling.
            nearest = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.0))
            raise ValueError(
                f"augment_changes: expected the name of a setting, found {name!r}; the nearest are "
                f"{nearest}"
            )
    return dataclasses.replace(PRESETS[preset], **dict(changes or {}))
