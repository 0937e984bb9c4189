"""The device that a run is trained on: the one that is named, or the best that there is.

TPU, then CUDA, then CPU. Fills in what belongs to a device and was left open: strategy, precision.
Asks no server: environment, files and drivers tell it all.
"""

import ctypes
import logging
from typing import Any

import torch

from lightning_melanoma.xla.accelerator import ACCELERATOR_NAME
from lightning_melanoma.xla.pjrt import pjrt_has_tpu
from lightning_melanoma.xla.registry import register
from lightning_melanoma.xla.strategy import STRATEGY_NAME

# Of glibc's malloc.h: take no block from the system by itself, however large (M_MMAP_MAX), never
# give the end of the heap back (M_TRIM_THRESHOLD), and let it grow by 256 MiB (M_TOP_PAD).
_MALLOC_OPTIONS = {-4: 0, -1: -1, -2: 2**28}
# Precisions, by Lightning's names, in which no step can be done, and in which none is trained.
_NO_STEP, _NO_TRAINING = ("bf16-true", "16-true"), ("64-true", "64")

_log = logging.getLogger(__name__)


def choose_device(config: Any) -> None:  # noqa: ANN401 - the parser's namespace
    """Set what the arguments of a Trainer leave open about the device.

    Args:
        config: with `accelerator`, `strategy`, `devices`, `precision`, `sync_batchnorm`,
            `inference_mode` and `use_distributed_sampler`, all as the Trainer takes them.

    Raises:
        ValueError: one of accelerator and strategy is XLA's and the other is not.
    """
    register()
    if config.strategy == STRATEGY_NAME and config.accelerator == "auto":
        config.accelerator = ACCELERATOR_NAME
    if config.accelerator == "auto":
        _choose_best(config)
    if config.accelerator == ACCELERATOR_NAME and config.strategy == "auto":
        config.strategy = STRATEGY_NAME
    if (config.accelerator == ACCELERATOR_NAME) != (config.strategy == STRATEGY_NAME):
        raise ValueError(
            f"trainer.strategy: expected {STRATEGY_NAME} with the accelerator {ACCELERATOR_NAME}, "
            f"and with no other, found {config.strategy} with {config.accelerator}"
        )
    if config.accelerator == ACCELERATOR_NAME:
        # XLA has no inference mode, and hosts read their own parts of each batch as it is.
        config.inference_mode = False
        config.use_distributed_sampler = False


def check_precision(config: Any, *, trains: bool) -> None:  # noqa: ANN401 - as above
    """Check that images, which are float32, go with the parameters of a chosen device.

    Args:
        config: as `choose_device` leaves it.
        trains: whether steps of training are to be done.

    Raises:
        ValueError: the precision has other parameters.
    """
    refused = (*_NO_STEP, *_NO_TRAINING) if trains else _NO_STEP
    # On XLA its precision plugin says so.
    if config.accelerator != ACCELERATOR_NAME and str(config.precision) in refused:
        raise ValueError(
            "trainer.precision: expected 32-true, bf16-mixed or 16-mixed, found "
            f"{config.precision}; parameters are float32, as images are, so give one of these"
        )


def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors on the CPU free, for the next ones.

    A training step takes and frees gigabytes. glibc gives large blocks back at once, and the system
    clears every page that it gives out: nearly half the time of EfficientNet-Lite0's step at 192
    pixels. Other C libraries are left as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in _MALLOC_OPTIONS.items():
            set_option(option, value)


def _choose_best(config: Any) -> None:  # noqa: ANN401
    if pjrt_has_tpu():
        config.accelerator = ACCELERATOR_NAME
        config.precision = config.precision or "bf16-mixed"
        chosen = "TPU by PJRT"
    elif torch.cuda.is_available():
        config.accelerator = "cuda"
        # Cards before Ampere only emulate bfloat16.
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        config.precision = config.precision or ("bf16-mixed" if has_bfloat16 else "16-mixed")
        num_cards = torch.cuda.device_count()
        chosen = f"CUDA, {num_cards} cards"
        if num_cards > 1 and config.devices in ("auto", "-1", -1) and config.strategy == "auto":
            # A backbone may be frozen at first, whose parameters then have no gradients.
            config.strategy = "ddp_find_unused_parameters_true"
            # Batch norm over all cards, as XLA has it over all devices.
            config.sync_batchnorm = True
    else:
        config.accelerator = "cpu"
        chosen = "CPU, since there is neither TPU nor CUDA"
    _log.info("Device: %s, precision %s", chosen, config.precision or "32-true")
