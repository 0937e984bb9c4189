import pytest

from lightning_melanoma.tasks.optimizers import rate_factor


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
