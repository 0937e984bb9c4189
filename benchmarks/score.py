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
from pathlib import Path

import numpy as np
from input import draw, shards_of
from input_loaders import decode_jpegs, read_jpegs

import lightning_melanoma
from lightning_melanoma.records.files import atomic_folder
from lightning_melanoma.scoring.files import ImageFiles
from lightning_melanoma.tasks.loading import data_settings, read_checkpoint

_BATCH_SIZE = 32
# What is drawn for the loaders is more than scoring needs.
_MOST_FILES = 2048


def unpack(images: list[bytes], folder: Path) -> list[str]:
    """Return the image files of a folder, written where it is not there."""
    if not folder.is_dir():
        with atomic_folder(folder) as out:
            for number, image in enumerate(images):
                (out / f"{number:04d}.jpg").write_bytes(image)
    return sorted(str(path) for path in folder.iterdir())


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True)
    parser.add_argument("--data", type=Path, default=Path("/tmp/input-benchmark"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    draw(options.data)
    num_threads = len(os.sched_getaffinity(0))
    size = data_settings(read_checkpoint(options.ckpt_path)[0])["image_size"]
    print("| JPEG | decoder | read by `score` | all of `score` |\n|---|---|---|---|")
    for pixels in (256, 1024):
        shards = shards_of(options.data, pixels)
        images = read_jpegs(shards)[:_MOST_FILES]
        files = unpack(images, shards.with_name(f"{pixels}-files"))
        jobs: list[Callable[[], object]] = [
            lambda images=images: decode_jpegs(images, size, num_threads),
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
