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


def test_float32_activations_give_torchs_numbers():
    # Both compute in float32; sums over 784 values in another order differ by some units in the
    # last place of the largest summand, about 50 in the gradients of the weights.
    run_on_xla(
        SETUP
        + """
x_theirs = x.clone().requires_grad_()
y_theirs = theirs(x_theirs)
y_theirs.backward(grad)
x_ours = x.to("xla").requires_grad_()
with torch.autocast("xla", dtype=torch.bfloat16):
    y_ours = ours(x_ours)
y_ours.backward(grad.to("xla"))
pairs = [(y_ours, y_theirs), (x_ours.grad, x_theirs.grad)]
pairs += [(ours.weight.grad, theirs.weight.grad), (ours.bias.grad, theirs.bias.grad)]
pairs += zip(ours.buffers(), theirs.buffers())
for mine, other in pairs:
    torch.testing.assert_close(mine.cpu(), other, rtol=1e-5, atol=1e-4)
"""
    )


def test_running_variance_is_the_unbiased_one():
    run_on_xla(
        SETUP
        + """
few = x[:2, :, :1, :1]
theirs(few)
with torch.autocast("xla", dtype=torch.bfloat16):
    ours(few.to("xla"))
torch.testing.assert_close(ours.running_var.cpu(), theirs.running_var)
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


def test_nothing_changes_without_autocast_and_on_the_cpu():
    run_on_xla(
        SETUP
        + """
assert ours(x.to("xla").bfloat16().float()).dtype == torch.float32
with torch.autocast("cpu", dtype=torch.bfloat16):
    assert theirs(x).dtype == torch.float32
"""
    )


def test_a_norm_without_weights_and_statistics_works():
    run_on_xla(
        SETUP
        + """
bare = nn.BatchNorm2d(5, affine=False, track_running_stats=False)
with torch.autocast("xla", dtype=torch.bfloat16):
    y = copy.deepcopy(bare).to("xla")(x.to("xla").requires_grad_())
y.sum().backward()
torch.testing.assert_close(y.cpu(), bare(x), rtol=1e-5, atol=1e-4)
"""
    )
