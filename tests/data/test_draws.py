import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.data.draws import NUM_DRAWS, record_draws, record_keys, record_order

GOLDEN_DRAWS = [0.4085310697555542, 0.976459801197052, 0.8469707369804382]
GOLDEN_ORDER = [0, 6, 5, 2, 1, 3, 7, 4]
KEYS = record_keys([f"ISIC_{n:07d}" for n in range(2000)])


def test_draws_are_uniform_and_uncorrelated():
    draws = record_draws(0, 0, KEYS)
    assert draws.shape == (2000, NUM_DRAWS)
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    # 256,000 draws: the standard error of the mean is 0.0006.
    assert abs(draws.mean() - 0.5) < 0.003
    assert abs(draws.var() - 1 / 12) < 0.001
    correlations = np.corrcoef(draws.T) - np.eye(NUM_DRAWS)
    # Of 8,128 pairs of columns over 2,000 rows, five standard errors are 0.112.
    assert np.abs(correlations).max() < 0.112


def test_draws_depend_on_seed_epoch_and_record_alone():
    draws = record_draws(3, 5, KEYS[:10])
    assert np.array_equal(draws, record_draws(3, 5, KEYS[:100])[:10])
    assert np.array_equal(draws[::-1], record_draws(3, 5, KEYS[:10][::-1]))
    for other in (record_draws(4, 5, KEYS[:10]), record_draws(3, 6, KEYS[:10])):
        assert not (draws == other).any(axis=1).all()
        assert abs(np.corrcoef(draws.ravel(), other.ravel())[0, 1]) < 0.15


def test_draws_and_order_are_pinned_across_versions():
    # Golden values: a run must repeat with any later version of numpy and of this program.
    draws = record_draws(0, 0, record_keys(["ISIC_0000000"]))[0, :3]
    assert draws.tolist() == GOLDEN_DRAWS
    assert record_order(0, 0, 8).tolist() == GOLDEN_ORDER


@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(1, 300))
def test_an_order_is_a_permutation(seed, epoch, num_records):
    assert sorted(record_order(seed, epoch, num_records)) == list(range(num_records))


def test_orders_of_epochs_and_seeds_are_unrelated():
    first = record_order(0, 0, 2000)
    for other in (record_order(0, 1, 2000), record_order(1, 0, 2000)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.1
