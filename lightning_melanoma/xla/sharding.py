"""The mesh of all devices, what is whole on each of them, and the ends of programs."""

from typing import Any, TypeVar

import numpy as np
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_melanoma.xla import pjrt

_T = TypeVar("_T")


def device_mesh() -> Any:  # noqa: ANN401 - torch_xla has no types
    """Return torch_xla's one-dimensional mesh of the devices of all hosts, be it one."""
    import torch_xla.distributed.spmd as xs

    num_devices = pjrt.start()
    mesh = xs.Mesh(np.arange(num_devices), (num_devices,), ("data",))
    xs.set_global_mesh(mesh)
    return mesh


def make_whole(tree: _T, mesh: Any) -> _T:  # noqa: ANN401 - torch_xla has no types
    """Have each device hold all of every tensor of a tree when the program under way ends.

    Without it a result may stay cut by rows, and each read of it compiles a program that joins it.
    """
    import torch_xla.distributed.spmd as xs

    def replicate(tensor: Tensor) -> Tensor:
        if tensor.device.type == "xla":
            xs.mark_sharding(tensor, mesh, (None,) * tensor.ndim)  # type: ignore[attr-defined]  # it is exported
        return tensor

    whole: _T = apply_to_collection(tree, Tensor, replicate)
    return whole


def sync() -> None:
    """End the program under way and dispatch it, without waiting for it."""
    import torch_xla

    torch_xla.sync()


def on_cpu(tree: _T) -> _T:
    """Return the tree with its tensors on the CPU."""
    moved: _T = apply_to_collection(tree, Tensor, lambda tensor: tensor.detach().cpu())
    return moved
