"""Undo, in closed form, what class weights and oversampling do to a probability.

A weighted cross-entropy is minimised by the posterior of a population in which each class is as
many times more frequent as its weight says: its logit is the true one plus log(w1 / w0) (Elkan,
"The foundations of cost-sensitive learning", IJCAI 2001, theorem 2). Subtracting that shift keeps
the order of all images. It is exact for weighted cross-entropy only: not for focal loss, label
smoothing or mixup. Oversampling by a share of melanomas that is not that of the population adds the
difference of the two log-odds in the same way (Elkan, likewise).
"""

import math


def prior_shift(class_weights: tuple[float, float]) -> float:
    """Return what to subtract from a logit of a model that was trained with these class weights."""
    benign, melanoma = class_weights
    return math.log(melanoma / benign)


def sampling_shift(shown: tuple[int, int], population: tuple[int, int]) -> float:
    """Return what to subtract from a logit of a model that was shown other shares of the classes.

    Args:
        shown: images of benign and melanoma in an epoch.
        population: records of each.
    """
    return math.log(shown[1] / shown[0]) - math.log(population[1] / population[0])
