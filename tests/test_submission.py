import re

import numpy as np
import pandas as pd
import pytest

from lightning_melanoma.predictions import prediction_table
from lightning_melanoma.submission import check_submission, in_sample_order, submission


def three_rows():
    return pd.DataFrame({"image_name": ["c", "a", "b"], "target": [0.0, 0.5, 1.0]})


def test_submission_has_kaggles_two_columns_in_the_order_of_the_table():
    records = pd.DataFrame({"image_name": ["b", "a"]})
    table = prediction_table(records, np.array([0, -800], np.float32))
    assert submission(table).columns.tolist() == ["image_name", "target"]
    assert submission(table)["image_name"].tolist() == ["b", "a"]
    assert submission(table)["target"].tolist() == [0.5, table["probability"][1]]
    check_submission(submission(table), ["b", "a"])


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["c", "a"], [0, 1], "expected 3 rows (one a record), found 2"),
        (["c", "a", "a"], [0, 1, 0], "expected unique ids, found ids again in 1 of 3 rows: a"),
        (["c", "a", "d"], [0, 1, 0], "found 1 missing (b), 1 unexpected (d)"),
        (["c", "a", "b"], [0, np.nan, 0], "expected numbers in [0, 1], found others at a"),
        (["c", "a", "b"], [0, 1, 1.01], "expected numbers in [0, 1], found others at b"),
        (["c", "a", "b"], [-np.inf, 1, 1], "expected numbers in [0, 1], found others at c"),
    ],
)
def test_unusable_submission_raises(names, values, message):
    frame = pd.DataFrame({"image_name": names, "target": values})
    with pytest.raises(ValueError, match=f"submission: .*{re.escape(message)}$"):
        check_submission(frame, ["a", "b", "c"])


def test_submission_takes_the_order_of_the_sample(tmp_path):
    sample_path = tmp_path / "sample_submission.csv"
    sample_path.write_text("image_name,target\na,0\nb,0\nc,0\n")
    ordered = in_sample_order(three_rows(), sample_path)
    assert ordered.to_dict("list") == {"image_name": ["a", "b", "c"], "target": [0.5, 1.0, 0.0]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "image_name,target\na,0\nx1,0\nx2,0\nx3,0\nx4,0\n",
            ", found 4 missing (x1, x2, x3 and 1 more), 2 unexpected (c, b)",
        ),
        (
            "isic_id,target\na,0\n",
            ": expected also the column image_name, found isic_id, target",
        ),
        (
            "image_name,target\na,0\nb,0\nb,0\n",
            ": expected unique ids, found ids again in 1 of 3 rows: b",
        ),
    ],
)
def test_sample_that_does_not_fit_says_why(tmp_path, lines, message):
    sample_path = tmp_path / "sample.csv"
    sample_path.write_text(lines)
    with pytest.raises(ValueError, match=rf"sample\.csv{re.escape(message)}$"):
        in_sample_order(three_rows(), sample_path)
