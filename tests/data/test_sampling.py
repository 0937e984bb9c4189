import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.data.sampling import Sampling

# 40 records of the training shards, 5 of them melanomas; 20 extra ones, 10 of them melanomas.
TARGETS = np.array([1] * 5 + [0] * 35 + [1] * 10 + [0] * 10, np.float32)
IS_EXTRA = np.arange(60) >= 40
TABLE = pd.DataFrame({"target": TARGETS, "is_extra": IS_EXTRA})


def sampling(**rates) -> Sampling:
    return Sampling(TABLE, **rates)


def test_without_rates_every_record_comes_once():
    rows, repeats = sampling().epoch(1, 3)
    assert rows.tolist() == list(range(60))
    assert not repeats.any()
    assert sampling().counts == (45, 15)


@given(
    extra_rate=st.none() | st.floats(0.05, 0.6),
    positive_rate=st.none() | st.floats(0.5, 0.9),
    epoch=st.integers(0, 30),
)
def test_every_epoch_has_the_counts_and_the_own_records(extra_rate, positive_rate, epoch):
    sampled = sampling(extra_rate=extra_rate, positive_rate=positive_rate)
    rows, repeats = sampled.epoch(1, epoch)
    targets = TARGETS[rows]
    assert ((targets == 0).sum(), (targets == 1).sum()) == sampled.counts
    assert set(range(40)) <= set(rows.tolist())
    assert len(set(zip(rows.tolist(), repeats.tolist(), strict=True))) == len(rows)
    if positive_rate is not None:
        assert targets.mean() == pytest.approx(positive_rate, abs=1 / len(rows))
    elif extra_rate is not None:
        assert IS_EXTRA[rows].mean() == pytest.approx(extra_rate, abs=1 / len(rows))


def test_records_take_turns_over_the_epochs():
    sampled = sampling(extra_rate=0.1, positive_rate=0.5)
    rows = np.concatenate([sampled.epoch(1, epoch).rows for epoch in range(50)])
    extra = np.bincount(rows, minlength=60)[40:]
    benign = extra[10:]
    assert benign.max() - benign.min() <= 1
    own = np.bincount(rows, minlength=60)[:5]
    # Each is shown once an epoch, and is repeated in turns among the epoch's seven melanomas.
    assert own.max() - own.min() <= 50


def test_an_epoch_depends_on_seed_and_number_alone():
    one, other = sampling(extra_rate=0.2), sampling(extra_rate=0.2)
    other.epoch(1, 7)
    assert np.array_equal(one.epoch(1, 2).rows, other.epoch(1, 2).rows)
    assert not np.array_equal(one.epoch(1, 2).rows, one.epoch(1, 3).rows)
    assert not np.array_equal(one.epoch(1, 2).rows, one.epoch(2, 2).rows)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"extra_rate": 1.0}, "data.extra_rate: expected a share between 0 and 1, found 1.0"),
        ({"positive_rate": 0.1}, "data.positive_rate: expected a share between 0.2500"),
        ({"positive_rate": 1.0}, "data.positive_rate: expected a share"),
    ],
)
def test_rates_out_of_range_are_errors(rates, message):
    with pytest.raises(ValueError, match=message):
        sampling(**rates)


def test_a_rate_of_extra_images_needs_some():
    with pytest.raises(ValueError, match=r"found none; name them by data\.extra_train"):
        Sampling(TABLE[:40], extra_rate=0.5)
