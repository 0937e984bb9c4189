"""Lightning's strategy for PJRT: SPMD, one process a host, the batch sharded, the rest replicated.

XLA splits each program over a one-dimensional mesh of all devices. Batch norm, loss and metrics are
those of the global batch, whatever the number of devices. A program ends where the loop asks for
the next batch, so that a step, its optimizer and all callbacks are one program, which is dispatched
before the host waits for anything. Nothing is compiled or read in a step of the steady state.
"""

import logging
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.profilers import XLAProfiler
from torch.optim import Optimizer
from typing_extensions import override

from lightning_melanoma.xla import pjrt
from lightning_melanoma.xla.accelerator import XLAAccelerator
from lightning_melanoma.xla.averaging import use_lean_averages
from lightning_melanoma.xla.batch_norm import use_lean_batch_norm
from lightning_melanoma.xla.host_strategy import HostStrategy
from lightning_melanoma.xla.optimizer import make_state, use_lean_adamw
from lightning_melanoma.xla.precision import XLAPrecision
from lightning_melanoma.xla.sharding import make_whole, on_cpu, sync
from lightning_melanoma.xla.transfer import BatchSender, DeviceFeed

_T = TypeVar("_T")

#: What the `strategy` of a Trainer is to be for this one.
STRATEGY_NAME = "xla_spmd"

# Of a checkpoint: what the device's draws begin from.
_SEED_KEY = "xla_seed"
# Odd, 2**32 divided by the golden ratio: neighbouring steps get states far apart.
_GOLDEN = 0x9E3779B1
# The random state is a signed 32-bit number above 0.
_STATE_MASK = 0x7FFFFFFF

_log = logging.getLogger(__name__)


class SPMDStrategy(HostStrategy):
    """Trains on all PJRT devices of all hosts as on one.

    What a step returns, beside its loss, is whole on every device and can be kept until the end of
    the epoch: reading it compiles nothing. Needs the accelerator `xla`.

    Args:
        accelerator: Lightning's to set.
        checkpoint_io: writes and reads checkpoints.
        precision_plugin: `XLAPrecision`, or a plug-in of Lightning's that names the same precision.

    Raises:
        ValueError: PJRT cannot start in this process, or the precision is none of XLA's.
    """

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(checkpoint_io=checkpoint_io, precision_plugin=precision_plugin)
        if accelerator is not None:
            self.accelerator = accelerator
        self._send = BatchSender(self.mesh)
        self._feeds: list[DeviceFeed] = []
        self._seed = 0

    @property
    @override
    def accelerator(self) -> Accelerator | None:
        return self._accelerator

    @accelerator.setter
    def accelerator(self, accelerator: Accelerator) -> None:
        if not isinstance(accelerator, XLAAccelerator):
            raise ValueError(
                f"strategy {STRATEGY_NAME}: expected the accelerator xla, found "
                f"{type(accelerator).__name__}; give --trainer.accelerator xla"
            )
        self._accelerator = accelerator

    @property
    @override
    def precision_plugin(self) -> Precision:
        return self._precision_plugin or XLAPrecision()

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        # Lightning knows no precision for our accelerator and sends one of its own.
        if plugin is not None and not isinstance(plugin, XLAPrecision):
            plugin = XLAPrecision(str(plugin.precision))
        self._precision_plugin = plugin

    @property
    @override
    def root_device(self) -> torch.device:
        return torch.device("xla", 0)

    @override
    def setup_environment(self) -> None:
        super().setup_environment()
        self._seed = torch.initial_seed()
        precision = self.precision_plugin
        assert isinstance(precision, XLAPrecision)
        use_lean_batch_norm()
        if self.is_global_zero:
            _log.info("XLA: %s, %s", pjrt.description(), precision.description)

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        if isinstance(trainer.profiler, XLAProfiler):  # type: ignore[attr-defined]  # Lightning's
            raise ValueError(
                "trainer.profiler: expected none, simple, advanced or pytorch with strategy "
                f"{STRATEGY_NAME}, found XLAProfiler; within its scopes no program can be sent off"
            )
        super().setup(trainer)
        use_lean_averages(trainer, self.mesh)

    @override
    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            if isinstance(optimizer, torch.optim.AdamW):
                use_lean_adamw(optimizer)
            else:
                make_state(optimizer)
            make_whole(list(optimizer.state.values()), self.mesh)

    @override
    def model_to_device(self) -> None:
        assert self.model is not None
        self.model.to(self.root_device)
        # Said from the start: a program of tensors of which it is not known is another one.
        make_whole([*self.model.parameters(), *self.model.buffers()], self.mesh)

    @override
    def process_dataloader(self, dataloader: object) -> DeviceFeed:
        feed = DeviceFeed(dataloader, send=self._send, before_wait=sync)
        self._feeds.append(feed)
        return feed

    @override
    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        return self._send(batch)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        import torch_xla.core.xla_model as xm

        # The state moves on with every program and random op, so that one validation more would
        # change all later draws; from epoch and batch it is the same after a resume, too.
        assert self.lightning_module is not None
        epoch = self.lightning_module.trainer.current_epoch
        step = (epoch * _GOLDEN + batch_idx) * _GOLDEN
        xm.set_rng_state((self._seed + step) & _STATE_MASK)

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().training_step(*args, **kwargs)
        if isinstance(outputs, dict):
            rest = {name: value for name, value in outputs.items() if name != "loss"}
            make_whole(rest, self.mesh)
        return outputs

    @override
    def optimizer_step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        outputs = super().optimizer_step(optimizer, *args, **kwargs)
        # Else the program would write all gradients to memory, where nobody reads them, and one
        # that Lightning ends with a validation would not: it drops them there.
        optimizer.zero_grad()
        return outputs

    @override
    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._dispatch(super().validation_step(*args, **kwargs))

    @override
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._dispatch(super().test_step(*args, **kwargs))

    @override
    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        return on_cpu(self._dispatch(super().predict_step(*args, **kwargs)))

    @override
    def on_validation_start(self) -> None:
        sync()

    # Whatever is pending there must not be cut by the first read of a result.
    on_validation_end = on_test_start = on_predict_start = on_train_end = on_validation_start

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        # A checkpoint begins with this. What a module reads to add to it must cut no program.
        sync()
        return super().lightning_module_state_dict()

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        sync()
        # CPU tensors load where torch_xla is not installed.
        kept = {**on_cpu(checkpoint), _SEED_KEY: self._seed}
        super().save_checkpoint(kept, filepath, storage_options=storage_options)

    @override
    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint: dict[str, Any] = super().load_checkpoint(*args, **kwargs)
        # What goes on draws as what was stopped would have, whatever this process was seeded with.
        self._seed = checkpoint.get(_SEED_KEY, self._seed)
        return checkpoint

    @override
    def teardown(self) -> None:
        for feed in self._feeds:
            feed.close()
        self._feeds = []
        # Ahead of the tensors' way to the CPU, one by one, each of which would cut a program.
        sync()
        super().teardown()

    @classmethod
    @override
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Make `Trainer(strategy="xla_spmd")` known, with Lightning's `StrategyRegistry`."""
        strategy_registry.register(STRATEGY_NAME, cls, description=cls.__name__, override=True)

    def _dispatch(self, outputs: _T) -> _T:
        """End the program of a step that trains nothing: behind the last one nobody asks again."""
        whole = make_whole(outputs, self.mesh)
        sync()
        return whole
