"""Programs on PJRT's CPU, each in a process of its own, whose devices are fixed for its life."""

import importlib.util
import os
import subprocess
import sys

import pytest

needs_torch_xla = pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is None, reason="torch_xla is not installed"
)
needs_compiler = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch_xla", "jax", "libtpu")),
    reason="torch_xla, jax and libtpu (the extra `estimate`) are not installed",
)

_START = """
import torch_xla.runtime
torch_xla.runtime.global_runtime_device_count()
"""


def run_on_xla(program: str, *, num_devices: int = 1) -> str:
    """Run a program with torch_xla on virtual CPU devices and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", _START + program],
        env=os.environ | {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(num_devices)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
