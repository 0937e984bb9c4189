"""Batches to the devices: sharded over the mesh, in the background, ahead of the step."""

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lightning_melanoma.xla import pjrt

# Seconds after which either side of the queue looks whether the other is still there.
_PATIENCE = 0.1


class BatchSender:
    """Sends a batch to the devices, its tensors sharded on their first axis.

    With several hosts each sends its own rows, and the tensors on the devices are the global batch.

    Args:
        mesh: torch_xla's one-dimensional mesh of all devices.
    """

    def __init__(self, mesh: Any) -> None:  # noqa: ANN401 - torch_xla has no types
        self._mesh = mesh
        self._specs: dict[int, Any] = {}

    def __call__(self, batch: Any) -> Any:  # noqa: ANN401 - any tree of tensors
        """Return the batch, a tree of tensors, with those that are on the host sent.

        Raises:
            ValueError: the devices of this host do not divide the rows of a tensor.
        """
        leaves, structure = pytree.tree_flatten(batch)
        by_rank: dict[int, list[int]] = defaultdict(list)
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                by_rank[leaf.ndim].append(place)
        for rank, places in by_rank.items():
            sent = self._send([leaves[place] for place in places], rank)
            for place, tensor in zip(places, sent, strict=True):
                leaves[place] = tensor
        return pytree.tree_unflatten(leaves, structure)

    def _send(self, tensors: list[Tensor], rank: int) -> list[Tensor]:
        import torch_xla.core.xla_model as xm

        num_devices = pjrt.num_local_devices()
        for tensor in tensors:
            if rank and len(tensor) % num_devices:
                raise ValueError(
                    f"batch: expected rows that the {num_devices} devices of this host divide, "
                    f"found {len(tensor)}; choose the batch size accordingly"
                )
        # One call for all tensors of a rank: a spec of another rank is ignored in silence.
        sent: Any = xm.send_cpu_data_to_device(tensors, torch.device("xla", 0), self._spec(rank))
        return list(sent)

    def _spec(self, rank: int) -> Any:  # noqa: ANN401 - torch_xla has no types
        import torch_xla.distributed.spmd as xs

        if rank and rank not in self._specs:
            axes = (0, *(None,) * (rank - 1))
            several = pjrt.process_count() > 1
            self._specs[rank] = xs.ShardingSpec(self._mesh, axes, minibatch=several)
        # Scalars are replicated, which needs no spec.
        return self._specs.get(rank)


class DeviceFeed:
    """A loader whose batches are sent ahead by a thread, and whose place is that of the delivered.

    What else the loader has is to be had here as well.

    Args:
        loader: iterable of batches, with `state_dict` and `load_state_dict` if it has a place.
        send: brings a batch to the devices.
        before_wait: called each time before a batch is waited for, and at the end.
        depth: batches that are on the devices before they are asked for, at least 1.
    """

    def __init__(
        self,
        loader: Any,  # noqa: ANN401 - any iterable
        *,
        send: Callable[[Any], Any],
        before_wait: Callable[[], None],
        depth: int = 2,
    ) -> None:
        self.loader = loader
        self._send = send
        self._before_wait = before_wait
        self._depth = depth
        self._state: dict[str, Any] | None = None
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        # Copies ask for attributes before there is a loader.
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        # A generator: no thread is started for an iterator that is never asked, as Lightning makes.
        self.close()
        self._state = _state_of(self.loader)
        reader = self._reader = _Reader(self.loader, self._send, self._depth)
        reader.start()
        try:
            while True:
                self._before_wait()
                delivery = reader.take()
                if delivery is None:
                    return
                self._state = delivery.state
                yield delivery.batch
        finally:
            reader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's place as of the batch that was delivered last."""
        return self._state if self._state is not None else _state_of(self.loader)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` returned."""
        self.close()
        self._state = None
        if hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state)

    def close(self) -> None:
        """End the thread; what it had read ahead is dropped."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _Delivery(NamedTuple):
    """A sent batch, and the place of the loader behind it."""

    batch: Any
    state: dict[str, Any]


class _Reader(threading.Thread):
    """Reads and sends batches until the loader ends, fails, or nobody wants any more."""

    def __init__(self, loader: Any, send: Callable[[Any], Any], depth: int) -> None:  # noqa: ANN401
        # Daemonic: a loader that hangs must not keep the process.
        super().__init__(name="device-feed", daemon=True)
        self._loader = loader
        self._send = send
        # One more is in the thread's hands.
        self._queue: queue.Queue[_Delivery | BaseException | None] = queue.Queue(max(depth - 1, 1))
        self._closing = threading.Event()

    def run(self) -> None:
        """Read, send, put; an error is put in place of a batch."""
        try:
            for batch in self._loader:
                delivery = _Delivery(self._send(batch), _state_of(self._loader))
                if not self._put(delivery):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def take(self) -> _Delivery | None:
        """Return the next batch, or None at the end; raise what the loader raised."""
        while not self._closing.is_set():
            try:
                item = self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item
        return None

    def close(self) -> None:
        """Stop reading and wait until the thread has ended."""
        self._closing.set()
        self.join()

    def _put(self, item: _Delivery | BaseException | None) -> bool:
        while not self._closing.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False


def _state_of(loader: Any) -> dict[str, Any]:  # noqa: ANN401
    state: dict[str, Any] = loader.state_dict() if hasattr(loader, "state_dict") else {}
    return state
