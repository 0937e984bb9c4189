"""The place of an epoch outlives another number of ranks and threads, and repeated records."""

import pytest
from conftest import write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_melanoma.data.dataset import MelanomaDataset
from lightning_melanoma.data.loader import MelanomaLoader
from lightning_melanoma.data.sampling import Sampling
from lightning_melanoma.data.table import read_split

# Divided by each number of ranks that is tried.
BATCH_SIZE = 12


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    write_shards(folder, num_shards=5, num_records=8)
    return read_split(str(folder), prefix="train", metadata=None, on_corrupt="raise")


def loaders(split, *, world_size, threads, positive_rate, seed=5) -> list[MelanomaLoader]:
    sampling = Sampling(split.table, positive_rate=positive_rate)
    return [
        MelanomaLoader(
            MelanomaDataset(
                split.table, split.shards, image_size=16, batch_size=BATCH_SIZE, seed=seed,
                shuffle=True, rank=rank, world_size=world_size, decode_threads=threads,
                sampling=sampling,
            )
        )
        for rank in range(world_size)
    ]  # fmt: skip


def records_of(steps) -> list[tuple[int, float]]:
    """Row and first draw of each valid row of some steps, a step being a batch from each rank."""
    return [
        (int(row), float(draws[0]))
        for step in steps
        for batch in step
        for row, draws in zip(batch.rows[batch.valid], batch.draws[batch.valid], strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(
    before=st.sampled_from([1, 2, 3, 4]),
    after=st.sampled_from([1, 2, 3, 6]),
    threads=st.integers(1, 3),
    positive_rate=st.sampled_from([None, 0.6]),
    data=st.data(),
)
def test_the_rest_of_an_epoch_is_seen_once_by_other_ranks(
    split, before, after, threads, positive_rate, data
):
    rate = {"positive_rate": positive_rate}
    whole = records_of(zip(*loaders(split, world_size=1, threads=2, **rate), strict=True))
    first = loaders(split, world_size=before, threads=threads, **rate)
    stop = data.draw(st.integers(0, len(first[0]) - 1))
    iterators = [iter(loader) for loader in first]
    seen = [[next(iterator) for iterator in iterators] for _ in range(stop)]
    states = [loader.state_dict() for loader in first]
    for iterator in iterators:
        iterator.close()
    # Every rank's place is the same, so that any of them may be kept.
    assert all(state == states[0] for state in states)
    # The seed is that of the place, whatever the new run was given.
    rest = loaders(split, world_size=after, threads=2, seed=6, **rate)
    for loader in rest:
        loader.load_state_dict(states[0])
    assert records_of(seen) + records_of(zip(*rest, strict=True)) == whole
