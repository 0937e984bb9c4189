import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_melanoma.data.folds import patient_folds, shard_folds


@given(
    st.lists(st.tuples(st.integers(0, 15), st.sampled_from("ab")), min_size=1, max_size=80),
    st.integers(2, 5),
    st.integers(0, 5),
)
@settings(max_examples=50)
def test_no_patient_is_in_two_folds(rows, num_folds, seed):
    patients = [f"p{patient}" if patient else "" for patient, _ in rows]
    folds = patient_folds(patients, [s for _, s in rows], num_folds=num_folds, seed=seed)
    assert set(folds) <= set(range(num_folds))
    for patient in set(patients) - {""}:
        assert (
            len({fold for fold, name in zip(folds, patients, strict=True) if name == patient}) == 1
        )


def test_strata_are_spread_evenly():
    rng = np.random.default_rng(0)
    patients = [f"p{number}" for number in rng.integers(0, 300, 2000)]
    strata = np.where(rng.random(2000) < 0.05, "1", "0")
    folds = patient_folds(patients, list(strata), num_folds=5, seed=0)
    positives = np.bincount(folds[strata == "1"], minlength=5)
    sizes = np.bincount(folds, minlength=5)
    assert positives.max() - positives.min() <= 2
    assert sizes.max() - sizes.min() <= 10


def test_unknown_patients_are_equal_to_nobody():
    folds = patient_folds([""] * 10, ["0"] * 10, num_folds=2, seed=0)
    assert sorted(folds) == [0] * 5 + [1] * 5


def test_shards_are_dealt_out_within_each_source():
    sources = ["ham", "ham", "ham", "isic", "isic", "ham"]
    assert shard_folds(sources, num_folds=2).tolist() == [0, 1, 0, 0, 1, 1]
