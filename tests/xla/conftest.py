"""Programs on XLA devices, each in a process of its own: PJRT counts its devices at the start."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch_xla")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def run_program():
    """Run programs/<name>.py in a folder: its last line as JSON, or how it failed."""

    def run(folder, name, *words, num_devices=1, status=0, **environment):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "programs" / f"{name}.py"), *words],
            cwd=folder,
            env={
                **os.environ,
                "PJRT_DEVICE": "CPU",
                "CPU_NUM_DEVICES": str(num_devices),
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == status, done.stderr[-4000:]
        return done.stderr if status else json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def program(tmp_path, run_program):
    """Run programs/<name>.py in this test's folder."""
    return partial(run_program, tmp_path)


@pytest.fixture
def small(program):
    """Train the small model of programs/small.py with the settings given."""

    def train(*, num_devices=1, **settings):
        return program("small", json.dumps(settings), num_devices=num_devices)

    return train
