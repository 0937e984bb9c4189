from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from lightning_melanoma.explain.overlay import explanation_figure, free_path, write_explanations
from lightning_melanoma.tasks.scratch import ScratchClassifier


@pytest.fixture
def task():
    torch.manual_seed(0)
    task = ScratchClassifier(conv_channels=[8, 16], deconv_channels=[])
    nn.init.normal_(task.network.head.weight)
    return task.eval()


def write(tasks, names, out_dir, **settings):
    images = torch.rand(len(names), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    chances = np.linspace(0.01, 0.99, len(names))
    views = [(task, images) for task in tasks]
    return write_explanations(
        views, names=names, probabilities=chances, out_dir=out_dir, **settings
    )


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients", "occlusion"])
def test_each_image_has_a_picture_named_as_itself(task, tmp_path, method):
    names = ["a/lesion 1.JPG", "b/lesion 1.png", "../../etc/passwd", "..", "日本/läsion.jpeg", ""]
    paths = write([task], names, tmp_path / "out", method=method)
    expected = ["lesion_1", "lesion_1_2", "passwd", "image", "läsion", "image_2"]
    assert [path.name for path in paths] == [f"{stem}.png" for stem in expected]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in paths}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width > 900


def test_nothing_is_overwritten(task, tmp_path):
    (tmp_path / "lesion.png").write_text("mine")
    assert write([task], ["lesion.jpg"], tmp_path) == [tmp_path / "lesion_2.png"]
    assert (tmp_path / "lesion.png").read_text() == "mine"


@given(name=st.text(st.characters(exclude_categories=[])))
def test_any_name_becomes_a_file_of_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    path = free_path(folder, name)
    assert path.parent == folder
    assert path.suffix == ".png"
    assert not path.name.startswith(".")
    # What a temporary name and a number add still fits.
    assert len(path.name.encode()) <= 220


def test_several_models_are_averaged(task, tmp_path):
    torch.manual_seed(1)
    other = ScratchClassifier(conv_channels=[8], deconv_channels=[])
    nn.init.normal_(other.network.head.weight)
    written = [
        write(tasks, ["a.jpg"], tmp_path / str(number))[0].read_bytes()
        for number, tasks in enumerate([[task], [task, task], [task, other]])
    ]
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_models_of_two_image_sizes_share_a_picture(task, tmp_path):
    images = [torch.rand(1, 3, size, size) for size in (32, 64)]
    settings = {"names": ["a"], "probabilities": [0.5], "out_dir": tmp_path}
    (path,) = write_explanations([(task, seen) for seen in images], **settings)
    (alone,) = write_explanations([(task, images[1])], **settings)
    with Image.open(path) as one, Image.open(alone) as other:
        # The left half is the image itself, the larger one.
        area = (0, 100, 440, 520)
        assert one.crop(area).tobytes() == other.crop(area).tobytes()


def test_bytes_and_floats_give_the_same_picture(task, tmp_path):
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    settings = {"names": ["a.jpg"], "probabilities": [0.5], "out_dir": tmp_path}
    one, other = (write_explanations([(task, i)], **settings)[0] for i in (pixels, pixels / 255))
    assert one.read_bytes() == other.read_bytes()


def test_wrong_layer_leaves_no_file(task, tmp_path):
    with pytest.raises(ValueError, match="layer: expected one that gives feature maps"):
        write([task], ["a.jpg"], tmp_path / "out", layer="none")
    assert not (tmp_path / "out").exists()


def colors_over_grey(figure):
    """Return what the picture of the heat map adds to red and takes from blue, (H, W)."""
    picture = np.asarray(figure.axes[1].images[0].get_array())
    return picture[..., 0] - picture[..., 2]


def test_what_speaks_for_melanoma_is_red_and_against_blue():
    image = np.full((8, 8, 3), 0.5, np.float32)
    heat = np.zeros((8, 8), np.float32)
    heat[0, 0], heat[7, 7] = 1, -0.25
    figure = explanation_figure(image, heat, name="a", probability=0.3, method="occlusion")
    found = colors_over_grey(figure)
    assert found[0, 0] > 0.5
    # A quarter as strong.
    assert -0.2 < found[7, 7] < -0.05
    found[0, 0] = found[7, 7] = 0
    assert np.abs(found).max() < 1e-6
    texts = [text.get_text() for text in figure.texts]
    assert texts[:2] == ["Probability of melanoma: 30.0 %", "a"]


def test_grad_cam_is_drawn_where_it_speaks_for_melanoma():
    image, heat = np.full((8, 8, 3), 0.5, np.float32), np.full((8, 8), -1, np.float32)
    heat[0, 0] = 0.5
    figure = explanation_figure(image, heat, name="a", probability=0.3, method="grad_cam")
    found = colors_over_grey(figure)
    assert found[0, 0] > 0.2
    found[0, 0] = 0
    assert np.abs(found).max() < 1e-6


@pytest.mark.parametrize("name", ["日本\n.jpg", "\udcff", "$x$", "d/" * 100 + "end.jpg"])
def test_empty_heat_map_and_odd_names_are_drawn(tmp_path, name):
    image, heat = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32)
    figure = explanation_figure(image, heat, name=name, probability=0.0, method="occlusion")
    assert np.abs(colors_over_grey(figure)).max() < 1e-6
    figure.savefig(Path(tmp_path / "a.png"))
    assert "\n" not in figure.texts[1].get_text()
    width = figure.texts[1].get_window_extent().x1
    assert width < figure.bbox.x1
