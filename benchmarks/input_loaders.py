"""The loaders that `input.py` compares: each gives a function that begins an epoch of batches.

A batch is (images, targets), torch tensors. Libraries are imported where they are used: some of
them cannot be in one process together.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_NUM_THREADS = 2

Epoch = Callable[[], Iterator]


def read_jpegs(folder: Path) -> list[bytes]:
    """Return the images of a folder of shards, encoded, in the order of the records."""
    from lightning_melanoma.records.example import parse_example
    from lightning_melanoma.records.tfrecord import read_records

    images = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            images += [parse_example(r.payload)["image"] for r in read_records(stream, path.name)]
    return images


def decode_jpegs(images: list[bytes], size: int, num_threads: int) -> None:
    """Decode all images in threads, to sides of at least `size`, and drop the pixels."""
    import simplejpeg

    def decode(part: list[bytes]) -> None:
        for image in part:
            simplejpeg.decode_jpeg(image, min_height=size, min_width=size)

    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(decode, [images[n::num_threads] for n in range(num_threads)]))


def decoder(folder: Path, size: int, batch_size: int) -> Epoch:
    """The JPEG decoder and nothing else."""
    images = read_jpegs(folder)

    def epoch() -> Iterator:
        decode_jpegs(images, size, _NUM_THREADS)
        # Two batches, as the warm-up wants.
        half = len(images) // 2
        yield (images[:half],)
        yield (images[half:],)

    return epoch


def _ours(folder: Path, size: int, batch_size: int, kind: str) -> Epoch:
    from lightning_melanoma.data.cache import CacheSettings
    from lightning_melanoma.data.dataset import MelanomaDataset
    from lightning_melanoma.data.loader import MelanomaLoader
    from lightning_melanoma.data.table import read_split

    split = read_split(str(folder), prefix="train", metadata=None, on_corrupt="raise")
    pixels = tempfile.TemporaryDirectory()
    dataset = MelanomaDataset(
        split.table,
        split.shards,
        image_size=size,
        batch_size=batch_size,
        shuffle=True,
        decode_threads=_NUM_THREADS,
        cache=CacheSettings(kind, None, pixels.name).open(split, size),
    )
    loader = MelanomaLoader(dataset)
    # The folder goes when the loader does.
    loader.pixels = pixels
    return loader.__iter__


def ours(folder: Path, size: int, batch_size: int) -> Epoch:
    """This project's, without a cache."""
    return _ours(folder, size, batch_size, "none")


def ours_ram(folder: Path, size: int, batch_size: int) -> Epoch:
    """This project's, decoded pixels kept in memory."""
    return _ours(folder, size, batch_size, "ram")


def ours_disk(folder: Path, size: int, batch_size: int) -> Epoch:
    """This project's, decoded pixels kept in files."""
    return _ours(folder, size, batch_size, "disk")


def _tensorflow(folder: Path, size: int, batch_size: int, kind: str) -> Epoch:
    import tensorflow as tf
    import torch

    tf.config.threading.set_inter_op_parallelism_threads(_NUM_THREADS)
    tf.config.threading.set_intra_op_parallelism_threads(_NUM_THREADS)
    is_float = kind in ("plain", "augmented")
    wanted = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "target": tf.io.FixedLenFeature([], tf.int64),
    }
    # The ratio by which the decoder itself may scale; JPEGs here have 1 or 4 times the size.
    ratio = int(folder.name) // size

    def parse(record):
        example = tf.io.parse_single_example(record, wanted)
        image = tf.io.decode_jpeg(example["image"], channels=3, ratio=1 if is_float else ratio)
        if is_float:
            image = tf.cast(image, tf.float32) / 255.0
            if ratio > 1:
                image = tf.image.resize(image, [size, size])
        return tf.ensure_shape(image, [size, size, 3]), example["target"]

    def augment(image, target):
        image = tf.image.random_flip_left_right(image)
        image = tf.image.random_flip_up_down(image)
        image = tf.image.random_hue(image, 0.01)
        image = tf.image.random_saturation(image, 0.7, 1.3)
        image = tf.image.random_contrast(image, 0.8, 1.2)
        return tf.image.random_brightness(image, 0.1), target

    paths = sorted(map(str, folder.iterdir()))
    records = tf.data.TFRecordDataset(paths, num_parallel_reads=tf.data.AUTOTUNE)
    if kind == "cached":
        images = records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).cache().shuffle(2048)
    else:
        # Ahead of the decoder: a buffer of JPEGs is smaller and faster than one of pixels.
        images = records.shuffle(2048).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    if kind == "augmented":
        images = images.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    batches = images.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    # What TensorFlow owns cannot be written to, and torch says so.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")

    def epoch() -> Iterator:
        for arrays in batches.as_numpy_iterator():
            yield tuple(torch.from_numpy(array) for array in arrays)

    return epoch


def tf(folder: Path, size: int, batch_size: int) -> Epoch:
    """tf.data as its guide has it: parse, decode, float32 in [0, 1]."""
    return _tensorflow(folder, size, batch_size, "plain")


def tf_augmented(folder: Path, size: int, batch_size: int) -> Epoch:
    """The same with the augmentation that public notebooks of the competition use."""
    return _tensorflow(folder, size, batch_size, "augmented")


def tf_uint8(folder: Path, size: int, batch_size: int) -> Epoch:
    """tf.data at its fastest: no arithmetic, scaled by the decoder."""
    return _tensorflow(folder, size, batch_size, "uint8")


def tf_cache(folder: Path, size: int, batch_size: int) -> Epoch:
    """The same with decoded pixels kept in memory."""
    return _tensorflow(folder, size, batch_size, "cached")


def _index(folder: Path) -> Path:
    """Return a folder with the index files that `tfrecord` and DALI want."""
    from lightning_melanoma.records.tfrecord import read_records

    out = Path(tempfile.mkdtemp())
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            lines = [f"{r.offset} {r.frame_size}\n" for r in read_records(stream, path.name)]
        (out / path.name).write_text("".join(lines))
    return out


def tfrecord(folder: Path, size: int, batch_size: int) -> Epoch:
    """The usual way in PyTorch."""
    import cv2
    import torch
    from tfrecord.torch.dataset import TFRecordDataset
    from torch.utils.data import ChainDataset, DataLoader
    from torchvision.transforms import v2

    augment = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.01),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def transform(fields):
        image = cv2.imdecode(np.frombuffer(fields["image"], np.uint8), cv2.IMREAD_COLOR)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        if len(image) != size:
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        return augment(image), int(fields["target"][0])

    description = {"image": "byte", "target": "int"}
    index = _index(folder)
    shards = [
        TFRecordDataset(str(path), str(index / path.name), description, transform=transform)
        for path in sorted(folder.iterdir())
    ]
    loader = DataLoader(ChainDataset(shards), batch_size=batch_size, num_workers=_NUM_THREADS)
    return loader.__iter__


def dali(folder: Path, size: int, batch_size: int) -> Epoch:
    """NVIDIA DALI without a GPU, at its fastest: uint8."""
    from nvidia.dali import fn, pipeline_def, tfrecord, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    index = _index(folder)
    paths = sorted(folder.iterdir())
    features = {
        "image": tfrecord.FixedLenFeature((), tfrecord.string, ""),
        "target": tfrecord.FixedLenFeature([1], tfrecord.int64, 0),
    }

    @pipeline_def(batch_size=batch_size, num_threads=_NUM_THREADS, device_id=None)
    def pipeline():
        fields = fn.readers.tfrecord(
            path=[str(path) for path in paths],
            index_path=[str(index / path.name) for path in paths],
            features=features,
            random_shuffle=True,
            initial_fill=256,
            name="shards",
        )
        images = fn.decoders.image(fields["image"], device="cpu", output_type=types.RGB)
        if int(folder.name) != size:
            images = fn.resize(images, resize_x=size, resize_y=size, antialias=True)
        return images, fields["target"]

    batches = DALIGenericIterator(
        pipeline(),
        ["images", "targets"],
        reader_name="shards",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )

    def epoch() -> Iterator:
        for (batch,) in batches:
            yield batch["images"], batch["targets"]

    return epoch


def print_memory(folder: Path, size: int, batch_size: int) -> None:
    """Print the resident memory after each of 5 epochs of three times the records."""
    import resource

    import pandas as pd

    from lightning_melanoma.data.dataset import MelanomaDataset
    from lightning_melanoma.data.loader import MelanomaLoader
    from lightning_melanoma.data.table import read_split

    split = read_split(str(folder), prefix="train", metadata=None, on_corrupt="raise")
    rows = pd.concat([split.table] * 3, ignore_index=True)
    dataset = MelanomaDataset(
        rows, split.shards, image_size=size, batch_size=batch_size, shuffle=True
    )
    loader = MelanomaLoader(dataset)
    for number in range(5):
        num_images = sum(len(batch.images) for batch in loader)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * resource.getpagesize() / 1e6
        print(f"epoch {number}: {num_images:,} images, resident {resident:,.0f} MB", flush=True)
