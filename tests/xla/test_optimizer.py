import pytest
from xla_processes import needs_torch_xla, run_on_xla

pytestmark = [needs_torch_xla, pytest.mark.slow]

SETUP = """
import io
import torch
import torch_xla
import torch_xla.debug.metrics as met
from torch import nn
from lightning_melanoma.xla.optimizer import clip_gradients, use_lean_adamw


def build(device, lean, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)).to(device)
    decayed, others = [model[0].weight, model[2].weight], [model[0].bias, model[2].bias]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, **kwargs)
    rise_and_fall = lambda k: min(1, (k + 1) / 10) * (1 - k / 80)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rise_and_fall)
    if lean:
        use_lean_adamw(optimizer)
    return model, optimizer, schedule


def train(device, model, optimizer, schedule, first, last):
    counts = []
    clip = clip_gradients if device == "xla" else nn.utils.clip_grad_norm_
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(32, 8, generator=generator).to(device)
        y = torch.randn(32, 1, generator=generator).to(device)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        clip(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        if device == "xla":
            torch_xla.sync()
            counts.append(met.metric_data("CompileTime")[0])
    return counts


def assert_same(ours, theirs):
    # Steps of 1e-2 rounded to float32 in another order, 40 times: 1e-6 is 1e-4 of one step.
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine.cpu(), other, rtol=0, atol=1e-6)
"""


@pytest.mark.parametrize("kwargs", ["", "amsgrad=True", "maximize=True, betas=(0.8, 0.95)"])
def test_numbers_are_torchs_under_a_schedule_and_clipping(kwargs):
    run_on_xla(
        SETUP
        + f"""
theirs, ours = build("cpu", False, {kwargs}), build("xla", True, {kwargs})
train("cpu", *theirs, 0, 40)
train("xla", *ours, 0, 40)
assert_same(ours[0], theirs[0])
"""
    )


def test_changing_rates_compile_two_programs_in_all():
    run_on_xla(
        SETUP
        + """
counts = train("xla", *build("xla", True), 0, 30)
assert counts[-1] - counts[0] == 1, counts
"""
    )


def test_sgd_whose_state_was_made_has_torchs_numbers():
    run_on_xla(
        SETUP
        + """
from lightning_melanoma.xla.optimizer import make_state

models = []
for device in ("cpu", "xla"):
    model, *_ = build(device, False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    if device == "xla":
        make_state(optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 80)
    counts = train(device, model, optimizer, schedule, 0, 40)
    models.append(model)
assert counts[-1] == counts[0], counts
assert_same(models[1], models[0])
"""
    )


def test_clipping_has_torchs_numbers():
    # Sums of squares in another order.
    run_on_xla(
        SETUP
        + """
for limit in (0.1, 1e3):
    theirs = [nn.Parameter(torch.zeros(50, 7)), nn.Parameter(torch.zeros(9))]
    ours = [nn.Parameter(p.detach().to("xla")) for p in theirs] + [nn.Parameter(torch.zeros(1))]
    for one, two in zip(ours, theirs):
        two.grad = torch.randn_like(two)
        one.grad = two.grad.to("xla")
    norm = nn.utils.clip_grad_norm_(theirs, limit)
    torch.testing.assert_close(clip_gradients(ours, limit).cpu(), norm, rtol=1e-6, atol=0)
    for one, two in zip(ours, theirs):
        torch.testing.assert_close(one.grad.cpu(), two.grad, rtol=1e-6, atol=0)
assert clip_gradients([nn.Parameter(torch.zeros(1))], 1.0) == 0
"""
    )


@pytest.mark.parametrize("to_xla", [True, False])
def test_a_checkpoint_goes_on_in_the_other_optimizer(to_xla):
    run_on_xla(
        SETUP
        + f"""
devices = ("cpu", "xla") if {to_xla} else ("xla", "cpu")
whole = build("cpu", False)
train("cpu", *whole, 0, 40)
model, optimizer, schedule = build(devices[0], devices[0] == "xla")
train(devices[0], model, optimizer, schedule, 0, 20)
states = [part.state_dict() for part in (model, optimizer, schedule)]
names = {{name for state in states[1]["state"].values() for name in state}}
assert names == {{"step", "exp_avg", "exp_avg_sq"}}, names
file = io.BytesIO()
torch.save(torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.cpu(), states), file)
file.seek(0)
states = torch.load(file, weights_only=True)
parts = build(devices[1], devices[1] == "xla")
for part, state in zip(parts, states):
    part.load_state_dict(state)
train(devices[1], *parts, 20, 40)
for mine, other in zip(parts[0].parameters(), whole[0].parameters()):
    torch.testing.assert_close(mine.cpu(), other, rtol=0, atol=1e-6)
"""
    )


def test_hooks_run_and_the_schedule_does_not_complain():
    run_on_xla(
        SETUP
        + """
import warnings
warnings.simplefilter("error")
parts = build("xla", True)
seen = []
parts[1].register_step_post_hook(lambda *_: seen.append(1))
train("xla", *parts, 0, 2)
assert seen == [1, 1]
"""
    )
