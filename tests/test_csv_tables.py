import fsspec
import pandas as pd
import pytest

from lightning_melanoma.csv_tables import check_unique, first_named, read_csv, write_csv_atomically


def test_only_an_empty_field_is_missing_and_numbers_come_back_exactly(tmp_path):
    table = pd.DataFrame({"image_name": ["NA", "007"], "value": [0.1 + 0.2, None]})
    write_csv_atomically(table, tmp_path / "a.csv")
    found = read_csv(tmp_path / "a.csv", {"image_name": "string"})
    assert found["image_name"].tolist() == ["NA", "007"]
    pd.testing.assert_series_equal(found["value"], table["value"], check_exact=True)


def test_a_table_may_lie_elsewhere():
    fsspec.filesystem("memory").pipe("/tables/a.csv", b"image_name\n007\n")
    assert read_csv("memory://tables/a.csv", "str")["image_name"].tolist() == ["007"]
    with pytest.raises(FileNotFoundError, match=r"memory://tables/b.csv: expected a file"):
        read_csv("memory://tables/b.csv", "str")
    with pytest.raises(ValueError, match=r"foo://a.csv: expected a path, gs://"):
        read_csv("foo://a.csv", "str")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0.5", "whole numbers or nothing in fold, width, found another value"),
        ("wide", 'a CSV table, found: Unable to parse string "wide"'),
    ],
)
def test_a_column_of_whole_numbers_has_no_others(tmp_path, value, found):
    (tmp_path / "a.csv").write_text(f"image_name,fold,width\na,1,{value}\nb,,3\n")
    message = rf"a\.csv: expected {found}"
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "a.csv", {"image_name": "string", "fold": "Int64", "width": "Int64"})


def test_ids_that_are_there_twice_are_counted_and_the_first_three_named():
    names = pd.Series(list("abcdefabcdea"))
    message = r"^x\.csv: expected unique ids, found ids again in 6 of 12 rows: a, b, c and 2 more$"
    with pytest.raises(ValueError, match=message):
        check_unique(names, "x.csv")


def test_three_names_or_fewer_are_all_named():
    assert first_named(["a", 2, "c"]) == "a, 2, c"


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "submission.csv"
    write_csv_atomically(pd.DataFrame({"a": [1]}), path)

    class Unprintable:
        def __str__(self):
            raise RuntimeError("cannot be printed")

    with pytest.raises(RuntimeError, match="cannot be printed"):
        write_csv_atomically(pd.DataFrame({"a": [Unprintable()]}), path)
    assert [file.name for file in tmp_path.iterdir()] == ["submission.csv"]
    assert path.read_text() == "a\n1\n"


def test_unwritable_output_raises_the_systems_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_csv_atomically(pd.DataFrame({"a": [1]}), tmp_path / "file" / "submission.csv")
