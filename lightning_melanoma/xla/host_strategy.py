"""The hosts' half of the strategy: one process a host, and what these say to each other.

Tensors on the devices are of the global batch and need no gathering; what passes between hosts is
Python objects and the host's own numbers, by `hosts`. What runs on the devices: see `strategy`.
"""

from typing import Any, TypeVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.strategies import Strategy
from torch import Tensor
from typing_extensions import override

from lightning_melanoma.xla import pjrt
from lightning_melanoma.xla.hosts import gather_objects, reduce_over_hosts
from lightning_melanoma.xla.sharding import device_mesh, on_cpu

_T = TypeVar("_T")


class HostStrategy(Strategy):
    """Knows the hosts and brings together what each of them has; all must call alike.

    Args:
        **kwargs: as Lightning's `Strategy`.

    Attributes:
        mesh: torch_xla's one-dimensional mesh of the devices of all hosts.

    Raises:
        ValueError: PJRT cannot start in this process.
    """

    #: Lightning is to add no sampler and to average nothing.
    is_distributed = False

    #: There is one process a host.
    local_rank = 0

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning types them
        pjrt.start()
        super().__init__(**kwargs)
        self.mesh = device_mesh()

    @property
    def global_rank(self) -> int:
        """The number of this host."""
        return pjrt.process_index()

    node_rank = global_rank

    @property
    def world_size(self) -> int:
        """The number of hosts."""
        return pjrt.process_count()

    @property
    @override
    def is_global_zero(self) -> bool:
        return self.global_rank == 0

    @property
    def num_nodes(self) -> int:
        """The number of hosts, each of which has one process.

        Raises:
            ValueError: it is set to another number than PJRT knows; Lightning's default is 1.
        """
        return self.world_size

    @num_nodes.setter
    def num_nodes(self, number: int) -> None:
        if number not in (1, self.world_size):
            raise ValueError(
                f"trainer.num_nodes: expected {self.world_size}, the hosts that PJRT knows, found "
                f"{number}; leave it out"
            )

    def set_world_ranks(self) -> None:
        """Tell Lightning's logging which host this is."""
        rank_zero_only.rank = self.global_rank  # type: ignore[attr-defined]  # Lightning's way

    @override
    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Return what all hosts have together; on the devices that is what each of them has.

        Whole numbers are taken to be counts of a host's own. They come back on the CPU, where
        comparing them compiles nothing.
        """
        is_on_devices = isinstance(tensor, Tensor) and tensor.device.type == "xla"
        if is_on_devices and tensor.is_floating_point():
            return tensor
        return reduce_over_hosts(on_cpu(tensor), str(reduce_op), self.mesh)

    @override
    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        decisions = gather_objects(decision, self.mesh)
        return min(decisions) if all else max(decisions)

    @override
    def barrier(self, name: str | None = None) -> None:
        gather_objects(None, self.mesh)

    @override
    def broadcast(self, obj: _T, src: int = 0) -> _T:
        return gather_objects(obj, self.mesh)[src]

    @override
    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Return the tensor: on the devices it is of the global batch already."""
        if tensor.device.type == "xla" or self.world_size == 1:
            return tensor
        return torch.stack(gather_objects(tensor, self.mesh))
