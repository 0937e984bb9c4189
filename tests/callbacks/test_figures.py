import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lightning_melanoma.callbacks.curves import METRIC_NAMES, curves_figure
from lightning_melanoma.callbacks.figures import (
    precision_recall_figure,
    probabilities_figure,
    roc_figure,
)
from lightning_melanoma.callbacks.pictures import (
    augmentations_figure,
    confident_mistakes,
    mistakes_figure,
)
from lightning_melanoma.callbacks.style import percent, save_figure
from lightning_melanoma.tasks.outputs import METRICS


def texts(figure):
    """All that a figure says, once it has been drawn as a file would be."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def says(figure, words):
    return any(words in text for text in texts(figure))


def history_of(num_epochs, **changes):
    keys = [f"{split}_{metric}" for split in ("train", "val") for metric in METRIC_NAMES]
    return [
        {"epoch": epoch, "lr": 1e-3, **dict.fromkeys(keys, 0.5 + 0.01 * epoch), **changes}
        for epoch in range(num_epochs)
    ]


def rows(num_rows=200, seed=0):
    generator = np.random.default_rng(seed)
    targets = (np.arange(num_rows) % 10 == 0).astype(np.float32)
    return targets, generator.normal(targets - 2).astype(np.float32)


def test_curves_say_the_best_epoch_and_the_overfitting():
    figure = curves_figure(history_of(9), 8, 7)
    assert says(figure, "Validation AUROC 0.580, best at epoch 8")
    assert says(figure, "validation log loss rising since epoch 7")
    # One panel a metric and one for the learning rate.
    assert len(figure.axes) == len(METRIC_NAMES) + 1


def test_curves_take_the_whole_row_of_an_epoch_that_was_broken_off_once():
    whole = history_of(3)
    partly = {key: value for key, value in whole[2].items() if not key.startswith("val_")}
    assert says(curves_figure([*whole[:2], partly, whole[2]], 2, None), "best at epoch 2")


@pytest.mark.parametrize(
    ("monitor", "subject"),
    [
        ("val_log_loss", "Validation log loss"),
        ("train_loss", "Training loss"),
        ("val_average_precision", "Validation average precision"),
        ("train_auroc", "Training AUROC"),
    ],
)
def test_curves_name_the_metric_of_the_best_epoch(monitor, subject):
    figure = curves_figure(history_of(5, **{monitor: 0.25}), 3, None, monitor=monitor)
    assert says(figure, f"{subject} 0.250, best at epoch 3")
    assert says(
        curves_figure(history_of(2), None, None, monitor=monitor), f"{subject} is undefined"
    )


def test_curves_have_a_name_for_every_metric():
    assert tuple(METRIC_NAMES) == METRICS


def test_curves_have_a_gap_where_a_value_is_missing():
    history = history_of(5)
    history[2]["val_auroc"] = math.nan
    del history[3]["val_auroc"]
    auroc_axes = curves_figure(history, 4, None).axes[2]
    assert auroc_axes.get_title(loc="left") == "AUROC"
    drawn = auroc_axes.lines[1].get_ydata()
    np.testing.assert_array_equal(np.isnan(drawn), [False, False, True, True, False])


@pytest.mark.parametrize("history", [history_of(1), [{"epoch": 0, "val_loss": 1.0}]])
def test_one_epoch_is_drawn(history):
    assert says(curves_figure(history, None, None), "Validation AUROC is undefined")


def test_roc_says_area_interval_and_counts():
    targets, scores = np.repeat([0, 1], 5), np.r_[1, 2, 3, 4, 8, 5, 6, 7, 9, 10]
    figure = roc_figure(targets, scores, training=rows())
    assert says(figure, "Validation AUROC 0.880")
    assert says(figure, "validation 0.880 (95 % interval 0.")
    assert says(figure, "10 images, 5 melanomas")
    assert says(figure, "200 images, 20 melanomas")


def test_precision_recall_says_area_and_prevalence():
    figure = precision_recall_figure(*rows())
    assert says(figure, "where a guess has 0.100")
    assert says(figure, "a guess: the prevalence")


def test_precision_recall_encloses_average_precision():
    targets, scores = rows()
    line = precision_recall_figure(targets, scores).axes[0].lines[0]
    recall, precision = line.get_xdata(), line.get_ydata()
    area = np.sum(np.diff(recall) * precision[1:])
    title = f"Validation average precision {area:.3f}"
    assert says(precision_recall_figure(targets, scores), title)


@pytest.mark.parametrize("draw", [roc_figure, precision_recall_figure])
def test_one_class_is_said_to_be_undefined(draw):
    zeros = np.zeros(5, np.float32)
    assert says(draw(zeros, zeros), "is undefined")
    assert says(draw(zeros, zeros, training=(zeros, zeros)), "5 images, 0 melanomas")


def test_probabilities_say_both_rates_at_the_threshold():
    targets = np.array([1, 1, 1, 0, 0])
    figure = probabilities_figure(targets, np.array([0, 0.2, 1, 0.1, 0.3]), threshold=0.2)
    assert says(figure, "Sensitivity 0.667, specificity 0.500 from a probability of 20.0 % on")
    assert says(figure, "2 of 3 melanomas at or above the threshold")
    assert says(figure, "1 of 2 benign below the threshold")


def test_probabilities_of_each_class_sum_to_one():
    targets, logits = rows()
    for axes in probabilities_figure(targets, 1 / (1 + np.exp(-logits)), threshold=0.1).axes:
        (bars,) = axes.patches
        assert bars.get_data().values.sum() == pytest.approx(1)


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_equal_probabilities_of_one_class_are_drawn(probability):
    figure = probabilities_figure(np.zeros(4), np.full(4, probability), threshold=0.1)
    assert says(figure, "Sensitivity undefined")


@pytest.mark.parametrize("num_images", [1, 5, 8, 12])
def test_augmentations_show_each_image_twice(num_images):
    before = np.full((num_images, 3, 8, 8), 0.25, np.float32)
    after = np.ones((num_images, 3, 8, 8), np.float32)
    figure = augmentations_figure(before, after)
    assert texts(figure).count("as read") == texts(figure).count("as seen")
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    # Round(0.25 x 255); the gaps between images are white, and so is what was augmented.
    assert sum((picture == 64).all(axis=-1).sum() for picture in pictures) == num_images * 64


def test_mistakes_are_the_most_confident_first():
    targets = np.array([1, 1, 1, 0, 0, 0, 0])
    probabilities = np.array([0.3, 0.1, 0.9, 0.6, 0.2, 0.8, 0.5])
    missed, false_alarms = confident_mistakes(targets, probabilities, threshold=0.5)
    assert missed.tolist() == [1, 0]
    assert false_alarms.tolist() == [5, 3, 6]


def test_mistakes_are_captioned_with_id_and_probability():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    names = ["a$\\b$", "b"]
    figure = mistakes_figure(images, names, targets=[1, 0], probabilities=[0.034, 1.0])
    # Drawing it as a formula would fail.
    assert says(figure, "a$\\b$\n3.4 %")
    assert says(figure, "b\n100.0 %")


def test_no_mistake_is_said():
    nothing = np.empty((0, 8, 8, 3), np.uint8)
    figure = mistakes_figure(nothing, [], targets=[], probabilities=[])
    assert says(figure, "Missed melanomas: none")
    assert says(figure, "False alarms: none")


def test_percentages_are_never_a_false_zero_or_hundred():
    shares = [0, 0.0004, 0.0176, 0.9996, 1]
    assert [*map(percent, shares)] == ["0.0 %", "<0.1 %", "1.8 %", ">99.9 %", "100.0 %"]


def test_saved_figure_is_a_png_of_the_stated_width(tmp_path):
    save_figure(curves_figure(history_of(3), 2, None), tmp_path / "plots" / "curves.png")
    with Image.open(tmp_path / "plots" / "curves.png") as image:
        # 9 inches at 120 dots.
        assert image.width == 1080
    assert len(list((tmp_path / "plots").iterdir())) == 1


def test_figures_import_no_pyplot_and_no_torch():
    code = (
        "import sys, lightning_melanoma.callbacks.curves, lightning_melanoma.callbacks.figures, "
        "lightning_melanoma.callbacks.pictures; "
        "print([name for name in ('matplotlib.pyplot', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
