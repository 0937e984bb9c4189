import numpy as np

from lightning_melanoma.data.draws import NUM_DRAWS, record_draws, record_keys

GOLDEN_DRAWS = [0.4085310697555542, 0.976459801197052, 0.8469707369804382]
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


def test_draws_are_pinned_across_versions():
    # Golden values: a run must repeat with any later version of numpy and of this program.
    draws = record_draws(0, 0, record_keys(["ISIC_0000000"]))[0, :3]
    assert draws.tolist() == GOLDEN_DRAWS
