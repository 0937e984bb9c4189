"""What the strategy promises, shown with a small model on 1 and 4 devices of PJRT's CPU."""

import subprocess
import sys

import pytest

from lightning_melanoma.xla import pjrt
from lightning_melanoma.xla.strategy import SPMDStrategy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)], ids=["float32", "float64"]
)
def test_losses_are_the_same_on_one_device_and_on_four(small, dtype, tolerance):
    # Sums over the batch come in another order: float32 keeps 7 digits, float64 16.
    one, four = (small(num_devices=n, dtype=dtype) for n in (1, 4))
    assert four["losses"] == pytest.approx(one["losses"], rel=tolerance)
    assert four["predictions"] == pytest.approx(one["predictions"], rel=10 * tolerance, abs=1e-4)


@pytest.mark.parametrize("average", [False, True], ids=["plain", "EMA"])
def test_the_number_of_programs_depends_on_neither_epochs_nor_data(small, average):
    few = small(num_devices=4, average=average)["programs"]
    assert small(num_devices=4, average=average, epochs=6)["programs"] == few
    assert small(num_devices=4, average=average, batches=12)["programs"] == few


def test_averages_of_the_weights_make_no_step_wait(small):
    assert small(average=True)["reads"] == small()["reads"]


def test_accumulated_gradients_need_a_fixed_number_of_programs(small):
    few = small(accumulate=2)["programs"]
    assert small(accumulate=2, epochs=6)["programs"] == few


def test_bfloat16_leaves_what_is_kept_in_float32(small):
    # Without dropout, whose draws are others in bfloat16.
    plain, mixed = (small(dropout=0, precision=name) for name in ("32-true", "bf16-mixed"))
    # Batch norm counts its batches.
    assert mixed["dtypes"] == ["torch.float32 cpu", "torch.int64 cpu"]
    assert mixed["outside"] == 1 + 2**-10
    assert mixed["losses"] != plain["losses"]
    # 0.09 % in 12 steps, measured; a step with another rule would be further off.
    assert mixed["losses"] == pytest.approx(plain["losses"], rel=0.01)


@pytest.mark.parametrize(
    "settings", [{}, {"accumulate": 2}, {"average": True}], ids=["plain", "accumulated", "EMA"]
)
def test_a_resumed_run_has_the_losses_of_one_that_never_stopped(small, settings):
    # Batch 10 of 18, in the middle of the second epoch, and the only multiple among all steps.
    save_at = 5 if "accumulate" in settings else 10
    whole = small(num_devices=4, epochs=3, save_at=save_at, **settings)
    rest = small(num_devices=4, epochs=3, resume="kept.ckpt", **settings)
    assert rest["losses"] == whole["losses"][10:]
    assert rest["predictions"] == whole["predictions"]


def test_a_checkpoint_goes_on_with_another_number_of_devices(small):
    whole = small(num_devices=4, epochs=3, save_at=10)
    rest = small(num_devices=1, epochs=3, resume="kept.ckpt")
    assert rest["losses"] == pytest.approx(whole["losses"][10:], rel=1e-5)


def test_a_checkpoint_loads_where_torch_xla_is_missing(small, tmp_path):
    small(num_devices=4)
    code = (
        "import sys; sys.modules['torch_xla'] = None; import torch; "
        "torch.load('last.ckpt', weights_only=True)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_fits_in_one_process_alternate_between_xla_and_the_cpu(program):
    fits = program("alternating", "xla", "cpu", "xla", "cpu")
    losses = [fit["losses"] for fit in fits]
    assert losses[2] == losses[0]
    assert losses[3] == losses[1]
    # Sums over eight images in another order, eight steps of Adam.
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # The second one on XLA finds all of its programs.
    assert fits[3]["programs"] == fits[0]["programs"]


def test_a_fit_on_the_cpu_before_xla_is_told_in_one_line(program):
    message = program("alternating", "cpu", "xla")
    assert "before the first backward pass of this process" in message
    assert "\n" not in message


def test_each_host_is_a_node_with_one_process(monkeypatch):
    monkeypatch.setattr(pjrt, "process_count", lambda: 4)
    # Without PJRT, which a process starts once.
    strategy = SPMDStrategy.__new__(SPMDStrategy)
    assert strategy.world_size // strategy.num_nodes == 1
    for number in (1, 4):
        strategy.num_nodes = number
    with pytest.raises(ValueError, match=r"trainer.num_nodes: expected 4, the hosts .*, found 3"):
        strategy.num_nodes = 3
