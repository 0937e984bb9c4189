from dataclasses import replace

import numpy as np
import pytest

from lightning_melanoma.decisions.calibrated import Calibration
from lightning_melanoma.scoring.ensemble import MemberScores, load_member
from lightning_melanoma.scoring.judging import basis_of, judge_files


@pytest.fixture(scope="module")
def member(checkpoint):
    """A calibrated checkpoint with a gate."""
    return load_member(checkpoint)


def judge(member, *rarities, faults=None, ageless=None, **settings):
    """Return the table of files with the given rarities, one list a checkpoint."""
    members = [member] * len(rarities)
    usual = {"sensitivity": 0.95, "miss_rate": None, "prevalence": None}
    num_files = len(rarities[0])
    said = [MemberScores(np.zeros((4, num_files)), np.array(rarity)) for rarity in rarities]
    return judge_files(
        [f"{place}.jpg" for place in range(num_files)],
        faults or {},
        basis=basis_of(members, **{**usual, **settings}),
        said=said,
        num_views=4,
        is_ageless=np.array(ageless or [False] * num_files),
    )


def reported(table):
    return list(table["note"].str.startswith("no lesion?"))


def test_an_image_is_reported_where_more_than_half_of_the_gates_do(member):
    assert reported(judge(member, [0.05, 0.06])) == [True, False]
    assert reported(judge(member, [0.01, 0.01], [0.01, 0.9])) == [True, False]
    assert reported(judge(member, [0.01, 0.01], [0.01, 0.9], [0.9, 0.9])) == [True, False]
    # A checkpoint without a gate has no say.
    assert reported(judge(member, [0.01, 0.9], [np.nan, np.nan])) == [True, False]
    assert reported(judge(member, [np.nan, np.nan])) == [False, False]


def test_an_age_that_is_wanted_and_unknown_is_noted(member):
    table = judge(
        member, [0.9, 0.01, 0.9, 0.9], ageless=[True, True, False, True], faults={3: "no"}
    )
    assert table["note"][0] == "age unknown, counts as 50"
    assert table["note"][1].startswith("no lesion? more unusual than 99.0%")
    assert table["note"][1].endswith("; age unknown, counts as 50")
    assert list(table["note"][2:]) == ["", "no"]


def test_the_prevalence_moves_no_decision_of_checkpoints_calibrated_on_other_images(member):
    generator = np.random.default_rng(0)
    members = []
    for prevalence in (0.4, 0.02):
        logits = generator.normal(np.log(prevalence / (1 - prevalence)), 1.5, 3000)
        targets = generator.random(3000) < 1 / (1 + np.exp(-logits))
        empty = Calibration(prior_shift=0.0, prevalence=targets.mean(), image_size=32, tta=4)
        own = empty.fitted(logits, targets, np.arange(3000))
        members.append(replace(member, calibration=own))
    said = [MemberScores(generator.normal(-1, 2, (4, 300)), np.full(300, np.nan)) for _ in members]
    names, tables = list(map(str, range(300))), []
    for prevalence in (None, 0.1, 0.2):
        basis = basis_of(members, sensitivity=0.9, miss_rate=0.05, prevalence=prevalence)
        table = judge_files(
            names, {}, basis=basis, said=said, num_views=1, is_ageless=np.zeros(300, bool)
        )
        tables.append(table)
        # The thresholds that are printed are those of the probabilities beside them.
        called = table["probability"][table["decision"] == "melanoma"]
        threshold = 1 / (1 + np.exp(-basis.shown(basis.rule.melanoma_from)))
        assert called.min() >= threshold > table["probability"].drop(called.index).max()
    for table in tables[1:]:
        assert list(table["decision"]) == list(tables[0]["decision"])
    assert (tables[2]["probability"] > tables[1]["probability"]).all()
    assert (tables[2]["upper"] >= tables[1]["upper"]).all()


def test_what_is_reported_is_referred_whatever_its_probability(member):
    table = judge(member, [0.01, 0.9])
    assert table.loc[0, "decision"] == "refer"
    assert table.loc[0, "probability"] == table.loc[1, "probability"]
    assert table.loc[1, "decision"] in ("melanoma", "benign")
    assert table.loc[0, "note"] == "no lesion? more unusual than 99.0% of the calibration lesions"


def test_a_file_that_was_not_read_has_its_reason_and_nothing_else(member):
    table = judge(member, [0.9, np.nan, 0.9], faults={1: "expected an image"})
    assert table.loc[1, "note"] == "expected an image"
    assert table.drop(columns=["file", "note"]).loc[1].isna().all()
    assert table.drop(index=1).drop(columns="note").notna().all(axis=None)
    assert list(table["file"]) == ["0.jpg", "1.jpg", "2.jpg"]


def test_files_none_of_which_was_read_are_a_table_too(member):
    table = judge(member, [np.nan, np.nan], faults={0: "a", 1: "b"})
    assert list(table["note"]) == ["a", "b"]
    assert table["probability"].isna().all()
