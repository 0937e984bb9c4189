import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_melanoma.cli import main
from lightning_melanoma.metrics import calibration_error
from lightning_melanoma.predictions import prediction_table, write_predictions
from lightning_melanoma.report.tables import read_tables

DRAWS = ["--num_draws", "100"]


def rows(num_rows=600, seed=0, **changes):
    """A table as `fit` writes it: 30 % melanomas, 3 images a patient."""
    generator = np.random.default_rng(seed)
    targets = (generator.random(num_rows) < 0.3).astype(int)
    records = {
        "image_name": [f"ISIC_{row:07d}" for row in range(num_rows)],
        "patient_id": [f"IP_{row // 3}" for row in range(num_rows)],
        "target": targets,
        "sex": np.where(np.arange(num_rows) % 3 < 2, "female", "male"),
        "age_approx": np.where(np.arange(num_rows) < 300, 30.0, 75.0),
        "anatom_site_general_challenge": (["palms/soles"] * 20 + ["torso"] * num_rows)[:num_rows],
    }
    logits = generator.normal(1.5 * targets - 1.5, 1)
    return prediction_table(pd.DataFrame(records | changes), logits, fold=0)


@pytest.fixture
def table(tmp_path):
    write_predictions(rows(), tmp_path / "val.csv")
    return tmp_path / "val.csv"


def evaluate(*words, out):
    main(["evaluate", "--predictions", *map(str, words), "--out", str(out), *DRAWS])
    return json.loads((out / "metrics.json").read_text())


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--predictions", *map(str, words), *DRAWS])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_evaluate_leaves_metrics_figures_and_one_page(table, tmp_path):
    found = evaluate(table, out=tmp_path / "out")
    pictures = {
        "roc",
        "precision_recall",
        "reliability",
        "decision_curve",
        "histograms",
        "confusion",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json",
        "report.html",
        *(f"{name}.png" for name in pictures),
    }
    (of_table,) = found["tables"]
    expected = rows()
    assert of_table["metrics"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(expected["target"], expected["logit"]), abs=1e-9
    )
    assert of_table["metrics"]["average_precision"]["value"] == pytest.approx(
        average_precision_score(expected["target"], expected["logit"]), abs=1e-9
    )
    for name, estimate in of_table["metrics"].items():
        assert name == "calibration_error" or estimate["low"] <= estimate["high"]
    assert of_table["num_patients"] == 200
    assert np.sum(of_table["confusion"]) == 600
    assert of_table["metrics"]["sensitivity"]["value"] >= 0.95


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_page_has_everything_inside_and_opens_with_the_answer(table, tmp_path):
    evaluate(table, out=tmp_path / "out")
    page = Tags()
    page.feed((tmp_path / "out" / "report.html").read_text())
    links = [
        value for _, attrs in page.found for key, value in attrs.items() if key in ("src", "href")
    ]
    assert len(links) == 7
    assert all(link.startswith("data:") for link in links)
    assert all(attrs["alt"] for tag, attrs in page.found if tag == "img")
    assert not {tag for tag, _ in page.found} & {"script", "iframe"}
    text = " ".join("".join(page.text).split())
    assert re.search(
        r"Evaluation of val On 600 images of 200 patients with \d+ melanomas, the model ranks a "
        r"melanoma above a benign lesion in \d\d\.\d % of pairs",
        text,
    )
    assert "no medical device" in text


def test_small_groups_are_marked_and_the_others_scored(table, tmp_path):
    (found,) = evaluate(table, out=tmp_path / "out")["tables"]
    assert {
        name: [group["name"] for group in groups] for name, groups in found["groups"].items()
    } == {
        "sex": ["female", "male"],
        "age": ["under 40", "70 or older"],
        "site": ["palms/soles", "torso"],
    }
    soles, torso = found["groups"]["site"]
    assert soles["num_images"] == 20
    assert soles["num_melanomas"] < 10
    assert soles["metrics"] is None
    part = rows().query("anatom_site_general_challenge == 'torso'")
    assert torso["metrics"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(part["target"], part["logit"]), abs=1e-9
    )
    assert "too small to score" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("num_rows", [2, 12])
def test_a_handful_of_images_is_judged_as_far_as_it_goes(tmp_path, num_rows):
    table = rows(num_rows=num_rows, target=[0, 1] * (num_rows // 2), patient_id=None)
    write_predictions(table, tmp_path / "val.csv")
    (found,) = evaluate(tmp_path / "val.csv", out=tmp_path / "out")["tables"]
    expected = roc_auc_score(table["target"].astype(int), table["logit"])
    assert found["metrics"]["auroc"]["value"] == pytest.approx(expected, abs=1e-9)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "nan" not in page.partition("data:image")[0]


def test_several_tables_are_columns_named_by_what_tells_them_apart(tmp_path):
    for run, seed in (("a", 0), ("b", 1)):
        write_predictions(rows(seed=seed), tmp_path / run / "predictions" / "val.csv")
    paths = [tmp_path / run / "predictions" / "val.csv" for run in "ab"]
    found = evaluate(*paths, out=tmp_path / "out")
    names = [table["name"] for table in found["tables"]]
    assert names == ["a/predictions/val", "b/predictions/val"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f'<th scope="col" class="name">{name}</th>' in page for name in names)
    assert (tmp_path / "out" / "confusion_2.png").exists()


def test_labels_fill_in_targets_and_patients(table, tmp_path):
    whole = evaluate(table, out=tmp_path / "whole")
    expected = rows()
    bare = rows(target=None, patient_id=None).drop(columns=["sex", "age_approx"])
    write_predictions(bare, tmp_path / "test.csv")
    labels = expected[["image_name", "patient_id", "target", "sex", "age_approx"]]
    labels.sample(frac=1, random_state=0).to_csv(tmp_path / "solution.csv", index=False)
    found = evaluate(
        tmp_path / "test.csv", "--labels", tmp_path / "solution.csv", out=tmp_path / "out"
    )
    assert found["tables"][0] | {"name": "val"} == whole["tables"][0]


def test_words_for_nothing_in_labels_are_nothing(table, tmp_path):
    bare = rows(target=None, patient_id=None).drop(columns=["sex", "age_approx"])
    write_predictions(bare, tmp_path / "test.csv")
    labels = rows(patient_id="NA")[["image_name", "patient_id", "target"]]
    labels.assign(age_approx="unknown").to_csv(tmp_path / "labels.csv", index=False)
    (found,) = evaluate(
        tmp_path / "test.csv", "--labels", tmp_path / "labels.csv", out=tmp_path / "out"
    )["tables"]
    assert found["num_patients"] is None


def test_tables_are_told_apart_by_what_differs(tmp_path):
    write_predictions(rows(), tmp_path / "val.csv")
    write_predictions(rows(), tmp_path / "val.txt")
    tables = read_tables([str(tmp_path / "val.csv"), str(tmp_path / "val.txt")])
    assert [table.name for table in tables] == ["val.csv", "val.txt"]
    with pytest.raises(ValueError, match=r"expected each table once, found .*val\.csv twice"):
        read_tables([str(tmp_path / "val.csv"), f"{tmp_path}/./val.csv"])


def test_table_without_patients_says_that_images_were_drawn(tmp_path):
    write_predictions(rows(patient_id=None), tmp_path / "val.csv")
    (found,) = evaluate(tmp_path / "val.csv", out=tmp_path / "out")["tables"]
    assert found["num_patients"] is None
    assert "No patient is known in val" in (tmp_path / "out" / "report.html").read_text()


def test_threshold_and_prevalence_are_the_users(table, tmp_path):
    words = ["--threshold", "0.2", "--prevalence", "0.02"]
    (found,) = evaluate(table, *words, out=tmp_path / "out")["tables"]
    assert found["threshold"] == 0.2
    rates = found["metrics"]
    expected = 1 + (1 - rates["specificity"]["value"]) * 0.98 / (
        rates["sensitivity"]["value"] * 0.02
    )
    assert rates["number_needed_to_excise_there"]["value"] == pytest.approx(expected)


def test_threshold_that_calls_nothing_is_told_so(table, tmp_path, capsys):
    (found,) = evaluate(table, "--threshold", "0.9999999", out=tmp_path / "out")["tables"]
    assert found["metrics"]["number_needed_to_excise"]["value"] is None
    assert found["metrics"]["sensitivity"]["value"] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no melanoma reaches the operating point" in page


def test_names_of_a_table_cannot_break_the_page(tmp_path):
    write_predictions(rows(sex="<b>&"), tmp_path / "<i>.csv")
    changed = rows()
    changed["sex"] = changed["sex"].replace("male", "<script>")
    write_predictions(changed, tmp_path / "<i>.csv")
    evaluate(tmp_path / "<i>.csv", out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page
    assert "<i>" not in page


def test_saturated_probabilities_are_judged(tmp_path):
    table = rows()
    table["probability"] = (table["logit"] > 0).astype(float)
    write_predictions(table, tmp_path / "val.csv")
    (found,) = evaluate(tmp_path / "val.csv", out=tmp_path / "out")["tables"]
    assert found["metrics"]["log_loss"]["value"] < 36.1


def test_same_seed_gives_the_same_numbers(table, tmp_path):
    one = evaluate(table, out=tmp_path / "one")
    other = evaluate(table, out=tmp_path / "other")
    assert one == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, "expected a target in every row, found none in 600 of 600"),
        ({"target": 0}, "expected melanoma and benign images, found target 0 in all 600 rows"),
        ({"target": 2}, "expected target 0 or 1, found 2 (600 rows in all)"),
        ({"image_name": "a"}, "expected unique ids, found ids again in 599 of 600 rows: a"),
    ],
)
def test_unusable_table_is_one_line_and_leaves_nothing(tmp_path, capsys, changes, message):
    write_predictions(rows(**changes), tmp_path / "val.csv")
    line = fails(capsys, tmp_path / "val.csv", "--out", tmp_path / "out")
    assert f"val.csv: {message}" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_probability_outside_0_and_1_is_named(tmp_path, capsys, value):
    table = rows()
    table.loc[3, "probability"] = value
    write_predictions(table, tmp_path / "val.csv")
    line = fails(capsys, tmp_path / "val.csv", "--out", tmp_path / "out")
    assert "expected probabilities in [0, 1], found others at ISIC_0000003" in line


def test_table_without_a_column_is_one_line(tmp_path, capsys):
    rows().drop(columns="probability").to_csv(tmp_path / "val.csv", index=False)
    line = fails(capsys, tmp_path / "val.csv", "--out", tmp_path / "out")
    assert "val.csv: expected also the column probability, found image_name" in line


def test_labels_of_other_images_are_counted_and_named(table, tmp_path, capsys):
    rows().iloc[5:][["image_name", "target"]].to_csv(tmp_path / "labels.csv", index=False)
    words = [table, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    line = fails(capsys, *words)
    assert (
        "labels.csv: expected a row for each of the 600 predicted images, found none for 5" in line
    )
    assert "(ISIC_0000000, ISIC_0000001, ISIC_0000002 and 2 more)" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sensitivity", "0"], "sensitivity: expected a share above 0 up to 1, found 0.0"),
        (["--threshold", "1"], "threshold: expected a probability between 0 and 1, found 1.0"),
        (["--prevalence", "2"], "prevalence: expected a share between 0 and 1, found 2.0"),
        (["--seed", "-1"], "seed: expected 0 or more, found -1"),
        (["--labels", "none.csv"], "none.csv"),
    ],
)
def test_impossible_setting_is_one_line(table, tmp_path, capsys, words, message):
    assert message in fails(capsys, table, "--out", tmp_path / "out", *words)


def test_missing_table_and_filled_folder_are_one_line(table, tmp_path, capsys):
    assert "gone.csv" in fails(capsys, tmp_path / "gone.csv", "--out", tmp_path / "out")
    assert "found a folder that is not empty" in fails(capsys, table, "--out", tmp_path)
    assert "found" in fails(capsys, table, table, "--out", tmp_path / "out")


def test_report_tells_what_calibrating_would_change(tmp_path):
    table = rows(num_rows=3000)
    table["probability"] = 1 / (1 + np.exp(-2 * table["logit"] - 3))
    write_predictions(table, tmp_path / "val.csv")
    (found,) = evaluate(tmp_path / "val.csv", out=tmp_path / "out")["tables"]
    change = found["recalibration"]
    assert change["before"]["log_loss"] == pytest.approx(found["metrics"]["log_loss"]["value"])
    assert change["after"]["log_loss"] < 0.9 * change["before"]["log_loss"]
    assert change["after"]["observed_to_expected"] == pytest.approx(1, abs=0.05)
    assert change["temperature"] == pytest.approx(
        1 / found["metrics"]["calibration_slope"]["value"], abs=1e-9
    )


def test_calibration_error_has_no_interval_and_the_page_says_why(table, tmp_path):
    (found,) = evaluate(table, out=tmp_path / "out")["tables"]
    expected = rows()
    error = calibration_error(expected["target"].astype(int), expected["probability"])
    assert found["metrics"]["calibration_error"] == {
        "value": pytest.approx(error, abs=1e-9),
        "low": None,
        "high": None,
    }
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<b>{error:.4f}</b></td>" in page
    assert "The calibration error has no interval" in page


def test_table_that_no_line_fits_says_why(tmp_path):
    table = rows()
    table["probability"] = 0.1 + 0.8 * table["target"]
    write_predictions(table, tmp_path / "val.csv")
    (found,) = evaluate(tmp_path / "val.csv", out=tmp_path / "out")["tables"]
    assert "parted from the rest" in found["recalibration"]["impossible"]
    assert found["metrics"]["calibration_slope"]["value"] is None
    assert "No line can be fitted to val" in (tmp_path / "out" / "report.html").read_text()
