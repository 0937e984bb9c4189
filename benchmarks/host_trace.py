"""Processor time that the host takes to trace one training step on XLA, ours against plain.

    python benchmarks/host_trace.py -c conf/experiment/xception.yaml

Plain is the same module with torch's batch norm, clipping and `torch.optim.AdamW`. Both keep an
average of the weights, by what Lightning's EMAWeightAveraging calls. Nothing is executed:
parameters, state and batch are placeholders. Lightning's own loop is in neither. Flags are those of
`fit`. Processor time of all threads, so that others on the machine do not count; best of 8 steps.
"""

import argparse
import importlib
import importlib.metadata
import os
import subprocess
import sys
import time

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_melanoma.estimate import StepMaker
from lightning_melanoma.xla.ahead_of_time import compiler_environment, trace_step
from lightning_melanoma.xla.averaging import use_lean_lerp

_TOPOLOGY = "v5e:2x4"


def measure(words: list[str], is_plain: bool) -> None:
    """Trace steps of one kind and print the best time of the step and of its optimizer, ms."""
    if is_plain:
        module = importlib.import_module("lightning_melanoma.estimate")
        module.use_lean_batch_norm = module.use_lean_adamw = lambda *_: None
        module.clip_gradients = torch.nn.utils.clip_grad_norm_
    else:
        use_lean_lerp()
    maker = StepMaker(words)
    traced, updates, averagings = [], [], []
    for _ in range(2):
        step = maker(maker.batch_size)
        update = step.optimizer.step

        def timed(*args, update=update):
            started = time.process_time()
            update(*args)
            updates.append(time.process_time() - started)

        # Else the schedule takes the step for one that it does not know.
        timed._wrapped_by_lr_sched = True
        step.optimizer.step = timed
        average = AveragedModel(step.module.network, multi_avg_fn=get_ema_multi_avg_fn())
        # As in all updates but the first. On the host: there is nothing that could be read.
        average.n_averaged = torch.ones((), dtype=torch.long)

        def run(batch, step=step, average=average):
            kept = step.run(batch)
            started = time.process_time()
            average.update_parameters(step.module.network)
            averagings.append(time.process_time() - started)
            return kept

        traced.append(
            trace_step(run, step.batch, module=step.module, optimizer=step.optimizer).seconds
        )
    print(1e3 * min(traced), 1e3 * min(updates[1:]), 1e3 * min(averagings[1:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kind", choices=["plain", "ours"])
    options, words = parser.parse_known_args()
    if options.kind:
        measure(words, options.kind == "plain")
        return
    print(
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torch_xla"))
    )
    print(f"{'ms of the host':20}{'step':>8}{'optimizer':>11}{'average':>9}")
    steps = {}
    for kind in ("plain", "ours"):
        done = subprocess.run(
            [sys.executable, __file__, "--kind", kind, *words],
            env=os.environ | compiler_environment(_TOPOLOGY),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        step, update, average = map(float, done.stdout.splitlines()[-1].split())
        steps[kind] = step
        print(f"{kind:20}{step:8.1f}{update:11.1f}{average:9.1f}", flush=True)
    print(f"{'ours / plain':20}{steps['ours'] / steps['plain']:8.2f}")


if __name__ == "__main__":
    main()
