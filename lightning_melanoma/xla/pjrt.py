"""What PJRT offers in this process, and starting it in the one order that works.

torch_xla has two traps, both met here in one place. SPMD must be chosen before anything else
touches the library: chosen later, the first read of a tensor ends in a segmentation fault. And the
runtime must be there before the first backward pass of the process, since autograd counts the
devices then, once. Nothing here opens a socket on a machine without a TPU.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import platformdirs
import torch

# Where TPU VMs show their chips: v2 to v4 the first, v5e and later the second.
_CHIP_FILES = ("accel[0-9]*", "vfio/[0-9]*")


def pjrt_has_tpu(devices: Path = Path("/dev")) -> bool:
    """Tell whether PJRT would run on a TPU here, by environment and files alone.

    torch_xla's own answer may ask the metadata server of the cloud; this one opens no socket.

    Args:
        devices: the folder of the device files.
    """
    if importlib.util.find_spec("torch_xla") is None:
        return False
    named = os.environ.get("PJRT_DEVICE")
    if named:
        return named == "TPU"
    has_library = importlib.util.find_spec("libtpu") or "TPU_LIBRARY_PATH" in os.environ
    return bool(has_library) and any(any(devices.glob(pattern)) for pattern in _CHIP_FILES)


def check_installed() -> None:
    """Check that torch_xla is there and belongs to this torch.

    Raises:
        ValueError: it is missing, or of another minor version than torch.
    """
    try:
        version = importlib.metadata.version("torch_xla")
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            "accelerator xla: expected torch_xla, found none; install it: "
            "pip install 'lightning_melanoma[xla]' (on a TPU VM: [tpu])"
        ) from error
    if _minor(version) != _minor(torch.__version__):
        raise ValueError(
            "accelerator xla: expected torch_xla and torch of one minor version, found torch_xla "
            f"{version} and torch {torch.__version__}; install torch_xla of torch's"
        )


@functools.lru_cache(maxsize=1)
def start() -> int:
    """Start PJRT in SPMD mode, once in a process, and return the devices of all hosts together.

    Raises:
        ValueError: torch_xla is missing or does not fit, PJRT has no such device, or this process
            used torch_xla, or autograd, in a way that PJRT cannot follow.
    """
    check_installed()
    if pjrt_has_tpu():
        # Ahead of torch_xla's own choice, which goes by PCI and misses chips behind a container.
        os.environ.setdefault("PJRT_DEVICE", "TPU")
    # Else torch_xla would say at length that it falls back to this.
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    # 1 is torch_xla's own choice, which warns of a deprecated partitioner at every program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    torch_xla = importlib.import_module("torch_xla")
    runtime = importlib.import_module("torch_xla.runtime")
    if not runtime.is_spmd():
        if torch_xla._XLAC._xla_get_spmd_config_is_locked():
            raise ValueError(
                "strategy xla_spmd: expected to be the first in this process to use torch_xla, "
                "found it in use without SPMD; build the Trainer before any tensor on an XLA "
                "device, in a fresh process"
            )
        runtime.use_spmd()
        _cache_programs(runtime)
    try:
        num_devices = int(runtime.global_runtime_device_count())
    except RuntimeError as error:
        raise ValueError(
            f"PJRT_DEVICE: expected TPU or CPU, found {os.environ['PJRT_DEVICE']} ({error}); set "
            "it to one that is there"
        ) from error
    if num_devices < 1:
        raise ValueError(
            "CPU_NUM_DEVICES: expected a number above 0, found "
            f"{os.environ.get('CPU_NUM_DEVICES')}; PJRT has no device"
        )
    _check_autograd()
    return num_devices


def device_type() -> str:
    """Return what PJRT runs on: `CPU`, `TPU` or another of its names."""
    start()
    return str(importlib.import_module("torch_xla.runtime").device_type())


def description() -> str:
    """Return the devices of all hosts in words, as `4 CPU devices on 1 host`."""
    plural = {True: "", False: "s"}
    num_devices, num_hosts = start(), process_count()
    return (
        f"{num_devices} {device_type()} device{plural[num_devices == 1]} "
        f"on {num_hosts} host{plural[num_hosts == 1]}"
    )


def num_local_devices() -> int:
    """Return the devices of this host."""
    start()
    return int(importlib.import_module("torch_xla.runtime").addressable_runtime_device_count())


def process_index() -> int:
    """Return the number of this host's process, from 0."""
    start()
    return int(importlib.import_module("torch_xla.runtime").process_index())


def process_count() -> int:
    """Return the number of hosts, each of which has one process."""
    start()
    return int(importlib.import_module("torch_xla.runtime").process_count())


def _cache_programs(runtime: ModuleType) -> None:
    """Keep compiled programs for the next process, before the client starts: on a TPU only.

    PJRT's CPU writes programs that it cannot read back. XLA_PERSISTENT_CACHE_PATH names another
    folder than the user's cache.
    """
    if os.environ["PJRT_DEVICE"] == "TPU":
        usual = platformdirs.user_cache_path("torch_xla")
        runtime.initialize_cache(os.environ.get("XLA_PERSISTENT_CACHE_PATH", str(usual)))


def _check_autograd() -> None:
    """Try a backward pass, never executed: autograd may have counted devices without XLA."""
    try:
        torch.ones(1, device="xla", requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]  # torch's
    except RuntimeError as error:
        raise ValueError(
            "accelerator xla: expected to be set up before the first backward pass of this "
            "process, found one on another device before it; restart, or train on XLA first"
        ) from error


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
