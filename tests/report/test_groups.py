import pandas as pd

from lightning_melanoma.report.groups import groups_of


def metadata(**columns):
    return pd.DataFrame(columns)


def test_age_bands_start_where_they_say():
    groups = groups_of(metadata(age_approx=[0, 39.9, 40, 54, 55, 69, 70, 120, 121, 999, -1, None]))
    bands = ["under 40"] * 2 + ["40 to 54"] * 2 + ["55 to 69"] * 2 + ["70 or older"] * 2
    assert groups["age"].tolist() == [*bands, *["unknown"] * 4]


def test_missing_values_are_a_group_of_their_own():
    groups = groups_of(metadata(sex=["female", None, "-1", "", "male"]))
    assert groups["sex"].tolist() == ["female", *["unknown"] * 3, "male"]


def test_numbers_for_texts_are_called_codes():
    groups = groups_of(metadata(sex=["0", "1", "-1"]))
    assert groups["sex"].tolist() == ["code 0", "code 1", "unknown"]


def test_rare_values_of_many_are_one_group():
    sources = [name for name in "abcdefgh" for _ in range(2)] + ["i", "j"]
    groups = groups_of(metadata(source=sources))
    assert groups["source"].tolist()[-3:] == ["h", "other", "other"]


def test_sizes_are_width_by_height():
    groups = groups_of(metadata(width=[640, 6000, None], height=[480, 4000, None]).astype("Int64"))
    assert groups["image size"].tolist() == ["640 x 480", "6000 x 4000", "unknown"]


def test_what_does_not_part_the_rows_is_left_out():
    assert groups_of(metadata(sex=["female"] * 3, age_approx=[40, 45, 50])) == {}
    assert groups_of(metadata()) == {}
