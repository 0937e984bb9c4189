"""How many programs XLA compiled in this process, and what one step traced that another did not.

torch_xla counts its compilations and every operation that it records, and gives hash and text of
the graph behind a tensor until that is dispatched. It does not say why it compiled: that takes two
steps to compare. Numbers that a graph holds as constants are in its hash and not in its text.
"""

import importlib
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree

# Counters of recorded operations, and of those that torch_xla lacks and has the CPU compute.
_OPS = ("xla::", "aten::")
# Operations that end a program in the middle of a step.
_MEANINGS = {"_local_scalar_dense": "a value was read", "nonzero": "a shape depends on values"}
_NODE = re.compile(r"%\d+ = (\(.*?\)|\S+?\])(?:\{[\d,]*\})? ([\w:]+)\(")
# Graphs whose nodes are kept. Reading them takes a tenth of a second for a large network.
_NUM_GRAPHS = 8
# Operations that are told of, at most.
_NUM_TOLD = 5

_Nodes = Sequence[tuple[str, str]]


class StepRecord(NamedTuple):
    """What is known of a step.

    Attributes:
        shapes: dtype and shape of each tensor of its batch, by its place there.
        ops: how often each operation was recorded.
        nodes: operation and shape of all that its loss was computed from, inputs first.
    """

    shapes: Mapping[str, str]
    ops: Mapping[str, int]
    nodes: _Nodes


class StepRecorder:
    """Records steps, one after the other: about a millisecond of the host for a large network."""

    def __init__(self) -> None:
        self._graphs: dict[bytes, _Nodes] = {}
        self._shapes: dict[str, str] = {}
        self._ops: Counter[str] = Counter()
        self._nodes: _Nodes = ()

    def look_at(self, loss: Tensor) -> None:
        """Note the graph behind a loss that was not dispatched yet."""
        library = importlib.import_module("torch_xla")._XLAC
        graph = library._get_graph_hash([loss])
        if graph not in self._graphs and len(self._graphs) < _NUM_GRAPHS:
            text = library._get_xla_tensors_text([loss])
            self._graphs[graph] = [(op, shape) for shape, op in _NODE.findall(text)]
        self._nodes = self._graphs.get(graph, ())

    def begin(self, batch: Any) -> StepRecord:  # noqa: ANN401 - any tree of tensors
        """Begin a step with a batch, and return what is known of the one that ends with this."""
        ops = _num_ops()
        record = StepRecord(self._shapes, ops - self._ops, self._nodes)
        self._shapes, self._ops, self._nodes = _shapes_of(batch), ops, ()
        return record


def num_programs() -> int:
    """Return how many programs XLA has compiled in this process; 0 where it is not in use."""
    if "torch_xla" not in sys.modules:
        return 0
    found = importlib.import_module("torch_xla.debug.metrics").metric_data("CompileTime")
    return int(found[0]) if found else 0


def difference(before: StepRecord, after: StepRecord) -> str:
    """Return in words what a step had or did that another had or did not."""
    return (
        _tell_shapes(before.shapes, after.shapes)
        or _tell_ops(before.ops, after.ops, only=_MEANINGS)
        or _tell_nodes(before.nodes, after.nodes)
        or _tell_ops(before.ops, after.ops)
        or "operations and shapes were the same, so a number changed that the program holds as a "
        "constant"
    )


def _num_ops() -> Counter[str]:
    metrics = importlib.import_module("torch_xla.debug.metrics")
    names = [name for name in metrics.counter_names() if name.startswith(_OPS)]
    return Counter({name: metrics.counter_value(name) for name in names})


def _shapes_of(batch: Any) -> dict[str, str]:  # noqa: ANN401 - any tree of tensors
    leaves, _ = pytree.tree_flatten_with_path(batch)
    return {
        pytree.keystr(path).strip(".[]'"): f"{str(leaf.dtype)[6:]} {tuple(leaf.shape)}"
        for path, leaf in leaves
        if isinstance(leaf, Tensor)
    }


def _tell_shapes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    changes = [
        f"{name} from {before.get(name, 'none')} to {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    return "the batch changed: " + ", ".join(changes) if changes else ""


def _tell_nodes(before: _Nodes, after: _Nodes) -> str:
    """Return in words where two graphs part."""
    if not before or not after:
        return ""
    for (old_op, old_shape), (op, shape) in zip(before, after, strict=False):
        if op != old_op:
            return f"{op} of {shape} was recorded where {old_op} of {old_shape} had been"
        if shape != old_shape:
            return f"the result of {op} changed from {old_shape} to {shape}"
    if len(before) == len(after):
        return ""
    longer, verb = (after, "added") if len(after) > len(before) else (before, "left out")
    op, shape = longer[min(len(before), len(after))]
    return f"{op} of {shape} was {verb}"


def _tell_ops(
    before: Mapping[str, int], after: Mapping[str, int], only: Mapping[str, str] | None = None
) -> str:
    changes = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, 0), after.get(name, 0)
        short = name.rpartition("::")[2]
        if old != new and (only is None or short in only):
            meaning = f" ({_MEANINGS[short]})" if short in _MEANINGS else ""
            changes.append(f"{name} {new} times, not {old}{meaning}")
    rest = f" and {len(changes) - _NUM_TOLD} more" if len(changes) > _NUM_TOLD else ""
    return "it recorded " + ", ".join(changes[:_NUM_TOLD]) + rest if changes else ""
