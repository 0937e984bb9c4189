"""Python objects between the hosts of a slice, over the devices' own network.

Under SPMD torch_xla's `rendezvous` sees one virtual device and answers with the own payload only.
So each host writes its bytes into its devices' rows of one global array, which all then read.
"""

import pickle
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_melanoma.xla import pjrt

_T = TypeVar("_T")

# Payloads fill up to a multiple of this, bytes, so that few lengths are ever compiled.
_UNIT = 4096


def gather_objects(value: _T, mesh: Any) -> list[_T]:  # noqa: ANN401 - torch_xla has no types
    """Return the value of every host, in the order of their numbers.

    All hosts must call it. With one host nothing is sent.

    Args:
        value: anything that can be pickled; hosts trust each other.
        mesh: torch_xla's one-dimensional mesh of all devices.
    """
    if pjrt.process_count() == 1:
        return [value]
    payloads = gather_bytes(pickle.dumps(value), mesh)
    return [pickle.loads(payloads[index]) for index in sorted(payloads)]


def reduce_over_hosts(value: Any, operation: str, mesh: Any) -> Any:  # noqa: ANN401
    """Return the mean or the sum over all hosts of a number or CPU tensor; one host's as it is.

    Args:
        value: of this host.
        operation: `mean`, `avg` or `sum`, in any case.
        mesh: torch_xla's one-dimensional mesh of all devices.

    Raises:
        ValueError: another operation.
    """
    name = operation.lower().rpartition(".")[2]
    if name not in ("mean", "avg", "sum"):
        raise ValueError(f"reduce: expected mean, avg or sum over hosts, found {operation}")
    values = gather_objects(value, mesh)
    if len(values) == 1:
        return values[0]
    stacked = torch.stack([torch.as_tensor(each) for each in values])
    return stacked.sum(0) if name == "sum" else stacked.double().mean(0)


def gather_bytes(payload: bytes, mesh: Any) -> dict[int, bytes]:  # noqa: ANN401
    """Return the payload of each host by its number."""
    index = pjrt.process_index()
    sizes = _rows_of_all(np.array([index, len(payload)], np.int32), mesh)
    size = -(-int(sizes[:, 1].max()) // _UNIT) * _UNIT
    own = np.zeros(size + 1, np.int32)
    own[0] = index
    own[1 : len(payload) + 1] = np.frombuffer(payload, np.uint8)
    lengths = {int(number): int(length) for number, length in sizes}
    return {
        int(row[0]): row[1 : lengths[int(row[0])] + 1].astype(np.uint8).tobytes()
        for row in _rows_of_all(own, mesh).numpy()
    }


def _rows_of_all(row: Any, mesh: Any) -> Tensor:  # noqa: ANN401
    """Return (devices, N) int32 on the CPU: for each device the row of its host, (N,) int32."""
    import torch_xla
    import torch_xla.core.xla_model as xm
    import torch_xla.distributed.spmd as xs

    own = torch.from_numpy(row).repeat(pjrt.num_local_devices(), 1)
    spec = xs.ShardingSpec(mesh, (0, None), minibatch=True)
    sent: Any = xm.send_cpu_data_to_device([own], torch.device("xla", 0), spec)
    # A host can read only what it holds a copy of; a result can be replicated, an input not.
    whole = sent[0] + 0
    xs.mark_sharding(whole, mesh, (None, None))  # type: ignore[attr-defined]  # it is exported
    torch_xla.sync()
    found: Tensor = whole.cpu()
    return found
