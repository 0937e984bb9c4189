"""What a training step asks of a TPU that is not attached: memory, arithmetic, traffic, a bound.

The step is compiled by the compiler of a TPU host for the chips of a topology. Arithmetic and bytes
are that compiler's own estimates for its program; bytes count operands that it keeps on the chip,
too. The bound is the time that the slower of both would take at the chip's peak rates: no measured
time, and no step is quicker if the estimates are right. Collectives are not in it.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from lightning_melanoma.xla.ahead_of_time import (
    TracedStep,
    compile_for,
    topology_devices,
    trace_step,
)
from lightning_melanoma.xla.chips import CHIPS, check_topology

# Bytes an element of what a collective may carry.
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_SIZES |= {"s64": 8, "u64": 8, "s16": 2, "u16": 2}
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")


class Step(NamedTuple):
    """A training step that can be traced.

    Attributes:
        run: forward, backward and optimizer on a batch; returns what it leaves on the device beside
            the state, such as the loss.
        batch: tensors on the `meta` device, rows on their first axis.
        module: what is trained, with placeholders for data (`hollow`).
        optimizer: of its parameters, its state on XLA if it has any.
    """

    run: Callable[[Sequence[Tensor]], list[Tensor]]
    batch: Sequence[Tensor]
    module: nn.Module
    optimizer: torch.optim.Optimizer


class StepEstimate(TypedDict):
    """One topology's row; what the compiler did not say, since the step does not fit, is None.

    `*_per_chip` are of one step. `bound_ms` and what follows from it are no measured times.
    `largest_global_batch` is on the line through two compiled batches, not compiled itself.
    `host_ms` is processor time for tracing a step on this host, `programs` how many the steps need.
    """

    topology: str
    chips: int
    global_batch: int
    hbm_bytes_per_chip: int
    argument_bytes_per_chip: int | None
    temp_bytes_per_chip: int | None
    fits: bool
    largest_global_batch: int | None
    flops_per_chip: float | None
    bytes_per_chip: float | None
    flops_per_image: float | None
    bytes_per_image: float | None
    collective_bytes_per_chip: int | None
    bound_by: Literal["memory", "arithmetic"] | None
    bound_ms: float | None
    images_per_second: float | None
    images_per_second_per_chip: float | None
    host_ms: float
    programs: int
    compile_seconds: float


class Compiled(NamedTuple):
    """What the compiler says of a program, for one chip and one step."""

    argument_bytes: int
    temp_bytes: int
    flops: float
    accessed: float
    collective_bytes: int


def estimate_step(
    make_step: Callable[[int], Step],
    topology: str,
    *,
    global_batch: int,
    finds_largest: bool = True,
) -> StepEstimate:
    """Return what a training step asks of a topology.

    Args:
        make_step: returns the step for a global batch of so many rows.
        topology: such as `v5e:2x4`; this process has the environment of `compiler_environment`.
        global_batch: rows of a step, all chips together.
        finds_largest: compile a second batch, to say which the memory would hold.

    Raises:
        ValueError: libtpu does not know the topology, or its devices do not divide the batch.
    """
    devices = topology_devices(topology)
    chips, chip = check_topology(topology), CHIPS[topology.partition(":")[0]]
    if global_batch % len(devices):
        raise ValueError(
            f"data.batch_size: expected a multiple of {len(devices)}, the devices of {topology}, "
            f"found {global_batch}"
        )
    traced = _trace(make_step(global_batch))
    started = time.perf_counter()
    compiled = _compile(traced, devices, chips)
    estimate = _empty_estimate()
    estimate["topology"], estimate["chips"] = topology, chips
    estimate["global_batch"], estimate["hbm_bytes_per_chip"] = global_batch, chip.hbm_bytes
    estimate["host_ms"], estimate["programs"] = traced.seconds * 1e3, traced.num_programs
    estimate["compile_seconds"] = time.perf_counter() - started
    if compiled is not None:
        _fill(estimate, compiled)
    if finds_largest:
        estimate["largest_global_batch"] = _largest(
            make_step, devices, estimate=estimate, compiled=compiled
        )
    return estimate


def collective_bytes(hlo_text: str) -> int:
    """Return the bytes of all results of collectives in the text of an optimised program."""
    return sum(
        _bytes_of(kind, sides)
        for result, _ in _COLLECTIVE.findall(hlo_text)
        for kind, sides in _SHAPE.findall(result)
    )


def _empty_estimate() -> StepEstimate:
    """Return the row of a step that does not fit."""
    return StepEstimate(
        topology="",
        chips=0,
        global_batch=0,
        hbm_bytes_per_chip=0,
        argument_bytes_per_chip=None,
        temp_bytes_per_chip=None,
        fits=False,
        largest_global_batch=None,
        flops_per_chip=None,
        bytes_per_chip=None,
        flops_per_image=None,
        bytes_per_image=None,
        collective_bytes_per_chip=None,
        bound_by=None,
        bound_ms=None,
        images_per_second=None,
        images_per_second_per_chip=None,
        host_ms=0.0,
        programs=0,
        compile_seconds=0.0,
    )


def _fill(estimate: StepEstimate, compiled: Compiled) -> None:
    chip = CHIPS[estimate["topology"].partition(":")[0]]
    rows = estimate["global_batch"] / estimate["chips"]
    arithmetic, memory = compiled.flops / chip.flops, compiled.accessed / chip.hbm_bandwidth
    bound = max(arithmetic, memory)
    used = compiled.argument_bytes + compiled.temp_bytes
    estimate["argument_bytes_per_chip"] = compiled.argument_bytes
    estimate["temp_bytes_per_chip"] = compiled.temp_bytes
    estimate["fits"] = used <= chip.hbm_bytes
    estimate["flops_per_chip"], estimate["bytes_per_chip"] = compiled.flops, compiled.accessed
    estimate["flops_per_image"] = compiled.flops / rows
    estimate["bytes_per_image"] = compiled.accessed / rows
    estimate["collective_bytes_per_chip"] = compiled.collective_bytes
    estimate["bound_by"] = "memory" if memory > arithmetic else "arithmetic"
    estimate["bound_ms"] = bound * 1e3
    estimate["images_per_second"] = estimate["global_batch"] / bound
    estimate["images_per_second_per_chip"] = rows / bound


def _trace(step: Step) -> TracedStep:
    return trace_step(step.run, step.batch, module=step.module, optimizer=step.optimizer)


def _compile(traced: TracedStep, devices: Sequence[Any], chips: int) -> Compiled | None:
    """Return what the compiler says, or None when it says that the memory is too small."""
    try:
        executable = compile_for(traced, devices)
    except RuntimeError as error:
        if _USED.search(str(error)) is None:
            raise
        return None
    memory, costs = executable.get_compiled_memory_stats(), executable.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    text = "\n".join(module.to_string() for module in executable.hlo_modules())
    # Where a program sees the cores of a chip, each does its part.
    cores = len(devices) // chips
    return Compiled(
        argument_bytes=cores * memory.argument_size_in_bytes,
        temp_bytes=cores * memory.temp_size_in_bytes,
        flops=cores * costs["flops"],
        accessed=cores * costs["bytes accessed"],
        collective_bytes=cores * collective_bytes(text),
    )


def _largest(
    make_step: Callable[[int], Step],
    devices: Sequence[Any],
    *,
    estimate: StepEstimate,
    compiled: Compiled | None,
) -> int | None:
    """Return the largest global batch that would fit, by the line through two compiled ones."""
    rows, chips = estimate["global_batch"] // len(devices), estimate["chips"]
    points = [] if compiled is None else [(rows, compiled)]
    while rows > 1 and len(points) < 2:
        rows //= 2
        smaller = _compile(_trace(make_step(rows * len(devices))), devices, chips)
        points += [] if smaller is None else [(rows, smaller)]
    if len(points) < 2:
        return estimate["global_batch"] if estimate["fits"] else None
    (more, larger), (less, smaller) = points
    if not smaller.temp_bytes < larger.temp_bytes:
        # All is on the chip still: that tells nothing of a batch that fills the memory.
        return None
    slope = (_used(larger) - _used(smaller)) / (more - less)
    free = estimate["hbm_bytes_per_chip"] - _used(larger)
    return max(int(more + free / slope), 0) * len(devices)


def _used(compiled: Compiled) -> int:
    return compiled.argument_bytes + compiled.temp_bytes


def _bytes_of(kind: str, sides: str) -> int:
    count = 1
    for side in sides.split(","):
        count *= int(side or 1)
    return count * _SIZES.get(kind, 0)
