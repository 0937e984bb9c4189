"""Image files a second: the decoder alone, what `score` reads them with, and all of `score`.

    python benchmarks/score.py --ckpt_path runs/melanoma/version_0/checkpoints/best.ckpt

2,048 JPEG files of 256 x 256 pixels (20 kB) and 512 of 1024 x 1024 (190 kB) are drawn once and
brought to the checkpoint's size. The decoder has them in memory and writes to memory of its own;
all use as many threads as there are cores. Medians of `--rounds` rounds, taken in turn.
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
from input import draw

import lightning_melanoma
from lightning_melanoma.records.example import parse_field
from lightning_melanoma.records.tfrecord import read_records
from lightning_melanoma.scoring.files import ImageFiles
from lightning_melanoma.tasks.loading import data_settings, read_checkpoint

_BATCH_SIZE = 32


def unpack(shards: Path) -> list[str]:
    """Return the image files of a folder of shards, written beside it where they are not there."""
    folder = shards.with_name(f"{shards.name}-files")
    if not folder.is_dir():
        folder.mkdir()
        for shard in sorted(shards.iterdir()):
            with shard.open("rb") as stream:
                for record in read_records(stream, shard.name):
                    name = f"{shard.stem}-{record.number:04d}.jpg"
                    (folder / name).write_bytes(parse_field(record.payload, "image"))
    return sorted(str(path) for path in folder.iterdir())


def decode_all(files: list[str], size: int) -> Callable[[], None]:
    """Return what decodes the files from memory."""
    images = [Path(file).read_bytes() for file in files]
    num_threads = len(os.sched_getaffinity(0))

    def decode(part: list[bytes]) -> None:
        for image in part:
            simplejpeg.decode_jpeg(image, min_height=size, min_width=size)

    def run() -> None:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(decode, [images[n::num_threads] for n in range(num_threads)]))

    return run


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True)
    parser.add_argument("--data", type=Path, default=Path("/tmp/input-benchmark"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    draw(options.data)
    size = data_settings(read_checkpoint(options.ckpt_path)[0])["image_size"]
    print("| JPEG | decoder | read by `score` | all of `score` |\n|---|---|---|---|")
    for pixels in (256, 1024):
        files = unpack(options.data / str(pixels))
        jobs: list[Callable[[], object]] = [
            decode_all(files, size),
            lambda files=files: list(
                map(len, ImageFiles(files, image_size=size, batch_size=_BATCH_SIZE))
            ),
            lambda files=files: lightning_melanoma.score(files, options.ckpt_path),
        ]
        seconds = np.empty((options.rounds, len(jobs)))
        for number in range(options.rounds):
            for place, job in enumerate(jobs):
                begin = time.perf_counter()
                job()
                seconds[number, place] = time.perf_counter() - begin
        rates = len(files) / np.median(seconds, axis=0)
        print(
            f"| {pixels} to {size} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |", flush=True
        )


if __name__ == "__main__":
    main()
