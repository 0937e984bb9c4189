import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_melanoma.tasks.class_prior import ClassPrior


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.995, 0.997, 0.9999])
def test_an_average_of_equal_counts_is_the_counts(decay):
    prior = ClassPrior()
    averages = AveragedModel(prior, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    prior.set((32542, 581), (0.5, 28.0), shown=(32542, 681))
    averages.update_parameters(prior)
    for _ in range(50):
        averages.update_parameters(prior)
    assert averages.module.counts.tolist() == [32542, 581]
    assert averages.module.shown.tolist() == [32542, 681]
    assert averages.module.prevalence == 581 / 33123


def test_counts_of_an_older_checkpoint_are_taken():
    prior = ClassPrior()
    whole = {"counts": torch.tensor([9, 1]), "shown": torch.tensor([9, 3])}
    prior.load_state_dict({**whole, "weights": torch.ones(2)})
    assert prior.prevalence == 0.1
    assert prior.shown_prevalence == 0.25
