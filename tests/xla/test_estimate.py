import importlib.util
import json
import os
import subprocess
import sys

import pytest
from xla_processes import needs_compiler

from lightning_melanoma.cli import main
from lightning_melanoma.estimate import StepMaker, _NoTrainer
from lightning_melanoma.tasks.scratch import ScratchClassifier
from lightning_melanoma.xla.estimate import StepEstimate, collective_bytes
from lightning_melanoma.xla.estimate_table import format_table

SMALL = [
    *("--model.conv_channels", "[8, 16]"),
    *("--model.deconv_channels", "[8]"),
    *("--data.image_size", "32"),
    *("--data.batch_size", "64"),
]

# Loaded by each Python process below the test: a socket to anywhere is an error.
NO_SOCKETS = """
import socket

def refuse(*args):
    raise RuntimeError(f"a socket was connected: {args}")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
"""


def test_a_step_asks_its_trainer_for_nothing_that_is_not_there():
    task = ScratchClassifier(conv_channels=[4], deconv_channels=[4])
    task.trainer = _NoTrainer([])
    made = task.configure_optimizers()
    assert made["optimizer"].param_groups[0]["lr"] > 0


@pytest.mark.parametrize(
    ("words", "is_mixed"),
    [([], True), (["--trainer.accelerator", "xla"], False), (["--trainer.precision", "32"], False)],
)
def test_the_precision_is_that_of_fit(words, is_mixed):
    assert StepMaker([*SMALL, *words])._is_mixed == is_mixed


@pytest.fixture(scope="module")
def estimated(tmp_path_factory):
    """The table and the figures of a small step, compiled where no socket can be opened."""
    folder = tmp_path_factory.mktemp("estimate")
    (folder / "sitecustomize.py").write_text(NO_SOCKETS)
    words = [*SMALL, "--topology", "v5e:2x2", "--json", str(folder / "out.json")]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_melanoma", "estimate", *words],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "out.json").read_text())


@needs_compiler
@pytest.mark.slow
def test_a_small_step_fits_and_needs_one_program(estimated):
    _, (row,) = estimated
    assert row["topology"] == "v5e:2x2"
    assert (row["chips"], row["global_batch"]) == (4, 64)
    assert row["fits"]
    assert row["programs"] == 1


@needs_compiler
@pytest.mark.slow
def test_the_bound_is_that_of_the_slower_resource(estimated):
    _, (row,) = estimated
    arithmetic, memory = row["flops_per_chip"] / 197e12, row["bytes_per_chip"] / 819e9
    assert row["bound_by"] == ("memory" if memory > arithmetic else "arithmetic")
    assert row["bound_ms"] == pytest.approx(1e3 * max(arithmetic, memory))
    assert row["images_per_second"] == pytest.approx(64e3 / row["bound_ms"])


@needs_compiler
@pytest.mark.slow
def test_the_batch_is_split_and_the_rest_replicated(estimated):
    _, (row,) = estimated
    # uint8 images and 128 draws of each of a chip's 16 rows, tiled in memory; the model is small.
    batch = 16 * (3 * 32 * 32 + 4 * 128)
    assert batch < row["argument_bytes_per_chip"] < 20 * batch
    # All gradients are reduced, in the precision that they are computed in.
    assert row["collective_bytes_per_chip"] > 0


@needs_compiler
@pytest.mark.slow
def test_the_table_has_a_column_a_topology(estimated):
    table, (row,) = estimated
    assert table.splitlines()[0].split() == ["v5e:2x2"]
    assert len(format_table([row, row]).splitlines()[0].split()) == 2


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology", "v5e:3x5"], "libtpu does not know v5e:3x5"),
        (["--data.batch_size", "6"], "expected a multiple of 8"),
        (["--topology"], "argument --topology: expected at least one argument"),
        (["--trainer.precision", "16-mixed"], "expected bf16-mixed or 32-true"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["estimate", *SMALL, *words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@needs_compiler
def test_an_unknown_generation_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["estimate", "--topology", "v9:2x2"])
    assert stop.value.code == 2
    assert "v5e:2x4" in capsys.readouterr().err


def test_a_missing_package_is_one_line_that_says_how_to_install_it(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "jax" else found(name, *a)
    )
    with pytest.raises(SystemExit) as stop:
        main(["estimate", "--topology", "v5e:2x2"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "pip install 'lightning_melanoma[estimate]'" in error
    assert error.count("\n") == 1


def test_bytes_of_collectives_are_those_of_all_their_results():
    text = """
  %all-reduce.1 = (f32[64]{0:T(128)S(1)}, bf16[2,3]{1,0}) all-reduce(%a, %b), channel_id=1
  %ar = f32[10]{0} all-reduce-start(%c), channel_id=2
  %done = f32[10]{0} all-reduce-done(%ar)
  %sum = f32[99]{0} add(%all-reduce.1, %d)
"""
    assert collective_bytes(text) == 64 * 4 + 6 * 2 + 10 * 4


def test_a_step_that_does_not_fit_has_dashes():
    row = dict.fromkeys(StepEstimate.__annotations__)
    row |= {"topology": "v5e:2x2", "chips": 4, "fits": False, "host_ms": 1.0, "programs": 2}
    lines = format_table([row]).splitlines()
    assert [line.split()[-1] for line in lines if "fits" in line] == ["no"]
    assert [line.split()[-1] for line in lines if "bound of a step" in line] == ["-"]
