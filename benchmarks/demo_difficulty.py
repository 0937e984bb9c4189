"""How hard the demo data is: the AUROC of a good model that was trained long, and of a quick one.

    python benchmarks/demo_difficulty.py            # 20,000 images, 4,000 of them held out
    python benchmarks/demo_difficulty.py --quick    # the default set, fold 0 of 4

The first is what the demo data was settled by: it must lie between 0.9 and 0.97. In November 2026
it was 0.9376 (95 % interval 0.9237 to 0.9491, 400 melanomas of 4,000), over 8 turns 0.9387, with
torch 2.9.1 in 20 minutes on one core. The second is what a first `fit` can reach. Beside them stand
the ceilings by construction: the AUROC of the severity that lesions are drawn from, and of the mean
of its five noisy cues, which is all that is drawn.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lightning_melanoma.data.decode import decode_image
from lightning_melanoma.data.lesions import CUE_NOISE, SEPARATION, Cues
from lightning_melanoma.data.synthetic import synthesize
from lightning_melanoma.metrics import auroc, auroc_interval
from lightning_melanoma.models.scratch import ScratchCNN
from lightning_melanoma.records.example import parse_example
from lightning_melanoma.records.tfrecord import read_records

_BATCH_SIZE = 64


def read_images(paths: list[Path], size: int) -> tuple[list[str], Tensor]:
    """Return the names and the images of some shards, (N, 3, size, size) uint8."""
    names, images = [], []
    for path in paths:
        with path.open("rb") as stream:
            for record in read_records(stream, path.name):
                fields = parse_example(record.payload)
                names.append(bytes(fields["image_name"]).decode())
                images.append(decode_image(bytes(fields["image"]), size))
    return names, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def read_targets(csv: Path, names: list[str]) -> Tensor:
    """Return the targets of some images, (N,) float32."""
    targets = pd.read_csv(csv, index_col="image_name")["target"]
    return torch.from_numpy(targets[names].to_numpy(np.float32))


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images as ScratchCNN wants them: channels last, around 0."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def turned(images: Tensor, turn: int) -> Tensor:
    """Return the images by one of the 8 symmetries of the square."""
    images = images.transpose(-1, -2) if turn & 4 else images
    return images.rot90(turn & 3, (-1, -2))


def train(images: Tensor, targets: Tensor, *, epochs: int, model: nn.Module) -> None:
    """Train by AdamW and one cycle of the learning rate, each batch turned at random."""
    steps = len(images) // _BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    started = time.perf_counter()
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: steps * _BATCH_SIZE].split(_BATCH_SIZE):
            turn = int(torch.randint(8, (), generator=generator))
            logits = model(normalise(turned(images[rows], turn)))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  {seconds:.0f} s", flush=True)


def predict(images: Tensor, *, turns: int, model: nn.Module) -> Tensor:
    """Return the logits of images, (N,), averaged over the first `turns` symmetries."""
    model.eval()
    with torch.inference_mode():
        return torch.cat(
            [
                torch.stack([model(normalise(turned(b, t))) for t in range(turns)]).mean(0)
                for b in images.split(256)
            ]
        )


def report(what: str, targets: Tensor, logits: Tensor) -> None:
    """Print an AUROC and its 95 % interval."""
    low, high = auroc_interval(targets.numpy(), logits.numpy())
    value = auroc(targets.numpy(), logits.numpy())
    count = f"{len(targets)} images, {int(targets.sum())} melanomas"
    print(f"{what}: AUROC {value:.4f} [{low:.4f}, {high:.4f}], {count}", flush=True)


def normal_auroc(noise: float) -> float:
    """Return the AUROC of the severity plus normal noise of some standard deviation."""
    return 0.5 * (1 + math.erf(SEPARATION / math.sqrt(2 * (1 + noise**2)) / math.sqrt(2)))


def main() -> None:
    """Make the data, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="default set, fold 0 of 4")
    parser.add_argument("--out", type=Path, help="where the data is made or found")
    parser.add_argument("--num_train", type=int, default=16000)
    parser.add_argument("--num_test", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=96, help="pixels of a side for the model")
    parser.add_argument("--channels", type=int, nargs="+", default=[24, 48, 96, 192])
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"severity: AUROC {normal_auroc(0):.4f}; mean of its cues: ", end="")
    print(f"{normal_auroc(CUE_NOISE / math.sqrt(len(Cues._fields))):.4f}")
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch) / "demo"
        if not out.is_dir() and args.quick:
            synthesize(out)
        elif not out.is_dir():
            synthesize(out, num_train=args.num_train, num_test=args.num_test)
        shards = sorted(out.glob("train*.tfrec"))
        held_out = shards[::4] if args.quick else sorted(out.glob("test*.tfrec"))
        names, images = read_images([s for s in shards if s not in held_out], args.size)
        val_names, val_images = read_images(held_out, args.size)
        targets = read_targets(out / "train.csv", names)
        solution = "train.csv" if args.quick else "solution.csv"
        val_targets = read_targets(out / solution, val_names)
    model = ScratchCNN(args.channels).to(memory_format=torch.channels_last)
    nn.init.constant_(model.head.bias, float(torch.logit(targets.mean())))
    train(images, targets, epochs=args.epochs, model=model)
    report("held out", val_targets, predict(val_images, turns=1, model=model))
    report("held out, mean of 8 turns", val_targets, predict(val_images, turns=8, model=model))


if __name__ == "__main__":
    main()
