"""Trace a training step on placeholders and compile it for TPUs that are not attached.

torch_xla records the step as a graph on PJRT's CPU, without any data: parameters, state and batch
are placeholders that have a shape only, so a batch for 256 chips costs nothing. jax brings libtpu,
the compiler that a TPU host has, too; it takes the graph as StableHLO, with the batch sharded over
the chips and the state donated, as torch_xla does when it trains.

The environment of `compiler_environment` must be set before either library is imported, so each
topology needs a process of its own. No socket is opened.
"""

import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_melanoma.xla.chips import CHIPS, check_topology

# torch_xla's name of PJRT's one CPU device here.
_DEVICE = "xla:0"
# Steps that are traced: all must be alike.
_NUM_STEPS = 5
# Odd, 2**32 divided by the golden ratio.
_FAR_APART = 0x9E3779B1


class TracedStep(NamedTuple):
    """One training step as a program.

    Attributes:
        hlo: of the last step, a serialised HloModuleProto with the global batch.
        sharded: numbers of the program's arguments that are split on their first axis.
        donated: pairs (result, argument): the argument's memory may take the result.
        num_programs: programs that different steps needed.
        seconds: of the host's processor for tracing the quickest step.
    """

    hlo: bytes
    sharded: tuple[int, ...]
    donated: tuple[tuple[int, int], ...]
    num_programs: int
    seconds: float


def compiler_environment(topology: str) -> dict[str, str]:
    """Return the variables that the process which compiles for a topology needs.

    Raises:
        ValueError: the topology has no form that is known.
    """
    check_topology(topology)
    return {
        "PJRT_DEVICE": "CPU",
        "CPU_NUM_DEVICES": "1",
        "JAX_PLATFORMS": "cpu",
        # Else libtpu asks the cloud's metadata server which host this is.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": CHIPS[topology.partition(":")[0]].default_slice,
        # Compilers may share a host: nothing is attached that only one could have.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_LOG_DIR": "disabled",
        "TPU_MIN_LOG_LEVEL": "3",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def topology_devices(topology: str) -> list[Any]:
    """Return the devices of a topology: chips, or their cores where a program sees those.

    Raises:
        ValueError: libtpu does not know it.
    """
    check_topology(topology)
    topologies = importlib.import_module("jax.experimental.topologies")
    try:
        found = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"topology: libtpu does not know {topology}: {reason}") from error
    return list(found.devices)


def placeholder(tensor: Tensor) -> Tensor:
    """Return an XLA tensor of the shape and dtype of another, on any device, without data."""
    builder = importlib.import_module("torch_xla.core.xla_builder")
    made: Tensor = builder.create_placeholder_tensor(tuple(tensor.shape), tensor.dtype)
    return made


def hollow(module: nn.Module) -> None:
    """Make placeholders on XLA of all parameters and buffers; optimizers come behind this."""
    # Autograd counts devices at its first backward pass; the runtime must be there.
    importlib.import_module("torch_xla.runtime").global_runtime_device_count()
    module._apply(placeholder)  # type: ignore[no-untyped-call]  # torch's


def trace_step(
    step: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    batch: Sequence[Tensor],
    *,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> TracedStep:
    """Record a training step as a program, with the optimizer's state in place.

    Args:
        step: runs forward, backward and optimizer on a batch and returns what it leaves on the
            device beside the state, such as the loss.
        batch: tensors on any device, `meta` for instance, of the global batch's shape and dtype.
        module: what is trained, behind `hollow`.
        optimizer: of its parameters, its state on XLA if it has any.
    """
    _XLAC = importlib.import_module("torch_xla")._XLAC
    model = importlib.import_module("torch_xla.core.xla_model")
    hashes, times = set(), []
    for number in range(_NUM_STEPS):
        # As in training, where each step sets it: else the steps' random numbers make one chain.
        # Like there it must equal no other number of the step: equal ones are one argument.
        model.set_rng_state((number + 1) * _FAR_APART & 0x7FFFFFFF)
        inputs = [placeholder(tensor) for tensor in batch]
        before = _refill(module, optimizer)
        # Processor time, autograd's thread included: others on this host do not count.
        started = time.process_time()
        kept = [tensor for tensor in step(inputs) if tensor.device.type == "xla"]
        times.append(time.process_time() - started)
        state = _state(module, optimizer)
        results = [*state.values(), *kept]
        hashes.add(_XLAC._get_graph_hash(results))
    context = _XLAC.lowering.LoweringContext("TrainingStep")
    context.build(results)
    arguments = [context.tensor_parameter_id(tensor) for tensor in inputs]
    donors = {key: context.tensor_parameter_id(tensor) for key, tensor in before.items()}
    donated = [(number, donors.get(key, -1)) for number, key in enumerate(state)]
    return TracedStep(
        hlo=context.hlo(),
        # A tensor that the step did not read has no argument.
        sharded=tuple(number for number in arguments if number >= 0),
        donated=tuple((result, donor) for result, donor in donated if donor >= 0),
        num_programs=len(hashes),
        seconds=min(times[1:]),
    )


def compile_for(traced: TracedStep, devices: Sequence[Any]) -> Any:  # noqa: ANN401 - jaxlib's
    """Return the executable for the devices of a topology.

    Raises:
        RuntimeError: the compiler's, for instance when the program does not fit into memory.
    """
    jaxlib = importlib.import_module("jaxlib._jax")
    numpy = importlib.import_module("numpy")
    options = jaxlib.CompileOptions()
    options.num_replicas = 1
    options.num_partitions = len(devices)
    build = options.executable_build_options
    build.num_replicas = 1
    build.num_partitions = len(devices)
    build.use_spmd_partitioning = True
    build.device_assignment = jaxlib.DeviceAssignment.create(
        numpy.arange(len(devices), dtype=numpy.int32).reshape(1, -1)
    )
    code = _annotated(traced, len(devices))
    return devices[0].client.compile(code, jaxlib.DeviceList(tuple(devices)), options)


def _annotated(traced: TracedStep, num_devices: int) -> bytes:
    """Return the program as StableHLO that says what is split over the devices, what donated."""
    ir = importlib.import_module("jaxlib.mlir.ir")
    mlir = importlib.import_module("jax._src.interpreters.mlir")
    convert = importlib.import_module("jaxlib._jax").mlir.hlo_to_stablehlo
    sharded, donors = set(traced.sharded), {donor: result for result, donor in traced.donated}
    with mlir.make_ir_context():
        module = ir.Module.parse(convert(traced.hlo))
        main = next(
            op for op in module.body if getattr(op, "name", None) and op.name.value == "main"
        )
        attributes = []
        for number, argument in enumerate(main.arguments):
            rank = len(ir.RankedTensorType(argument.type).shape)
            tiles = ",".join(["1"] * (rank - 1))
            split = f"{{devices=[{num_devices}{',' * bool(tiles)}{tiles}]<=[{num_devices}]}}"
            own = {
                "mhlo.sharding": ir.StringAttr.get(
                    split if number in sharded and rank else "{replicated}"
                )
            }
            if number in donors:
                result = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), donors[number])
                own["tf.aliasing_output"] = result
            attributes.append(ir.DictAttr.get(own))
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)
        code: bytes = mlir.module_to_bytecode(module)
    return code


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[tuple[object, ...], Tensor]:
    """Return what a step changes, by a name that stays: parameters, buffers, optimizer's state."""
    state: dict[tuple[object, ...], Tensor] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        state["module", name] = tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.device.type == "xla":
                state["optimizer", number, name] = value
    return state


def _refill(
    module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[tuple[object, ...], Tensor]:
    """Cut off what was traced before: all state becomes placeholders again, which are returned."""
    torch_xla = importlib.import_module("torch_xla")
    torch_xla._XLAC._clear_pending_irs(_DEVICE)
    fresh = {}
    for key, tensor in _state(module, optimizer).items():
        made = placeholder(tensor)
        # A second handle: the native update of AdamW changes the first one in place.
        fresh[key] = made.detach().clone()
        torch_xla._XLAC._replace_xla_tensor(tensor, made)
    return fresh
