"""Find shards by path, glob, directory or URL.

URLs are fsspec's (``gs://``, ``s3://``, ``https://``, ``memory://``, plain paths).
`records.reader` opens what is found.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import platformdirs

from lightning_melanoma.records import remote
from lightning_melanoma.records.access import is_local

_SUFFIXES = (".tfrec", ".tfrecord", ".tfrecords")
# Names of folders that tell which part of a data set is in them, or in which form.
_NO_DATA_SET = {
    *("train", "training", "val", "valid", "validation", "test", "testing"),
    *("tfrec", "tfrecord", "tfrecords", ""),
}


def cache_dir() -> Path:
    """Return the user's cache folder of this program (``LIGHTNING_MELANOMA_CACHE`` moves it)."""
    configured = os.environ.get("LIGHTNING_MELANOMA_CACHE")
    return Path(configured or platformdirs.user_cache_dir("lightning_melanoma", appauthor=False))


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        url: absolute path or URL.
        size: bytes as stored.
        version: a mark that changes when the content does (a bucket's generation or etag, a file's
            time of modification in ns); empty where there is none.
    """

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return PurePosixPath(self.url).name

    @property
    def num_claimed(self) -> int | None:
        """How many records its name claims as Kaggle's do (``train00-2071.tfrec``), else None."""
        claim = re.search(r"\d-(\d+)\.", self.name)
        return int(claim[1]) if claim else None

    @property
    def is_remote(self) -> bool:
        """Whether each read is a request to elsewhere: no file of this machine, no local copy."""
        return not is_local(self.url) and "::" not in self.url

    @property
    def data_set(self) -> str:
        """The name of the nearest folder around it that tells a data set, not a part or format."""
        path = self.url.split("/")
        return path[-_num_telling(path)]


def short_labels(urls: Sequence[str]) -> list[str]:
    """Return how messages name some files: by the end of each path, from its data set's folder on.

    Of two that would be named alike, more of the path is told, until it differs.
    """
    paths = [url.split("/") for url in urls]
    lengths = [_num_telling(path) for path in paths]
    while True:
        labels = ["/".join(path[-length:]) for path, length in zip(paths, lengths, strict=True)]
        counts = Counter(labels)
        alike = [
            number
            for number, label in enumerate(labels)
            if counts[label] > 1 and lengths[number] < len(paths[number])
        ]
        if not alike:
            return labels
        for number in alike:
            lengths[number] += 1


def _num_telling(path: Sequence[str]) -> int:
    # How many of the last parts of a path it takes to tell its data set.
    folders = list(reversed(path[:-1]))
    telling = (n for n, folder in enumerate(folders, 2) if folder.lower() not in _NO_DATA_SET)
    return next(telling, 2)


def find_shards(paths: str | Iterable[str], *, prefix: str = "") -> list[Shard]:
    """Return the shards that `paths` name, in the order given and by name within each.

    Args:
        paths: a path, glob, directory or URL, or several. Of a directory the files that end in
            ``.tfrec``, ``.tfrecord`` or ``.tfrecords`` (and ``.gz`` behind) are taken; of a glob
            too, unless none of its files does.
        prefix: of a directory only the shards whose names begin so are taken, if there are any:
            Kaggle keeps ``train*.tfrec`` and ``test*.tfrec`` in one folder.

    Raises:
        FileNotFoundError: a path matches no shard.
        ValueError: a URL's scheme is unknown, or a shard is empty.
    """
    shards: dict[str, Shard] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        for shard in _match(path, prefix):
            if not shard.size:
                raise ValueError(
                    f"shard {shard.url}: expected TFRecords, found an empty file; fetch it anew"
                )
            shards.setdefault(shard.url, shard)
    return list(shards.values())


def _match(path: str, prefix: str) -> list[Shard]:
    # One form for each file, so that it is found once.
    path = re.sub(r"^file:(//)?(?=/)", "", path)
    local = is_local(path)
    place = str(Path.cwd() / Path(path).expanduser()) if local else path
    try:
        kind, found = remote.list_objects(place)
    except FileNotFoundError:
        if not local:
            raise
        kind, found = "file", []
    files = [entry for entry in found if not entry.is_folder]
    every = [entry for entry in files if entry.url.removesuffix(".gz").endswith(_SUFFIXES)]
    if kind == "folder":
        named = [entry for entry in every if PurePosixPath(entry.url).name.startswith(prefix)]
        found = named or every
    elif kind == "pattern":
        # `train*` is meant for the shards, also where `train.csv` lies beside them.
        found = every or found
    if not found:
        expected = {
            "file": "a shard, a folder or a pattern",
            "folder": f"files ending in {', '.join(_SUFFIXES)} in the folder",
            "pattern": "shards that match the pattern",
        }[kind]
        where = f"the path (working folder: {Path.cwd()})" if local else "the URL"
        raise FileNotFoundError(f"{path}: expected {expected}, found none; check {where}")
    return [_shard(entry) for entry in found]


def _shard(found: remote.StoredObject) -> Shard:
    if found.is_folder:
        raise ValueError(
            f"{found.url}: expected a shard, found a folder; name its files, as in {found.url}/*"
        )
    if found.size < 0:
        found = remote.describe(found.url)
    version = str(Path(found.url).stat().st_mtime_ns) if is_local(found.url) else found.version
    return Shard(found.url, found.size, version)
