import pytest
import torch

from lightning_melanoma.tasks.optimizers import rate_factor, scheduled_optimizer


def factors(schedule, total=100, warmup=10):
    return [
        rate_factor(step, total=total, warmup=warmup, schedule=schedule) for step in range(total)
    ]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "step"])
def test_the_rate_rises_linearly_in_the_warm_up(schedule):
    assert factors(schedule)[:10] == pytest.approx([0.1 * n for n in range(1, 11)])


def test_cosine_falls_to_zero():
    falling = factors("cosine")[10:]
    assert falling == sorted(falling, reverse=True)
    assert falling[45] == pytest.approx(0.5)
    assert falling[-1] < 0.001
    assert rate_factor(100, total=100, warmup=10, schedule="cosine") == 0


def test_constant_stays_and_step_falls_by_ten_twice():
    assert set(factors("constant")[10:]) == {1}
    steps = factors("step")[10:]
    assert [round(steps[n], 12) for n in (0, 29, 31, 59, 61, 89)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("num_steps", [60, 200])
def test_the_warm_up_is_in_epochs_however_long_the_training_is(num_steps):
    groups = [{"params": [torch.zeros(1, requires_grad=True)]}]
    chosen = scheduled_optimizer(
        groups, optimizer="sgd", learning_rate=1.0, schedule="cosine", warmup_epochs=0.5,
        num_steps=num_steps, steps_per_epoch=20,
    )  # fmt: skip
    rates = []
    for _ in range(num_steps):
        rates.append(chosen["optimizer"].param_groups[0]["lr"])
        chosen["optimizer"].step()
        chosen["lr_scheduler"]["scheduler"].step()
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
