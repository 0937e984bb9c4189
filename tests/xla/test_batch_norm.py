import pytest
from xla_processes import needs_torch_xla, run_on_xla

pytestmark = [needs_torch_xla, pytest.mark.slow]

SETUP = """
import copy
import torch
from torch import nn
from lightning_melanoma.xla.batch_norm import use_lean_batch_norm
use_lean_batch_norm()
use_lean_batch_norm()
torch.manual_seed(0)
x = 3 * torch.randn(16, 5, 7, 7) + 10
grad = torch.randn_like(x)
ours = nn.BatchNorm2d(5)
nn.init.uniform_(ours.weight)
nn.init.uniform_(ours.bias)
theirs = copy.deepcopy(ours)
ours = ours.to("xla")
"""


def test_float32_and_float64_give_torchs_numbers_with_and_without_autocast():
    # Sums over 784 values in another order differ by some units in the last place of the largest
    # summand, about 50 in the gradients of the weights.
    run_on_xla(
        SETUP
        + """
def compare(dtype, training, autocast):
    mine, other = copy.deepcopy(theirs).to(dtype).to("xla"), copy.deepcopy(theirs).to(dtype)
    mine.train(training), other.train(training)
    x_mine, x_other = x.to(dtype).to("xla").requires_grad_(), x.to(dtype).clone().requires_grad_()
    with torch.autocast("xla", dtype=torch.bfloat16, enabled=autocast):
        y_mine = mine(x_mine)
    y_other = other(x_other)
    y_mine.backward(grad.to(dtype).to("xla"))
    y_other.backward(grad.to(dtype))
    pairs = [(y_mine, y_other), (x_mine.grad, x_other.grad)]
    pairs += [(mine.weight.grad, other.weight.grad), (mine.bias.grad, other.bias.grad)]
    pairs += zip(mine.buffers(), other.buffers())
    unit = {torch.float32: 1.0, torch.float64: 1e-8}[dtype]
    for one, two in pairs:
        assert one.dtype == two.dtype
        torch.testing.assert_close(one.cpu(), two, rtol=1e-5 * unit, atol=1e-4 * unit)


for training in (True, False):
    compare(torch.float32, training, True)
    compare(torch.float32, training, False)
    compare(torch.float64, training, False)
"""
    )


def test_running_variance_is_the_unbiased_one():
    run_on_xla(
        SETUP
        + """
few = x[:2, :, :1, :1]
theirs(few)
for autocast in (True, False):
    mine = copy.deepcopy(ours)
    with torch.autocast("xla", dtype=torch.bfloat16, enabled=autocast):
        mine(few.to("xla"))
    torch.testing.assert_close(mine.running_var.cpu(), theirs.running_var)
"""
    )


def test_bfloat16_stays_bfloat16_in_training_and_evaluation():
    # Half a unit in bfloat16's last place is 2 ** -9 of a value; normalised values reach 4.
    run_on_xla(
        SETUP
        + """
low = x.bfloat16()
for mode in (True, False):
    theirs.train(mode), ours.train(mode)
    x_ours = low.to("xla").requires_grad_()
    with torch.autocast("xla", dtype=torch.bfloat16):
        y = ours(x_ours)
    y.backward(grad.to("xla").bfloat16())
    assert y.dtype == x_ours.grad.dtype == torch.bfloat16
    assert ours.weight.grad.dtype == ours.running_var.dtype == torch.float32
    torch.testing.assert_close(y.cpu().float(), theirs(low.float()), rtol=2**-8, atol=2**-7)
"""
    )


def test_nothing_changes_on_the_cpu():
    run_on_xla(
        SETUP
        + """
with torch.autocast("cpu", dtype=torch.bfloat16):
    assert theirs(x).dtype == torch.float32
"""
    )


def test_a_norm_without_weights_and_statistics_works():
    run_on_xla(
        SETUP
        + """
bare = nn.BatchNorm2d(5, affine=False, track_running_stats=False)
# bfloat16 keeps eight bits.
for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2**-8)):
    with torch.autocast("xla", dtype=torch.bfloat16):
        y = copy.deepcopy(bare).to("xla")(x.to("xla", dtype).requires_grad_())
    y.sum().backward()
    expected = bare(x.to(dtype).float())
    torch.testing.assert_close(y.cpu().float(), expected, rtol=tolerance, atol=1e-4)
"""
    )
