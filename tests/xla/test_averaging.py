import pytest
from xla_processes import needs_torch_xla, run_on_xla

pytestmark = [needs_torch_xla, pytest.mark.slow]


def test_exponential_averages_have_torchs_numbers():
    run_on_xla("""
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from lightning_melanoma.xla.averaging import use_lean_lerp

use_lean_lerp()
use_lean_lerp()


def averages(device):
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    average.n_averaged = average.n_averaged.cpu()
    for step in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draws))
            model[1].num_batches_tracked.fill_(step)
        average.update_parameters(model)
    return average.module.state_dict()


for ours, theirs in zip(averages("xla").values(), averages("cpu").values(), strict=True):
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-6, atol=1e-7)
""")
