import dataclasses
import re
from pathlib import Path

import pytest

from lightning_melanoma.augment.presets import PRESETS, AugmentSettings, augment_settings

NAMES = [field.name for field in dataclasses.fields(AugmentSettings)]


def test_preset_none_does_nothing():
    assert not any(getattr(PRESETS["none"], n) for n in NAMES if n.endswith("_probability"))


def test_light_flips_and_recolours_only():
    switched_on = {
        name.removesuffix("_probability")
        for name in NAMES
        if name.endswith("_probability") and getattr(PRESETS["light"], name) > 0
    }
    assert switched_on == {"symmetry", "brightness", "contrast", "saturation", "hue"}


def test_change_leaves_all_other_settings():
    changed = augment_settings("strong", {"hair_probability": 0.1})
    assert changed == dataclasses.replace(PRESETS["strong"], hair_probability=0.1)
    assert PRESETS["strong"].hair_probability == 0


def test_unknown_preset_raises_with_the_known_ones():
    with pytest.raises(ValueError, match="expected one of none, light, strong, found 'string'"):
        augment_settings("string")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("hair_probabilty", "hair_probability"),
        ("rotation", "rotation_magnitude"),
        ("cut_out_magnitude", "cutout_magnitude"),
    ],
)
def test_unknown_name_raises_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"found '{name}'.*{nearest}"):
        augment_settings("light", {name: 0.5})


def test_name_like_none_raises_all_the_same():
    with pytest.raises(ValueError, match="found 'x'; the nearest are"):
        augment_settings("light", {"x": 0.5})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hair_probability", 1.1, "from 0 to 1"),
        ("hair_probability", -0.1, "from 0 to 1"),
        ("hair_probability", float("nan"), "from 0 to 1"),
        ("hair_probability", "often", "from 0 to 1"),
        ("hair_probability", True, "from 0 to 1"),
        ("rotation_magnitude", 46, "from 0 to 45"),
        ("zoom_magnitude", -0.1, "from 0 to 0.5"),
        ("hair_count", 0, "a whole number from 1 to 8"),
        ("hair_count", 2.5, "a whole number from 1 to 8"),
        ("hair_count", float("inf"), "a whole number from 1 to 8"),
        ("coarse_count", 9, "a whole number from 1 to 8"),
    ],
)
def test_value_out_of_range_raises_with_the_range(name, value, expected):
    with pytest.raises(ValueError, match=f"{name}: expected .*{expected}, found {value!r}"):
        augment_settings("none", {name: value})


@pytest.mark.parametrize("pair", [("blur", "noise"), ("mixup", "cutmix")])
def test_either_or_cannot_be_more_than_certain(pair):
    with pytest.raises(ValueError, match=r"at most 1 together, found 1\.2"):
        augment_settings("none", {f"{op}_probability": 0.6 for op in pair})


def test_documented_values_are_those_of_the_presets():
    text = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| (\S+) \|", text, flags=re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(NAMES)
    for name, *values in rows:
        expected = [getattr(PRESETS[preset], name) for preset in ("none", "light", "strong")]
        # Three digits are given.
        assert [float(value) for value in values] == pytest.approx(expected, rel=5e-3)
