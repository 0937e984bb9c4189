"""Small shards with drawn images, and a cache of their own for every test session."""

import signal
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import settings

from lightning_melanoma.records import repeating
from lightning_melanoma.records.example import serialize_example
from lightning_melanoma.records.tfrecord import write_shard

# A time limit for each example would fail on a machine that has other things to do. The examples
# are the same everywhere, so that what passes here passes elsewhere.
settings.register_profile("any machine", deadline=None, derandomize=True, database=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep the user's cache out of the tests, and the tests out of it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LIGHTNING_MELANOMA_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _hears_ctrl_c():
    """Take SIGINT as in a terminal: shells let what they start in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def jpeg(seed: int, size: int = 32) -> bytes:
    """Return a JPEG of a plain colour that tells images apart."""
    color = np.random.default_rng(seed).integers(0, 256, 3, np.uint8)
    return simplejpeg.encode_jpeg(np.tile(color, (size, size, 1)), quality=94)


def fields(number: int, **changes) -> dict[str, bytes | int | str]:
    """Return the fields of one record; None takes one out."""
    own = {
        "image": jpeg(number),
        "image_name": f"ISIC_{number:07d}",
        "patient_id": number // 2,
        "target": int(number % 4 == 0),
        "sex": number % 2,
    } | changes
    return {name: value for name, value in own.items() if value is not None}


def write_shards(
    folder: Path,
    *,
    num_shards: int,
    num_records: int,
    prefix: str = "train",
    start: int = 0,
    **changes,
) -> list[Path]:
    """Write `num_shards` shards of `num_records` records each, numbered from `start` on."""
    paths = []
    for shard in range(num_shards):
        first = start + shard * num_records
        path = folder / f"{prefix}{shard:02d}-{num_records}.tfrec"
        numbers = range(first, first + num_records)
        write_shard(path, [serialize_example(fields(n, **changes)) for n in numbers])
        paths.append(path)
    return paths


@pytest.fixture
def shards(tmp_path) -> Path:
    """A folder with 4 training shards of 8 records and 2 test shards of 5 without target."""
    folder = tmp_path / "shards"
    write_shards(folder, num_shards=4, num_records=8)
    write_shards(folder, num_shards=2, num_records=5, prefix="test", start=1000, target=None)
    return folder


@pytest.fixture
def service(monkeypatch):
    """Google's storage service on loopback, where ``gs://`` leads: an empty bucket `bucket`."""
    from storage_service import StorageService

    running = StorageService()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
    # What is tested is that requests are repeated, not how long that takes.
    monkeypatch.setattr(repeating, "FIRST_WAIT", 0.001)
    repeating.tally.take()
    yield running
    running.close()
    # Other tests are not to report what was repeated here.
    repeating.tally.take()
