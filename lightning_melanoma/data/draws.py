"""The random numbers of each record, order and step: pure functions of (seed, epoch).

Augmentation runs on the device, but draws nothing there: every record brings its own small row of
uniform numbers with its batch. So a record is augmented the same on CPU, GPU and TPU, on any number
of devices, ranks, workers and threads, and after a resume. The numbers come from a counter hashed
by SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), vectorised over the batch.
"""

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Uniform numbers a record: enough for every augmentation at once; 512 bytes a record.
NUM_DRAWS = 128

# The increment of SplitMix64: 2**64 divided by the golden ratio, made odd.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Odd, and no multiple of the other: the streams of a record's repeats do not meet.
_FAR_APART = np.uint64(0xD1342543DE82EF95)
_COUNTERS = np.arange(1, NUM_DRAWS + 1, dtype=np.uint64) * _GOLDEN
# Order, draws and steps of one (seed, epoch) come from different streams.
_DRAWS, _ORDER, _STEPS = 0, 1, 2


def record_keys(image_names: Iterable[str]) -> NDArray[np.uint64]:
    """Return (N,) uint64, each record's key: a hash of its name, the same in every data set."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in image_names]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def record_draws(
    seed: int,
    epoch: int,
    keys: NDArray[np.uint64],
    repeats: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return the draws of the records with these keys in one epoch.

    Args:
        seed: of the run.
        epoch: from 0.
        keys: (...) uint64, from `record_keys`.
        repeats: (...), how often the record has come before in this epoch; None for never.

    Returns:
        (..., NUM_DRAWS) float32, uniform in [0, 1), of 24 bits each.
    """
    keys = keys.astype(np.uint64)
    if repeats is not None:
        # A melanoma that comes again is augmented in another way.
        keys = keys + repeats.astype(np.uint64) * _FAR_APART
    starts = _mix(keys ^ _stream(seed, epoch, _DRAWS))
    bits = _mix(starts[..., None] + _COUNTERS)
    # The upper 24 bits: all that a float32 in [0, 1) can hold evenly.
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def order_bits(seed: int, epoch: int, count: int) -> NDArray[np.uint64]:
    """Return (count,) uint64, the random bits that the order of one epoch is made from."""
    with np.errstate(over="ignore"):
        numbers = np.arange(count, dtype=np.uint64)
        return _mix(numbers * _GOLDEN + _stream(seed, epoch, _ORDER))


def run_seed() -> int:
    """Return the seed that Lightning's `seed_everything` set, the same in every process; else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def step_seed(seed: int, epoch: int, step: int, *, rank: int = 0) -> int:
    """Return the seed, in [0, 2**63), for what the device itself draws in one step of an epoch.

    That is dropout and the noise of pixels. `rank` sets processes apart.
    """
    with np.errstate(over="ignore"):
        place = _stream(seed, epoch, _STEPS) + np.uint64(step) * _GOLDEN
        bits = _mix(_mix(place) + np.uint64(rank) * _GOLDEN)
    return int(bits[0] >> np.uint64(1))


@lru_cache(maxsize=16)
def _stream(seed: int, epoch: int, purpose: int) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        start = np.array([seed], np.uint64) * np.uint64(4) + np.uint64(purpose)
        return _mix(_mix(start + _GOLDEN) + np.uint64(epoch) * _GOLDEN)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = bits ^ (bits >> np.uint64(30))
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits
