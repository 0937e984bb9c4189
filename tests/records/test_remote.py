import contextlib
import functools
import http.server
import json
import os
import subprocess
import sys
import threading

import fsspec
import pytest

from lightning_melanoma.records import access, remote, repeating
from lightning_melanoma.records.reader import ChangedShardError, ShardReader
from lightning_melanoma.records.storage import find_shards

CONTENT = bytes(range(256)) * 400


def read_all(shard) -> bytes:
    reader = ShardReader(shard)
    try:
        with reader.stream() as stream:
            return stream.read()
    finally:
        reader.close()


def test_shards_in_a_bucket_are_found_by_folder_glob_and_name(service, shards):
    service.put_folder(shards, "data")
    for url in ("gs://bucket/data", "gs://bucket/data/train*", "gs://bucket/data/train00-8.tfrec"):
        found = find_shards(url, prefix="train")
        expected = find_shards(str(shards), prefix="train")[: 1 if url.endswith("rec") else None]
        assert [(s.name, s.data_set, s.size) for s in found] == [
            (s.name, "data", s.size) for s in expected
        ]
        assert all(shard.url.startswith("gs://bucket/data/") for shard in found)


def test_the_shards_of_a_folder_are_listed_by_one_request(service, shards):
    service.put_folder(shards, "data")
    find_shards("gs://bucket/data")
    assert service.requests == {"metadata": 1}


def test_every_byte_comes_right_through_failing_requests_which_are_counted(service, caplog):
    service.put("shard.tfrec", CONTENT)
    shard = find_shards("gs://bucket/shard.tfrec")[0]
    service.fault_rate = 0.3
    reader = ShardReader(shard)
    for offset in range(0, len(CONTENT), 5000):
        assert reader.read(offset, 5000) == CONTENT[offset : offset + 5000]
    assert read_all(shard) == CONTENT
    assert set(service.faults) == {"503", "429", "cut", "short"}
    # Some failed requests are not made again: gcsfs asks whether a name is an object and whether
    # it is a folder at once, and gives up one when the other is answered.
    remote.log_repeated()
    assert "requests failed for a moment and were repeated" in caplog.text
    repeated = int(caplog.text.partition("Reading from afar, ")[2].split()[0])
    assert 0 < repeated <= sum(service.faults.values())
    caplog.clear()
    remote.log_repeated()
    assert not caplog.text


def test_a_truncated_answer_is_never_the_end_of_a_shard(service, monkeypatch):
    service.put("shard.tfrec", CONTENT)
    shard = find_shards("gs://bucket/shard.tfrec")[0]
    reader = ShardReader(shard)
    monkeypatch.setattr(service, "draw_fault", lambda: "short")
    with reader.stream() as stream, pytest.raises(OSError, match=r"51200 of 102400 bytes, 9 times"):
        stream.read()


def test_a_place_that_never_answers_is_given_up_and_named(service, caplog):
    service.fault_rate = 1.0
    with pytest.raises(OSError, match=r"gs://bucket/data: expected an answer, found .* 9 times"):
        find_shards("gs://bucket/data")
    assert "no whole answer yet" in caplog.text


@pytest.mark.parametrize("url", ["gs://bucket/shard.tfrec", "memory://bucket/shard.tfrec"])
@pytest.mark.parametrize("change", [CONTENT[::-1], CONTENT[:-1], None])
def test_a_shard_that_changes_is_stopped_with_its_name(service, url, change):
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/shard.tfrec", CONTENT)
    service.put("shard.tfrec", CONTENT)
    shard = find_shards(url)[0]
    reader = ShardReader(shard)
    assert reader.read(100, 50) == CONTENT[100:150]
    if change is None:
        memory.rm("/bucket/shard.tfrec")
        service.delete("shard.tfrec")
    else:
        memory.pipe("/bucket/shard.tfrec", change)
        service.put("shard.tfrec", change)
    with pytest.raises(ChangedShardError, match=rf"shard {url}: .* found it changed since"):
        reader.read(100, 50)


def test_a_local_shard_that_changes_is_stopped_with_its_name(tmp_path, monkeypatch):
    path = tmp_path / "shard.tfrec"
    path.write_bytes(CONTENT)
    shard = find_shards(str(path))[0]
    now = 100.0
    monkeypatch.setattr("lightning_melanoma.records.reader.time.monotonic", lambda: now)
    reader = ShardReader(shard)
    assert reader.read(100, 50) == CONTENT[100:150]
    path.write_bytes(CONTENT[::-1])
    # The clock of a file system ticks in milliseconds.
    os.utime(path, (1, 1))
    with pytest.raises(ChangedShardError, match=rf"shard {path}: .* found it changed since"):
        reader.check()
    now += 0.11
    with pytest.raises(ChangedShardError, match="found it changed since"):
        reader.read(100, 50)
    with pytest.raises(ChangedShardError, match="found it changed since"):
        ShardReader(shard)


@pytest.mark.parametrize(
    "url", ["gs://bucket/nothing", "gs://nothing/data", "gs://nothing", "memory://nothing"]
)
def test_a_bucket_or_folder_that_is_not_there_is_named(service, url):
    with pytest.raises(FileNotFoundError, match=rf"{url}: expected .* found none"):
        find_shards(url)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("url", ["gs://bucket", "gs://bucket/data", "gs://bucket/data/*"])
def test_a_bucket_that_may_not_be_read_is_named(service, status, url):
    service.denied = status
    with pytest.raises(PermissionError, match="expected leave to read it, found none"):
        find_shards(url)


def test_credentials_are_used_where_a_bucket_denies_strangers(service, monkeypatch, tmp_path):
    service.put("shard.tfrec", CONTENT)
    service.denied, service.token = 401, "secret"
    key = tmp_path / "key.json"
    key.write_text(json.dumps(service_account(service.url)))
    # As on a machine of Google's: a real endpoint, and credentials in the environment.
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"endpoint_url": service.url})
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setattr(access, "_accepted", {})
    shard = find_shards("gs://bucket/shard.tfrec")[0]
    denials = service.denials
    assert denials
    assert read_all(shard) == CONTENT
    # The bucket is not asked as a stranger again; one read for the first bytes, one for all.
    assert service.denials == denials
    assert service.requests["content"] == 2


def test_an_emulator_is_sent_no_credentials_whatever_is_configured(service, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "google_default"})
    assert [identity["token"] for identity in access._google_identities()] == ["anon"]


def service_account(url: str) -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": text.decode(),
        "client_email": "reader@project.iam.gserviceaccount.com",
        "token_uri": f"{url}/token",
    }


def test_a_local_copy_is_made_once_and_read(service):
    service.put("data/shard.tfrec", CONTENT)
    shard = find_shards("simplecache::gs://bucket/data")[0]
    assert shard.url == "simplecache::gs://bucket/data/shard.tfrec"
    assert read_all(shard) == CONTENT
    asked = service.requests["content"]
    reader = ShardReader(shard)
    assert reader.read(1000, 50) == CONTENT[1000:1050]
    assert service.requests["content"] == asked


@pytest.mark.parametrize("scheme", ["gs", "memory"])
@pytest.mark.parametrize("change", [CONTENT[::-1], CONTENT[:-1]])
def test_a_shard_that_changes_ahead_of_its_copy_is_stopped_with_its_name(service, scheme, change):
    memory = fsspec.filesystem("memory")
    # A copy stays as long as the process: each case has a name of its own.
    name = f"{len(change)}.tfrec"
    url = f"simplecache::{scheme}://bucket/ahead/{name}"
    memory.pipe(f"/bucket/ahead/{name}", CONTENT)
    service.put(f"ahead/{name}", CONTENT)
    (shard,) = find_shards(url)
    assert remote.describe(url) == (url, len(CONTENT), shard.version, False)
    assert shard.version == remote.describe(url.removeprefix("simplecache::")).version != ""
    memory.pipe(f"/bucket/ahead/{name}", change)
    service.put(f"ahead/{name}", change)
    with pytest.raises(ChangedShardError, match=rf"shard {url}: .* found it changed since"):
        ShardReader(shard)


def test_a_shard_that_goes_while_it_is_copied_is_stopped_with_its_name(monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/going/shard.tfrec", CONTENT)
    (shard,) = find_shards("simplecache::memory://bucket/going/shard.tfrec")
    open_copy = remote.open_copy

    def copy_and_remove(url):
        copy = open_copy(url)
        memory.rm("/bucket/going/shard.tfrec")
        return copy

    monkeypatch.setattr(remote, "open_copy", copy_and_remove)
    with pytest.raises(ChangedShardError, match="found it changed since"):
        ShardReader(shard)


def test_a_shard_on_a_web_server_is_read(service):
    service.put("shard.tfrec", CONTENT)
    shard = find_shards(f"{service.url}/bucket/shard.tfrec")[0]
    service.fault_rate = 0.3
    assert ShardReader(shard).read(1000, 50) == CONTENT[1000:1050]
    assert read_all(shard) == CONTENT
    service.fault_rate = 0.0
    service.put("shard.tfrec", CONTENT[:-1])
    with pytest.raises(ChangedShardError):
        read_all(shard)
    service.denied = 403
    with pytest.raises(PermissionError, match="expected leave to read it"):
        find_shards(f"{service.url}/bucket/shard.tfrec")


@contextlib.contextmanager
def served(folder):
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_lies_beside_shards_on_a_web_server_is_not_asked_for(shards):
    # A link that leads nowhere: who asks for it gets an error.
    (shards / "picture.jpg").symlink_to("nowhere")
    with served(shards) as url:
        assert len(find_shards(f"{url}/", prefix="train")) == 4


def test_a_query_behind_a_web_address_is_no_pattern(shards):
    with served(shards) as url:
        (found,) = find_shards(f"simplecache::{url}/train00-8.tfrec?signed=a*b")
        assert read_all(found) == (shards / "train00-8.tfrec").read_bytes()


def test_a_web_server_that_cannot_read_ranges_is_refused(shards):
    with served(shards) as url:
        assert len(find_shards(f"{url}/", prefix="train")) == 4
        with pytest.raises(OSError, match="the server cannot read ranges: copy the shards"):
            ShardReader(find_shards(f"{url}/train00-8.tfrec")[0])
        copied = find_shards(f"simplecache::{url}/train00-8.tfrec")[0]
        assert read_all(copied) == (shards / "train00-8.tfrec").read_bytes()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_without_the_package_of_a_scheme_its_name_is_told():
    code = """
import sys
sys.modules["gcsfs"] = None
from lightning_melanoma.records.storage import find_shards
try:
    find_shards("gs://bucket/data")
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (
        "gs://bucket/data: expected the package gcsfs, found none; install it: pip install gcsfs"
    )


def test_waits_grow_and_vary(monkeypatch, service):
    waits = []

    async def note(seconds):
        waits.append(seconds)

    monkeypatch.setattr(repeating, "FIRST_WAIT", 0.5)
    monkeypatch.setattr(repeating.asyncio, "sleep", note)
    service.fault_rate = 1.0
    with pytest.raises(OSError, match="9 times"):
        find_shards("gs://bucket/data")
    assert all(0.5 <= wait / min(30, 0.5 * 2**number) <= 1 for number, wait in enumerate(waits[:8]))
    assert len(set(waits)) == len(waits)
