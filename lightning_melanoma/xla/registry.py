"""Makes accelerator and strategy known to Lightning by name, and its own TPU path keep quiet.

That path asks torch_xla for TPUs in every Trainer, whatever its accelerator: off a TPU this ends
in a query of the cloud's metadata server, or in a TypeError where such queries are turned off. On a
TPU it says to all others that a TPU is there but not used. So it is told that it has none.
"""

import logging

from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.accelerators import XLAAccelerator as LightningsAccelerator
from pytorch_lightning.strategies import StrategyRegistry

from lightning_melanoma.xla.accelerator import XLAAccelerator
from lightning_melanoma.xla.strategy import SPMDStrategy


def register() -> None:
    """Let a Trainer take `accelerator="xla"` with `strategy="xla_spmd"`; once or more often."""
    XLAAccelerator.register_accelerators(AcceleratorRegistry)
    SPMDStrategy.register_strategies(StrategyRegistry)
    LightningsAccelerator.is_available = staticmethod(_is_never_available)  # type: ignore[assignment, method-assign]  # see above
    # A logger keeps a filter once, however often it is added.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_says_nothing_of_tpus)


def _is_never_available() -> bool:
    return False


def _says_nothing_of_tpus(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("TPU available")
