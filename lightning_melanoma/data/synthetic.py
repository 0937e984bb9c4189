"""The embedded demo data: drawn lesions in Kaggle's TFRecords, with a learnable, imperfect signal.

`lesions` and `skin` draw the pictures, `patients` the tables; here they become shards and CSV files
with the names, columns and record fields of SIIM-ISIC 2020. Everything is a pure function of the
arguments: equal seeds give equal bytes, with any number of threads. (On a processor without AVX2
numpy rounds some functions otherwise, and a pixel may be another.)
"""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from lightning_melanoma.data.lesions import Picture, draw_lesion, draw_picture, draw_severity
from lightning_melanoma.data.patients import (
    TEST_COLUMNS,
    TRAIN_COLUMNS,
    draw_tables,
    record_codes,
)
from lightning_melanoma.data.skin import draw_skin, draw_view
from lightning_melanoma.records.example import serialize_example
from lightning_melanoma.records.files import atomic_folder
from lightning_melanoma.records.tfrecord import write_shard

#: Names the cached demo data; raised by whatever changes how it is drawn.
DEMO_VERSION = 1

# Smallest image that still shows a lesion's structure, pixels.
_MIN_IMAGE_SIZE = 32

_log = logging.getLogger(__name__)


def synthesize(
    out: Path | str,
    *,
    num_train: int = 2048,
    num_test: int = 512,
    image_size: int = 128,
    prevalence: float = 0.10,
    num_shards: int = 16,
    num_test_shards: int = 4,
    seed: int = 0,
    masks: bool = False,
) -> None:
    """Write a demo data set of drawn lesions: TFRecords and CSV files as Kaggle had them.

    The folder gets ``train00-128.tfrec`` and so on, ``test00-128.tfrec`` and so on (no ``target``),
    ``train.csv``, ``test.csv``, ``sample_submission.csv``, and ``solution.csv`` with the targets of
    the test images; with `masks` also the folder ``masks``, whose PNGs are named as the ISIC's are,
    ``DEMO_0000001_segmentation.png`` and so on. It appears whole or not at all.

    Args:
        out: the folder to make; it must not exist or be empty.
        num_train: training images.
        num_test: test images.
        image_size: pixels of a side, at least 32.
        prevalence: share of melanomas, between 0 and 1.
        num_shards: training shards.
        num_test_shards: test shards.
        seed: 0 or more; equal seeds give equal bytes.
        masks: also write where the lesion of each image is: a PNG of the image's size, 255 within
            its outline and 0 outside. The shards are the same with and without.

    Raises:
        ValueError: a number is out of its range.
        FileExistsError: `out` is a file, or a folder that is not empty.
        OSError: `out` cannot be written.
    """
    _check_counts("num_train", num_train, "num_shards", num_shards)
    _check_counts("num_test", num_test, "num_test_shards", num_test_shards)
    _check_look(prevalence=prevalence, image_size=image_size, seed=seed)
    with atomic_folder(Path(out)) as folder:
        train, test = draw_tables(
            _generator(seed),
            train_sizes=_even(num_train, num_shards),
            test_sizes=_even(num_test, num_test_shards),
            prevalence=prevalence,
        )
        _write_tables(folder, train, test)
        codes = record_codes(train, test)

        if masks:
            (folder / "masks").mkdir()

        def payload(row: dict[str, Any]) -> bytes:
            picture, quality = _draw(row, size=image_size, seed=seed)
            name = row["image_name"]
            if masks:
                _write_mask(picture.mask, folder / "masks" / f"{name}_segmentation.png")
            jpeg = simplejpeg.encode_jpeg(picture.image, quality=quality, colorsubsampling="420")
            return serialize_example({"image": jpeg, "image_name": name, **codes[name]})

        # mininterval, in seconds: where stderr is a file, every step is a line of it.
        with tqdm(total=len(codes), desc="Drawing", unit="image", mininterval=1) as bar:
            for split, table in (("train", train), ("test", test)):
                for path, payloads in _draw_shards(folder / split, table, payload):
                    bar.update(write_shard(path, payloads))


def demo_data(cache_dir: Path | str) -> Path:
    """Return the folder of the demo data set with all defaults, made at the first call.

    Several processes may call at once: each draws aside, the first to finish wins.

    Args:
        cache_dir: where the folder is, or will be.

    Raises:
        OSError: `cache_dir` cannot be written.
    """
    folder = Path(cache_dir) / f"demo-v{DEMO_VERSION}"
    if not folder.is_dir():
        _log.info("Drawing the demo data into %s, once.", folder)
        try:
            synthesize(folder)
        except OSError:
            # A folder appears whole, so if it is there by now, another process was faster.
            if not folder.is_dir():
                raise
    return folder


def _check_counts(images: str, num_images: int, shards: str, num_shards: int) -> None:
    if num_shards < 1:
        raise ValueError(f"{shards}: expected 1 or more, found {num_shards}")
    if num_images < num_shards:
        raise ValueError(
            f"{images}: expected at least one image for each of {num_shards} shards, found "
            f"{num_images}; give more --{images} or fewer --{shards}"
        )


def _check_look(*, prevalence: float, image_size: int, seed: int) -> None:
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence: expected a share between 0 and 1, found {prevalence}")
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(
            f"image_size: expected at least {_MIN_IMAGE_SIZE} pixels, found {image_size}"
        )
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, found {seed}")


def _even(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _write_tables(folder: Path, train: pd.DataFrame, test: pd.DataFrame) -> None:
    train[TRAIN_COLUMNS].to_csv(folder / "train.csv", index=False)
    test[TEST_COLUMNS].to_csv(folder / "test.csv", index=False)
    test[["image_name"]].assign(target=0).to_csv(folder / "sample_submission.csv", index=False)
    test[["image_name", "target"]].to_csv(folder / "solution.csv", index=False)


def _draw_shards(
    prefix: Path, table: pd.DataFrame, payload: Callable[[dict[str, Any]], bytes]
) -> Iterator[tuple[Path, Iterator[bytes]]]:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for shard, rows in table.groupby("shard"):
            path = prefix.with_name(f"{prefix.name}{shard:02d}-{len(rows)}.tfrec")
            yield path, threads.map(payload, rows.to_dict("records"))


def _draw(row: dict[str, Any], *, size: int, seed: int) -> tuple[Picture, int]:
    """Return the picture of a row of the tables, and the quality of its JPEG."""
    patient, lesion = row["patient"], row["lesion"]
    skin = draw_skin(_generator(seed, patient))
    rng = _generator(seed, patient, lesion)
    view = draw_view(rng, skin)
    drawn = draw_lesion(rng, draw_severity(rng, row["target"]))
    return draw_picture(rng, drawn, skin=skin, view=view, size=size), view.quality


def _write_mask(mask: NDArray[np.bool_], path: Path) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
