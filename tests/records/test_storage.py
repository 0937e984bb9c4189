import gzip
import resource
import tempfile

import fsspec
import pytest
from conftest import write_shards

from lightning_melanoma.records.reader import ShardReader
from lightning_melanoma.records.storage import find_shards, short_labels
from lightning_melanoma.records.tfrecord import CorruptRecordError, read_records, write_shard


def names(found):
    return [shard.name for shard in found]


def read_all(shard):
    reader = ShardReader(shard)
    with reader.stream() as stream:
        payloads = [record.payload for record in read_records(stream, shard.name)]
    reader.close()
    return payloads


def test_shards_are_found_by_path_glob_folder_and_list(shards):
    paths = sorted(shards.glob("train*"))
    assert names(find_shards(str(paths[0]))) == ["train00-8.tfrec"]
    assert names(find_shards(str(shards / "train0[12]*"))) == ["train01-8.tfrec", "train02-8.tfrec"]
    assert len(find_shards(str(shards))) == 6
    assert names(find_shards([str(paths[2]), str(shards / "train*")])) == [
        "train02-8.tfrec",
        "train00-8.tfrec",
        "train01-8.tfrec",
        "train03-8.tfrec",
    ]


def test_a_file_is_found_once_however_its_path_is_written(shards):
    path = shards / "train00-8.tfrec"
    spellings = [f"file://{path}", f"file:{path}", f"{shards}/./{path.name}", f"{shards}/*00-8*"]
    found = find_shards([str(path), *spellings], prefix="train")
    assert [shard.url for shard in found] == [str(path)]
    copied = find_shards(f"simplecache::file://{path}")
    assert [shard.url for shard in copied] == [f"simplecache::file://{path}"]
    assert read_all(copied[0]) == read_all(found[0])


def test_brackets_in_a_name_that_is_there_are_part_of_it(tmp_path):
    folder = tmp_path / "set[1]"
    write_shards(folder, num_shards=2, num_records=1)
    assert names(find_shards(str(folder))) == ["train00-1.tfrec", "train01-1.tfrec"]
    assert names(find_shards(str(folder / "train01-1.tfrec"))) == ["train01-1.tfrec"]


def test_a_glob_leaves_tables_beside_the_shards_alone(tmp_path):
    for name in ("train.csv", "train00-8.tfrec", "train01-8.tfrec.gz"):
        (tmp_path / name).write_bytes(b"-")
    found = find_shards(str(tmp_path / "train*"))
    assert names(found) == ["train00-8.tfrec", "train01-8.tfrec.gz"]
    # Shards may have any name, if it is asked for.
    assert names(find_shards(str(tmp_path / "*.csv"))) == ["train.csv"]


def test_a_prefix_chooses_among_the_shards_of_a_folder_only_where_it_occurs(shards, tmp_path):
    assert len(find_shards(str(shards), prefix="train")) == 4
    assert len(find_shards(str(shards), prefix="test")) == 2
    assert len(find_shards(str(shards), prefix="val")) == 6


def test_shards_behind_a_url_are_found_and_read(shards):
    filesystem = fsspec.filesystem("memory")
    source = (shards / "train00-8.tfrec").read_bytes()
    filesystem.pipe("/bucket/train00-8.tfrec", source)
    filesystem.pipe("/bucket/train01-8.tfrec.gz", gzip.compress(source))
    found = find_shards("memory://bucket/*")
    assert names(found) == ["train00-8.tfrec", "train01-8.tfrec.gz"]
    for shard in found:
        reader = ShardReader(shard)
        assert reader.read(5, 20) == source[5:25]
        with reader.stream() as stream:
            assert stream.read() == source
        reader.close()


def test_the_version_changes_with_the_file(shards):
    path = shards / "train00-8.tfrec"
    before = find_shards(str(path))[0]
    write_shards(shards, num_shards=1, num_records=8, start=100)
    assert find_shards(str(path))[0] != before


@pytest.mark.parametrize("path", ["nowhere.tfrec", "nowhere/*.tfrec", "empty"])
def test_a_path_without_shards_is_an_error_that_names_it(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected .* found none; check the path"):
        find_shards(str(tmp_path / path))


def test_an_empty_shard_is_an_error_that_names_it(tmp_path):
    (tmp_path / "train00-8.tfrec").touch()
    with pytest.raises(
        ValueError, match=r"train00-8.tfrec: expected TFRecords, found an empty file"
    ):
        find_shards(str(tmp_path))


def test_an_unknown_scheme_is_an_error():
    with pytest.raises(ValueError, match="another scheme that fsspec knows, found nosuch://"):
        find_shards("nosuch://bucket/train*")


# Lengths whose lowest two bytes are those that gzip files begin with.
@pytest.mark.parametrize("length", [35_615, 35_615 + 65_536])
@pytest.mark.parametrize("url", ["{folder}/shard.tfrec", "memory://magic/shard.tfrec"])
def test_a_first_record_as_long_as_the_magic_of_gzip_is_no_gzip(tmp_path, url, length):
    path = tmp_path / "shard.tfrec"
    write_shard(path, [bytes(length), b"second"])
    assert path.read_bytes().startswith(b"\x1f\x8b")
    fsspec.filesystem("memory").pipe("/magic/shard.tfrec", path.read_bytes())
    (shard,) = find_shards(url.format(folder=tmp_path))
    assert read_all(shard) == [bytes(length), b"second"]


@pytest.mark.parametrize("url", ["{folder}/shard.tfrec", "memory://short/shard.tfrec"])
def test_a_shard_that_is_shorter_than_a_header_is_told_as_what_it_is(tmp_path, url):
    memory = fsspec.filesystem("memory")
    for content in (b"\x1f", b"\x1f\x8b", b"\x1f\x8b" + bytes(9)):
        (tmp_path / "shard.tfrec").write_bytes(content)
        memory.pipe("/short/shard.tfrec", content)
        (shard,) = find_shards(url.format(folder=tmp_path))
        expected = "truncated" if len(content) == 1 else "expected a whole gzip file"
        with pytest.raises(CorruptRecordError, match=expected):
            read_all(shard)


def test_a_truncated_gzip_shard_is_an_error(shards):
    path = shards / "train00-8.tfrec"
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(CorruptRecordError, match="expected a whole gzip file"):
        ShardReader(find_shards(str(path))[0])


@pytest.mark.parametrize("url", ["{folder}/shard.tfrec", "memory://full/shard.tfrec"])
def test_a_temporary_folder_that_is_full_is_named_with_the_shard_and_a_way_out(
    tmp_path, monkeypatch, url
):
    write_shard(tmp_path / "shard.tfrec", [bytes(30_000)] * 10)
    packed = gzip.compress((tmp_path / "shard.tfrec").read_bytes())
    (tmp_path / "shard.tfrec").write_bytes(packed)
    fsspec.filesystem("memory").pipe("/full/shard.tfrec", packed)
    (shard,) = find_shards(url.format(folder=tmp_path))
    (tmp_path / "small").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writes behind so many bytes of a file fail, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="expected room") as error:
            ShardReader(shard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value) == (
        f"shard {shard.url}: expected room to unpack it in {tmp_path}/small, found none (File too "
        "large); set TMPDIR to a folder on a larger disk, or unpack the shards"
    )


def test_files_are_named_as_shortly_as_tells_them_apart():
    urls = [
        "/data/demo/train00-8.tfrec",
        "/data/siim/tfrecords/train00-8.tfrec",
        "/a/isic/train/train00-8.tfrec",
        "/b/isic/train/train00-8.tfrec",
        "gs://bucket/train00-8.tfrec",
        "/train/test/x.tfrec",
    ]
    assert short_labels(urls) == [
        "demo/train00-8.tfrec",
        "siim/tfrecords/train00-8.tfrec",
        "a/isic/train/train00-8.tfrec",
        "b/isic/train/train00-8.tfrec",
        "bucket/train00-8.tfrec",
        "test/x.tfrec",
    ]
    # The whole of one is the end of another.
    assert short_labels(["/set/a.tfrec", "/x/set/a.tfrec"]) == ["/set/a.tfrec", "x/set/a.tfrec"]
    assert short_labels(["/set/a.tfrec"] * 2) == ["/set/a.tfrec"] * 2
