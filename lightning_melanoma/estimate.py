"""The command `estimate`: what the training step of a config asks of a TPU that is not there.

Model, loss, augmentation, optimizer, precision, batch and image size are those of `fit` with the
same words. Weights are random and no data is read: only shapes count. Each topology is compiled in
a process of its own, since the compiler is set up by environment variables before it is loaded.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lightning_melanoma.data.draws import NUM_DRAWS
from lightning_melanoma.data.sample import Batch
from lightning_melanoma.records.files import atomic_file
from lightning_melanoma.tasks.classifier import MelanomaClassifier
from lightning_melanoma.training import MelanomaCLI
from lightning_melanoma.xla.ahead_of_time import compiler_environment, hollow
from lightning_melanoma.xla.batch_norm import use_lean_batch_norm
from lightning_melanoma.xla.estimate import Step, StepEstimate, estimate_step
from lightning_melanoma.xla.estimate_table import format_table
from lightning_melanoma.xla.optimizer import clip_gradients, make_state, use_lean_adamw
from lightning_melanoma.xla.pjrt import check_installed

_NEEDED = ("torch_xla", "jax", "libtpu")
_BFLOAT16 = ("bf16-mixed", "bf16")
_FLOAT32 = ("32-true", "32", 32)
# Of a training that is never run: the schedule needs an end.
_STEPS, _EPOCHS = 1000, 10


class EstimateCLI(MelanomaCLI):
    """Parses the words as `fit` does, and builds model and data only.

    Args:
        words: flags of `fit`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(["fit", *words])

    def instantiate_classes(self) -> None:
        """Build model and data; weights are never fetched."""
        self.build_model(with_weights=False)

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@dataclass
class _NoTrainer:
    """What a step asks its trainer for."""

    optimizers: list[torch.optim.Optimizer]
    world_size: int = 1
    estimated_stepping_batches: int = _STEPS
    num_training_batches: int = _STEPS // _EPOCHS
    accumulate_grad_batches: int = 1


class StepMaker:
    """Makes the training step of a config, for any batch size.

    Args:
        words: flags of `fit`.

    Raises:
        ValueError: the config names a precision that no TPU has.
    """

    def __init__(self, words: Sequence[str]) -> None:
        cli = EstimateCLI(words)
        trainer = cli.config["fit"].trainer
        # As `choose_device` has it, which leaves float32 where the user names XLA.
        is_open = "auto" == trainer.accelerator == trainer.strategy
        precision = trainer.precision or ("bf16-mixed" if is_open else "32-true")
        if precision not in (*_BFLOAT16, *_FLOAT32):
            raise ValueError(
                f"trainer.precision: expected bf16-mixed or 32-true on a TPU, found "
                f"{precision}; give --trainer.precision bf16-mixed"
            )
        self._is_mixed = precision in _BFLOAT16
        self._clip = trainer.gradient_clip_val
        self._clips_values = trainer.gradient_clip_algorithm == "value"
        self._image_size = cli.datamodule.hparams["image_size"]
        self.batch_size: int = cli.datamodule.hparams["batch_size"]
        self._model: MelanomaClassifier = cli.model
        hollow(self._model)
        self._model.train()
        use_lean_batch_norm()

    def __call__(self, global_batch: int) -> Step:
        """Return the step for a batch of so many images, with a new optimizer."""
        model = self._model
        trainer = _NoTrainer([])
        model.trainer = trainer  # type: ignore[assignment]  # all that is asked for
        made: Any = model.configure_optimizers()
        optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        trainer.optimizers.append(optimizer)
        if isinstance(optimizer, torch.optim.AdamW):
            use_lean_adamw(optimizer)
        else:
            make_state(optimizer)

        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            optimizer.zero_grad()
            with torch.autocast("xla", dtype=torch.bfloat16, enabled=self._is_mixed):
                loss = model.training_step(Batch(*tensors), 1)["loss"]
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            self._clip_gradients()
            optimizer.step()
            schedule.step()
            return [loss.detach()]

        return Step(run, _empty_batch(global_batch, self._image_size), model, optimizer)

    def _clip_gradients(self) -> None:
        parameters = self._model.parameters()
        if self._clip and self._clips_values:
            nn.utils.clip_grad_value_(parameters, self._clip)
        elif self._clip:
            clip_gradients(parameters, self._clip)


def run_estimate(words: Sequence[str]) -> str:
    """Return the table for the topologies that the words name, one column each.

    Args:
        words: ``--topology NAME ...``, ``--json FILE``, ``--skip_largest``, and flags of `fit`.

    Raises:
        ValueError: a package is missing, a topology is unknown, or a setting is wrong.
    """
    options, settings = _parser().parse_known_args(list(words))
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"estimate: expected the packages of the extra `estimate`, found no {missing[0]}; "
            "pip install 'lightning_melanoma[estimate]' (Linux, Python 3.11 or 3.12)"
        )
    check_installed()
    if options.worker:
        _work(options, settings)
        return ""
    environments = [compiler_environment(topology) for topology in options.topology]
    flags = [*settings, *["--skip_largest"] * options.skip_largest]
    rows = [
        _in_own_process([*flags, "--topology", topology], environment)
        for topology, environment in zip(options.topology, environments, strict=True)
    ]
    if options.json:
        with atomic_file(options.json) as stream:
            stream.write((json.dumps(rows, indent=2) + "\n").encode())
    return format_table(rows)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # In place of several lines and an end of its own.
        raise ValueError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("lightning-melanoma estimate", allow_abbrev=False)
    parser.add_argument("--topology", nargs="+", default=["v5e:2x4"], help="such as v5e:2x4 v3:2x2")
    parser.add_argument("--json", type=Path, help="where to write the figures, a list of objects")
    parser.add_argument("--skip_largest", action="store_true", help="one compilation, not two")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.epilog = "All other flags are those of `fit`: -c FILE, --model.*, --data.*, --trainer.*"
    return parser


def _work(options: argparse.Namespace, settings: Sequence[str]) -> None:
    """Estimate for one topology, in the process that was set up for it."""
    maker = StepMaker(settings)
    row = estimate_step(
        maker,
        options.topology[0],
        global_batch=maker.batch_size,
        finds_largest=not options.skip_largest,
    )
    options.worker.write_text(json.dumps(row))


def _in_own_process(words: Sequence[str], environment: dict[str, str]) -> StepEstimate:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "estimate.json"
        command = [sys.executable, "-m", "lightning_melanoma", "estimate", *words]
        done = subprocess.run(
            [*command, "--worker", str(path)],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            _, is_users, message = done.stderr.rpartition(": error: ")
            if is_users and done.returncode == 2:
                raise ValueError(message.strip())
            raise RuntimeError(f"estimate: the compiler's process failed:\n{done.stderr}")
        row: StepEstimate = json.loads(path.read_text())
        return row


def _empty_batch(rows: int, image_size: int) -> Batch:
    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, *shape, dtype=dtype, device="meta")

    return Batch(
        images=empty(3, image_size, image_size, dtype=torch.uint8),
        targets=empty(dtype=torch.float32),
        valid=empty(dtype=torch.bool),
        draws=empty(NUM_DRAWS, dtype=torch.float32),
        rows=empty(dtype=torch.int64),
        ages=empty(dtype=torch.float32),
    )
