"""Lightning's accelerator for whatever PJRT offers: CPU or TPU, on one host or several."""

import importlib.util
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import Accelerator
from typing_extensions import override

from lightning_melanoma.xla import pjrt

#: What the `accelerator` of a Trainer is to be for this one.
ACCELERATOR_NAME = "xla"


class XLAAccelerator(Accelerator):
    """All PJRT devices as the one virtual device of SPMD; needs the strategy `xla_spmd`.

    Raises:
        ValueError: torch_xla is missing, or is not the one for this torch.
    """

    def __init__(self) -> None:
        pjrt.check_installed()

    @override
    def setup_device(self, device: torch.device) -> None:
        _require_xla(device.type == "xla", f"one that runs on {device}")

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        from lightning_melanoma.xla.strategy import SPMDStrategy

        strategy = trainer.strategy
        _require_xla(isinstance(strategy, SPMDStrategy), type(strategy).__name__)

    @override
    def get_device_stats(self, device: torch.device | str | int) -> dict[str, Any]:
        # PJRT tells the memory of real devices only, not of SPMD's virtual one.
        return {}

    @override
    def teardown(self) -> None:
        pass

    @staticmethod
    @override
    def parse_devices(devices: int | str | list[int]) -> int:
        """Return the devices of this host, all of which take part.

        Raises:
            ValueError: another number than PJRT offers.
        """
        offered = pjrt.num_local_devices()
        if str(devices) not in ("auto", "-1", str(offered)):
            more = "; CPU_NUM_DEVICES sets their number" if pjrt.device_type() == "CPU" else ""
            raise ValueError(
                f"trainer.devices: expected auto or {offered}, all that PJRT offers on this host, "
                f"found {devices}{more}"
            )
        return offered

    @staticmethod
    @override
    def get_parallel_devices(devices: int) -> list[torch.device]:
        """Return SPMD's one virtual device, behind which all real ones are."""
        return [torch.device("xla", 0)]

    @staticmethod
    @override
    def auto_device_count() -> int:
        return pjrt.num_local_devices()

    @staticmethod
    @override
    def is_available() -> bool:
        """Tell whether torch_xla is there: PJRT then offers a device, a CPU if nothing else."""
        return importlib.util.find_spec("torch_xla") is not None

    @staticmethod
    @override
    def name() -> str:
        return ACCELERATOR_NAME

    @classmethod
    @override
    def register_accelerators(cls, accelerator_registry: Any) -> None:
        """Make `Trainer(accelerator="xla")` known, with Lightning's `AcceleratorRegistry`."""
        accelerator_registry.register(cls.name(), cls, description=cls.__name__, override=True)


def _require_xla(is_met: bool, found: str) -> None:
    if not is_met:
        raise ValueError(
            f"accelerator xla: expected the strategy xla_spmd, found {found}; "
            "give --trainer.strategy xla_spmd"
        )
