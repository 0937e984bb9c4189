import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch.optim.swa_utils import AveragedModel

from lightning_melanoma.tasks.class_prior import ClassPrior


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.995, 0.997, 0.9999])
def test_an_average_of_equal_counts_is_the_counts(decay):
    prior = ClassPrior()
    # As Lightning's callback makes it.
    settings = EMAWeightAveraging(decay=decay)._kwargs
    averages = AveragedModel(prior, use_buffers=True, **settings)
    prior.set((32542, 581), (0.5, 28.0), shown=(32542, 681))
    averages.update_parameters(prior)
    for _ in range(1500):
        averages.update_parameters(prior)
    assert averages.module.prevalence == 581 / 33123
    assert averages.module.shown_prevalence == 681 / 33223


def test_counts_of_an_older_checkpoint_are_taken():
    prior = ClassPrior()
    whole = {"counts": torch.tensor([9, 1]), "shown": torch.tensor([9, 3])}
    prior.load_state_dict({**whole, "weights": torch.ones(2)})
    assert prior.prevalence == 0.1
    assert prior.shown_prevalence == 0.25
