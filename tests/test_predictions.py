import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_melanoma.predictions import (
    known_ages,
    prediction_table,
    probabilities_of,
    read_predictions,
    write_predictions,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def assert_same_order(logits, probabilities):
    assert probabilities.dtype == np.float64
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    # Not by differences: that of two subnormal logits may be flushed to 0.
    np.testing.assert_array_equal(
        np.unique(logits, return_inverse=True)[1], np.unique(probabilities, return_inverse=True)[1]
    )


@given(logits=hnp.arrays(np.float32, st.integers(1, 50), elements=FINITE), shift=st.floats(-9, 9))
def test_different_logits_never_tie(logits, shift):
    assert_same_order(logits, probabilities_of(logits, logits.astype(float) / 3 + shift))


@pytest.mark.parametrize("centre", [-1000, -745, -100, 0, 17, 30, 37, 100, 1000])
def test_ten_thousand_neighbouring_logits_never_tie(centre):
    bits = np.float32(centre).view(np.int32) + np.arange(10_000, dtype=np.int32)
    logits = np.random.default_rng(0).permutation(bits).view(np.float32)
    assert_same_order(logits, probabilities_of(logits))


def test_probabilities_are_the_sigmoid_where_it_does_not_tie():
    logits = np.linspace(-30, 30, 1001)
    np.testing.assert_allclose(probabilities_of(logits), 1 / (1 + np.exp(-logits)), rtol=1e-14)
    np.testing.assert_allclose(
        probabilities_of(logits, logits - 4), 1 / (1 + np.exp(4 - logits)), rtol=1e-14
    )


def test_saturated_logits_stay_next_to_their_limits():
    logits = np.array([-3e38, -2e38, 2e38, 3e38], np.float32)
    tiny = np.nextafter(0.0, 1.0)
    assert probabilities_of(logits).tolist() == [0.0, tiny, np.nextafter(1.0, 0.0), 1.0]


def test_equal_logits_have_equal_probabilities():
    assert len(np.unique(probabilities_of(np.array([40, 40, 0.0, -0.0], np.float32)))) == 2


def test_logits_that_are_not_finite_raise():
    with pytest.raises(ValueError, match="logits: expected finite numbers, found 1 NaN"):
        probabilities_of(np.array([0, np.nan], np.float32))


def records(num_rows):
    return pd.DataFrame(
        {
            "shard": "train00.tfrec",
            "width": 640,
            "image_name": [f"ISIC_{row:07d}" for row in range(num_rows)],
            "patient_id": pd.array([None, *["IP_1"] * (num_rows - 1)], dtype="string"),
            "target": [np.nan, *[1.0] * (num_rows - 1)],
            "sex": "female",
            "age_approx": 45,
        }
    )


def test_table_has_the_columns_in_order_and_the_unknown_left_empty(tmp_path):
    table = prediction_table(records(2), np.array([0, 1.5], np.float32), fold=3)
    write_predictions(table, tmp_path / "val.csv")
    assert (tmp_path / "val.csv").read_text().splitlines() == [
        "image_name,patient_id,fold,target,logit,probability,sex,age_approx,width",
        "ISIC_0000000,,3,,0.0,0.5,female,45.0,640",
        "ISIC_0000001,IP_1,3,1,1.5,0.8175744761936437,female,45.0,640",
    ]


def test_table_without_patient_fold_or_target_has_empty_columns(tmp_path):
    table = prediction_table(pd.DataFrame({"image_name": ["a"]}), np.zeros(1, np.float32))
    write_predictions(table, tmp_path / "test.csv")
    assert (tmp_path / "test.csv").read_text().splitlines()[1] == "a,,,,0.0,0.5"
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "test.csv"), table)


def test_patient_and_fold_of_minus_one_are_unknown():
    frame = pd.DataFrame({"image_name": ["a", "b"], "patient_id": [-1, 7], "fold": [-1, -1]})
    table = prediction_table(frame, np.zeros(2, np.float32))
    assert table["patient_id"].tolist() == [pd.NA, "7"]
    assert table["fold"].isna().all()


def test_table_needs_one_logit_a_record():
    with pytest.raises(ValueError, match="logits: expected 2, one per record, found 1"):
        prediction_table(records(2), np.zeros(1, np.float32))


@given(logits=hnp.arrays(np.float32, st.integers(1, 20), elements=FINITE))
def test_written_table_reads_back_exactly(tmp_path_factory, logits):
    path = tmp_path_factory.mktemp("tables") / "val.csv"
    table = prediction_table(records(len(logits)), logits, fold=0)
    write_predictions(table, path)
    pd.testing.assert_frame_equal(read_predictions(path), table, check_exact=True)


def test_names_that_look_like_numbers_or_blanks_stay_text(tmp_path):
    names = ["007", "NA", "null", "1e5", "a,b", 'say "x"']
    frame = pd.DataFrame({"image_name": names, "patient_id": names})
    table = prediction_table(frame, np.arange(6, dtype=np.float32))
    write_predictions(table, tmp_path / "val.csv")
    assert read_predictions(tmp_path / "val.csv")["image_name"].tolist() == names
    assert read_predictions(tmp_path / "val.csv")["patient_id"].tolist() == names


def test_table_without_a_column_says_what_it_has(tmp_path):
    (tmp_path / "a.csv").write_text("image_name,target\na,1\n")
    with pytest.raises(
        ValueError, match=r"a\.csv: expected also the column patient_id, fold, logit"
    ):
        read_predictions(tmp_path / "a.csv")
    with pytest.raises(
        ValueError, match=r"expected also the column patient_id, .* found image_name$"
    ):
        write_predictions(pd.DataFrame({"image_name": ["a"]}), tmp_path / "b.csv")
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize(
    "content", [b"", b"image_name,logit\na,high\n", b"a,b\n1,2,3,4\n1\n1,2,3,4,5\n", b"\xff\xfe\n"]
)
def test_file_that_is_no_table_raises_one_line(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"\A.*a\.csv: expected [^\n]*\Z"):
        read_predictions(tmp_path / "a.csv")


def test_an_age_is_known_where_it_is_one():
    ages = [0, 45.5, "60", 120, 120.5, 999, -1, None, "unknown"]
    found = known_ages(pd.DataFrame({"age_approx": ages}, index=range(5, 14)))
    expected = [0, 45.5, 60, 120] + [np.nan] * 5
    pd.testing.assert_series_equal(found, pd.Series(expected, range(5, 14), name="age_approx"))
    assert known_ages(pd.DataFrame({"sex": ["male", "female"]})).isna().tolist() == [True, True]
