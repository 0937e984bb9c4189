"""Images a second of this loader and of others, from the same shards, on the same cores.

    python -m venv /tmp/input && . /tmp/input/bin/activate
    pip install --constraint constraints.txt . tensorflow==2.21.0 nvidia-dali-cuda120==2.4.0 \
        opencv-python-headless==5.0.0.93
    python benchmarks/input.py --out input.md

8,192 JPEGs of 256 x 256 pixels (20 kB) and 512 of 1024 x 1024 (190 kB, brought to 256 x 256) are
drawn once. Every measurement is a process of its own: a few batches to warm up, then epochs from
the first request to the last batch, first bare, then through a Lightning Trainer with an empty
step. Bare ones are also timed to the end of the loop over them: tf.data's then waits for the thread
by which it tunes itself. All loaders are run in turn, `--rounds` times; the table has medians.
Processor time is of all threads and workers, so that it tells something when the machine has other
work too. Peak memory is the process's before the Trainer, libraries included, with that of the
largest worker for each.

`--memory` instead runs 5 epochs of 24,576 records and prints resident memory after each.
"""

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import input_loaders
import numpy as np

_SIZE, _BATCH_SIZE = 256, 32
# Images, shards and grain (grey levels, for the wanted bytes) of each size of JPEG.
_SETS = {256: (8192, 16, 2.2), 1024: (512, 4, 1.6)}
_CACHED = ("ours_ram", "ours_disk", "tf_cache")
# What is not done at 1024 x 1024: it would tell the same again.
_ONLY_SMALL = ("tf_augmented", *_CACHED)
_NAMES = {
    "decoder": "simplejpeg alone, JPEGs in memory, 2 threads",
    "ours": "this loader",
    "ours_ram": "this loader, `data.cache: ram`",
    "ours_disk": "this loader, `data.cache: disk`",
    "tf": "tf.data, float32 / 255",
    "tf_augmented": "tf.data, float32, flips and colour",
    "tf_uint8": "tf.data, uint8",
    "tf_cache": "tf.data, uint8, `.cache()`",
    "tfrecord": "`tfrecord`, cv2, torchvision v2, DataLoader of 2 workers",
    "dali": "NVIDIA DALI on the CPU, uint8",
}


def shards_of(folder: Path, size: int) -> Path:
    """Return where the shards of JPEGs of a size are: another number of them is another folder."""
    return folder / str(_SETS[size][0]) / str(size)


def draw(folder: Path) -> None:
    """Write the shards of both sizes, where they are not there yet."""
    import simplejpeg

    from lightning_melanoma.data.fields import smooth_noise
    from lightning_melanoma.records.example import serialize_example
    from lightning_melanoma.records.files import atomic_folder
    from lightning_melanoma.records.tfrecord import write_shard

    def payload(number: int, size: int, grain: float) -> bytes:
        rng = np.random.default_rng([number, size])
        picture = 30 * smooth_noise(rng, 8, size, count=3) + 130
        picture += 12 * smooth_noise(rng, 48, size, count=1)
        picture += rng.normal(0, grain, (1, size, size))
        pixels = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        image = simplejpeg.encode_jpeg(pixels, quality=94, colorsubsampling="420")
        codes = {"target": int(number % 50 == 0), "patient_id": number // 3, "sex": number % 2}
        codes |= {"age_approx": 50, "anatom_site_general_challenge": number % 6, "diagnosis": 0}
        return serialize_example({"image": image, "image_name": f"ISIC_{number:07d}", **codes})

    for size, (num_images, num_shards, grain) in _SETS.items():
        shards = shards_of(folder, size)
        if shards.is_dir():
            continue
        a_shard = num_images // num_shards
        with atomic_folder(shards) as out, ThreadPoolExecutor() as threads:
            for shard in range(num_shards):
                numbers = range(shard * a_shard, (shard + 1) * a_shard)
                payloads = threads.map(lambda n, s=size, g=grain: payload(n, s, g), numbers)
                write_shard(out / f"train{shard:02d}-{a_shard}.tfrec", payloads)


class Cost(NamedTuple):
    """What an epoch takes, in seconds an image: to its last batch, to its end, of the processor."""

    last: float
    end: float
    processor: float


def timed(make: Callable[[], Iterator], costs: list[Cost]) -> Iterator:
    """Yield the batches of an epoch, and add its cost.

    tf.data's end may come more than a second behind its last batch, half of so short an epoch: the
    thread that tunes it sleeps for 0.01 s, 0.02 s and so on, twice as long each time, and is waited
    for. Processors are asked at the end, when workers have ended and are counted.
    """
    start, spent, num_images = time.perf_counter(), _processor(), 0
    for batch in make():
        last = time.perf_counter()
        num_images += len(batch[0])
        yield batch
    took = (last - start, time.perf_counter() - start, _processor() - spent)
    costs.append(Cost(*(seconds / num_images for seconds in took)))


def bare(make: Callable[[], Iterator], num_epochs: int) -> list[Cost]:
    """Return what `timed` says of each epoch of a loader."""
    costs: list[Cost] = []
    for _ in range(num_epochs):
        for _ in timed(make, costs):
            pass
    return costs


def through_trainer(make: Callable[[], Iterator], num_epochs: int) -> list[Cost]:
    """Return what `bare` does, the batches going through a Trainer whose step does nothing."""
    import pytorch_lightning as pl
    import torch

    costs: list[Cost] = []

    class Epochs:
        # A generator: it begins when the first batch is asked for, which is ahead of the epoch's
        # hooks.
        def __iter__(self):
            return timed(make, costs)

    class Nothing(pl.LightningModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch):
            pass

        def configure_optimizers(self):
            return None

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=num_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Nothing(), Epochs())
    return costs


def _processor() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def measure(name: str, folder: Path) -> None:
    """Run one loader in this process, bare and in a Trainer, and print it all as JSON."""
    num_epochs = 3 if name in _CACHED else 1
    make = getattr(input_loaders, name)
    kept = make(folder, _SIZE, _BATCH_SIZE)
    warm = kept()
    for _ in range(2):
        next(warm)
    del warm

    def epochs() -> input_loaders.Epoch:
        # A cache that is filled has no first epoch.
        return make(folder, _SIZE, _BATCH_SIZE) if name in _CACHED else kept

    result = {"bare": bare(epochs(), num_epochs), "peak": _peak()}
    if name != "decoder":
        result["trainer"] = through_trainer(epochs(), num_epochs)
    print(json.dumps(result))


def _peak() -> int:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Two workers, where there are any. Linux counts in kB.
    return 1024 * (own + 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def measure_apart(name: str, folder: Path) -> dict:
    """Return what `measure` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--data", str(folder), "--loader", name],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[tuple[int, str], list[dict]]) -> str:
    """Return the table in Markdown: medians over the rounds."""
    lines = [
        "| loader | JPEG | epoch | images/s | to the loop's end | in a Trainer "
        "| processor, us an image | in a Trainer | peak memory, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (size, name), runs in results.items():
        for number, epoch in enumerate(["first", "later"][: 2 if name in _CACHED else 1]):
            alone, in_trainer = (_median(runs, way, number) for way in ("bare", "trainer"))
            speeds = [f"{1 / each:,.0f}" for each in (alone.last, alone.end, in_trainer.last)]
            costs = [f"{1e6 * each.processor:,.0f}" for each in (alone, in_trainer)]
            peak = f"{np.median([run['peak'] for run in runs]) / 1e9:.1f}"
            # The decoder alone is no loader that a Trainer could take.
            figures = [figure.replace("nan", "") for figure in (*speeds, *costs)]
            cells = [_NAMES[name], str(size), epoch, *figures, peak]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _median(runs: list[dict], way: str, number: int) -> Cost:
    """Return the medians of first epochs (0) or later ones (1), NaN where there are none."""
    epochs = [run[way] for run in runs if way in run]
    picked = [cost for run in epochs for cost in (run[1:] if number else run[:1])]
    return Cost(*np.median(picked, axis=0)) if picked else Cost(math.nan, math.nan, math.nan)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, default=Path("/tmp/input-benchmark"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--loader", choices=list(_NAMES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loader:
        measure(options.loader, options.data)
        return
    draw(options.data)
    if options.memory:
        input_loaders.print_memory(shards_of(options.data, _SIZE), _SIZE, _BATCH_SIZE)
        return
    results: dict[tuple[int, str], list[dict]] = {}
    for number in range(options.rounds):
        for size, name in itertools.product(_SETS, _NAMES):
            if size > _SIZE and name in _ONLY_SMALL:
                continue
            run = measure_apart(name, shards_of(options.data, size))
            results.setdefault((size, name), []).append(run)
            speed = 1 / run["bare"][-1][0]
            print(f"round {number}: {name} {size} {speed:,.0f}/s", file=sys.stderr, flush=True)
        if options.out:
            options.out.write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
