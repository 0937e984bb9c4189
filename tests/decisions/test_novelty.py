import numpy as np
import pytest

from lightning_melanoma.decisions.novelty import FALSE_ALARMS, NoveltyGate, fit_gate


def lesions(generator, num_images, num_features=24):
    """Return skewed embeddings, most of whose variance is in a few directions, in two parts."""
    hidden = generator.exponential(size=(num_images, 6))
    mixing = np.random.default_rng(0).normal(size=(6, num_features))
    noise = 0.3 * generator.normal(size=(num_images, num_features))
    return [np.maximum(hidden @ mixing + noise, 0), generator.normal(size=(num_images, 3))]


def moved(parts, by, part=0):
    return [values + by if place == part else values for place, values in enumerate(parts)]


@pytest.mark.parametrize("weights", [None, (0.1, 0.9)])
def test_false_alarms_are_as_many_as_asked(weights):
    generator = np.random.default_rng(1)
    num_draws = 25
    shares = []
    for _ in range(num_draws):
        gate = fit_gate(lesions(generator, 300), np.arange(300), weights=weights)
        shares.append((gate.rarity(lesions(generator, 300)) <= FALSE_ALARMS).mean())
    error = np.std(shares) / np.sqrt(num_draws)
    # The gate's own Gaussians are of more images than those behind its distances, so rather fewer.
    assert FALSE_ALARMS / 2 < np.mean(shares) < FALSE_ALARMS + 3 * error


def test_what_lies_elsewhere_in_any_part_is_rare():
    generator = np.random.default_rng(2)
    gate = fit_gate(lesions(generator, 400), np.arange(400))
    others = lesions(generator, 50)
    for part, by in ((0, 5), (0, -5), (1, 6)):
        assert (gate.rarity(moved(others, by, part)) <= FALSE_ALARMS).all()
    # Nothing in the directions of most variance, little in one that lesions never take.
    direction = np.linalg.svd(lesions(generator, 400)[0])[2][-1]
    usual = [values.mean(axis=0, keepdims=True) for values in others]
    assert gate.rarity(moved(usual, 5 * direction)) <= FALSE_ALARMS
    assert gate.rarity(usual) > 0.5


def test_parts_raise_false_alarms_by_their_weights():
    generator = np.random.default_rng(8)
    parts = [generator.normal(size=(4000, 3)) for _ in range(2)]
    gate = fit_gate(parts, np.arange(4000), weights=(1, 3))
    usual = [values[np.argsort(gate.distances[:, part])[:1]] for part, values in enumerate(parts)]
    for part, expected in ((0, 0.25), (1, 0.75)):
        alone = [np.repeat(values, 4000, axis=0) for values in usual]
        alone[part] = parts[part]
        raised = (gate.rarity(alone) <= FALSE_ALARMS).mean()
        assert raised == pytest.approx(expected * FALSE_ALARMS, rel=0.15)


def test_distances_are_mahalanobis_of_the_whole_covariance():
    generator = np.random.default_rng(3)
    # Of three features two are components and the third is the rest: nothing is approximated.
    values = generator.normal(size=(400, 3)) @ generator.normal(size=(3, 3))
    gate = fit_gate([values], np.arange(400))
    new = generator.normal(size=(20, 3))
    away = new - values.mean(axis=0)
    expected = np.einsum("ij,jk,ik->i", away, np.linalg.inv(np.cov(values.T, bias=True)), away)
    # Components and deviations are kept as float32.
    assert gate.gaussians[0].distances(new) == pytest.approx(expected, rel=1e-4)
    known = gate.distances[:, 0]
    assert gate.rarity([new]) == pytest.approx(
        [((known >= distance).sum() + 1) / 401 for distance in expected], abs=1 / 401
    )


def test_images_of_a_patient_are_never_on_both_sides():
    generator = np.random.default_rng(4)
    # Every patient's ten images are the same: known by nine of them, each would be at no distance.
    patients = np.repeat(np.arange(40), 10)
    parts = [values[patients] for values in lesions(generator, 40)]
    apart = fit_gate(parts, patients).distances
    together = fit_gate(parts, np.arange(400)).distances
    assert np.median(apart[:, 0]) > 2 * np.median(together[:, 0])


def test_a_gate_is_small_and_comes_back_from_its_entry():
    generator = np.random.default_rng(5)
    gate = fit_gate(lesions(generator, 300, num_features=256), np.arange(300), weights=(0.1, 0.9))
    entry = gate.to_entry()
    again = NoveltyGate.from_entry(entry)
    new = lesions(generator, 9, num_features=256)
    assert np.array_equal(gate.rarity(new), again.rarity(new))
    arrays = [
        entry["distances"],
        entry["weights"],
        *(array for part in entry["gaussians"] for array in part.values()),
    ]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    assert sum(array.nbytes for array in arrays) < 50_000


def test_features_that_never_move_are_no_obstacle():
    parts = lesions(np.random.default_rng(6), 100)
    parts[0][:, 5:] = 1.0
    gate = fit_gate(parts, np.arange(100))
    assert np.isfinite(gate.distances).all()
    assert (gate.rarity(parts) > FALSE_ALARMS).mean() > 0.9


def test_an_embedding_that_is_no_number_is_the_rarest():
    gate = fit_gate(lesions(np.random.default_rng(7), 100), np.arange(100))
    broken = [np.full((1, 24), np.nan), np.zeros((1, 3))]
    assert gate.rarity(broken) < 3 / 101


@pytest.mark.parametrize(
    ("values", "patients", "message"),
    [
        (np.ones((39, 4)), np.arange(39), "expected at least 40 images of 5 patients"),
        (np.ones((50, 4)), np.arange(50) % 4, "found 50 of 4"),
        (np.ones((0, 4)), np.arange(0), "found 0 of 0"),
        (np.full((50, 4), np.inf), np.arange(50), "expected finite embeddings"),
    ],
)
def test_what_no_gate_can_be_made_of_raises(values, patients, message):
    with pytest.raises(ValueError, match=message):
        fit_gate([values], patients)
