import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_melanoma.data.order import record_order, window_order

# As the competition's shards of 1024 pixels are: 16 of 2,071 records, a dozen in a block.
NUM_SHARDS, NUM_RECORDS, PER_BLOCK = 16, 2071, 12
SHARDS = np.repeat(np.arange(NUM_SHARDS), NUM_RECORDS)
IN_SHARD = np.tile(np.arange(NUM_RECORDS), NUM_SHARDS)
BLOCKS = SHARDS * -(-NUM_RECORDS // PER_BLOCK) + IN_SHARD // PER_BLOCK
BLOCK_SHARDS = np.repeat(np.arange(NUM_SHARDS), -(-NUM_RECORDS // PER_BLOCK))
SPAN = 256
GOLDEN_WINDOW_ORDER = [2, 3, 8, 0, 9, 1, 5, 11, 10, 6, 4, 7]
SEEDS = range(20)
BATCH = 64


def window(seed: int, epoch: int = 0):
    return window_order(seed, epoch, blocks=BLOCKS, shards=BLOCK_SHARDS, span=SPAN)


def full(seed: int):
    return record_order(seed, 0, len(SHARDS))


def positions(order):
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(1, 300))
def test_an_order_is_a_permutation(seed, epoch, num_records):
    assert sorted(record_order(seed, epoch, num_records)) == list(range(num_records))


@given(
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
    per_shard=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=8), min_size=1, max_size=6),
    span=st.integers(1, 20),
)
def test_a_window_order_has_each_record_once_and_holds_few_blocks(seed, epoch, per_shard, span):
    sizes = [size for shard in per_shard for size in shard]
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    shards = np.repeat(np.arange(len(per_shard)), [len(shard) for shard in per_shard])
    order = window_order(seed, epoch, blocks=blocks, shards=shards, span=span)
    assert sorted(order) == list(range(len(blocks)))
    places = positions(order)
    first = np.array([places[blocks == block].min() for block in range(len(sizes))])
    last = np.array([places[blocks == block].max() for block in range(len(sizes))])
    held = [int(((first <= at) & (at <= last)).sum()) for at in range(len(order))]
    assert max(held) <= span + 1 or len(sizes) <= span


def test_orders_are_pinned_across_versions():
    # Golden values: a run must repeat with any later version of numpy and of this program.
    assert record_order(0, 0, 8).tolist() == [0, 6, 5, 2, 1, 3, 7, 4]
    blocks, shards = np.arange(12) // 2, np.array([0, 0, 0, 1, 1, 1])
    order = window_order(0, 0, blocks=blocks, shards=shards, span=2)
    assert order.tolist() == GOLDEN_WINDOW_ORDER


def test_orders_of_epochs_and_seeds_are_unrelated():
    for first, others in (
        (record_order(0, 0, 2000), (record_order(0, 1, 2000), record_order(1, 0, 2000))),
        (window(0), (window(0, 1), window(1))),
    ):
        for other in others:
            assert abs(np.corrcoef(first, other)[0, 1]) < 0.1


def test_an_order_over_few_blocks_is_the_order_over_all_records():
    order = window_order(3, 4, blocks=np.arange(100) // 2, shards=np.zeros(50, int), span=50)
    assert np.array_equal(order, record_order(3, 4, 100))


@pytest.mark.parametrize(
    ("statistic", "tolerance"),
    [
        # Of position with index; over seeds, a permutation's deviates by 1 / sqrt(N) = 0.0055.
        (lambda order: np.corrcoef(np.arange(len(order)), order)[0, 1], 0.0055),
        # How far a record moves, of the whole: a third, give or take 0.0013.
        (
            lambda order: np.abs(positions(order) - np.arange(len(order))).mean() / len(order),
            0.0013,
        ),
    ],
)
def test_positions_in_a_window_order_vary_as_in_a_full_permutation(statistic, tolerance):
    ours = np.array([statistic(window(seed)) for seed in SEEDS])
    theirs = np.array([statistic(full(seed)) for seed in SEEDS])
    assert ours.std() <= 1.5 * theirs.std()
    # Five standard errors of a difference of means.
    assert abs(ours.mean() - theirs.mean()) < 5 * tolerance * np.sqrt(2 / len(SEEDS))


def test_batches_of_a_window_order_mix_the_shards_as_those_of_a_full_permutation_do():
    def spread(order):
        batches = SHARDS[order][: len(order) // BATCH * BATCH].reshape(-1, BATCH)
        counts = np.stack([np.bincount(batch, minlength=NUM_SHARDS) for batch in batches])
        share = 1 / NUM_SHARDS
        return ((counts - BATCH * share) ** 2).mean() / (BATCH * share * (1 - share))

    ours = [spread(window(seed)) for seed in SEEDS]
    assert abs(np.mean(ours) - np.mean([spread(full(seed)) for seed in SEEDS])) < 0.05


def test_neighbours_in_a_shard_are_seldom_neighbours_in_a_window_order():
    shares = [(np.diff(window(seed)) == 1).mean() for seed in SEEDS]
    # A window has about 3,000 records; a full permutation would have 1 / 33,136.
    assert np.mean(shares) < 1 / 2000
