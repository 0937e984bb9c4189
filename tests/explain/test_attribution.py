import importlib.util

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.synthetic import synthesize
from lightning_melanoma.explain.attribution import (
    bare_skin,
    check_settings,
    grad_cam,
    heat_maps,
    integrated_gradients,
    occlusion,
)
from lightning_melanoma.explain.layers import default_layer, feature_layers
from lightning_melanoma.tasks.finetune import FinetuneClassifier
from lightning_melanoma.tasks.scratch import ScratchClassifier

METHODS = ["grad_cam", "integrated_gradients", "occlusion"]


@pytest.fixture
def task():
    torch.manual_seed(0)
    task = ScratchClassifier(conv_channels=[8, 16], deconv_channels=[8])
    # As after some training; the head starts with next to nothing.
    nn.init.normal_(task.network.head.weight)
    return task.eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((3, 3, 4, 4), generator=generator)
    return nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["scratch", "test_resnet", "test_efficientnet"])
def test_any_network_has_a_heat_map_for_each_image(images, network, method):
    task = ScratchClassifier([8, 16], [8]) if network == "scratch" else None
    task = task or FinetuneClassifier(network, weights="none")
    nn.init.normal_(task.network.head.weight)
    heat = heat_maps(task, images[:2], method=method)
    assert heat.shape == (2, 32, 32)
    assert heat.dtype == torch.float32
    assert not heat.requires_grad
    assert heat.abs().amax((1, 2)).min() > 0
    assert task.training


@pytest.mark.parametrize("layer", [None, "features.0", "features.2"])
def test_grad_cam_is_the_sum_of_maps_by_their_mean_gradients(task, images, layer):
    name = layer or "features.1.2"
    kept = []
    hook = task.network.get_submodule(name).register_forward_hook(lambda m, i, o: kept.append(o))
    logits = task(images)
    hook.remove()
    (gradients,) = torch.autograd.grad(logits.sum(), kept[0])
    maps = (gradients.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)
    expected = nn.functional.interpolate(maps, (32, 32), mode="bilinear").squeeze(1)
    # Sums of float32 in another order.
    torch.testing.assert_close(grad_cam(task, images, layer=layer), expected, rtol=1e-4, atol=1e-7)


def test_integrated_gradients_sum_to_the_difference_to_bare_skin(task, images):
    heat = integrated_gradients(task, images)
    skin = bare_skin(images).expand_as(images)
    difference = (task(images) - task(skin)).detach()
    # The gradient is constant by pieces along the path; 50 points meet them by a tenth.
    assert (heat.sum((1, 2)) - difference).abs().max() < 0.1 * difference.abs().max()


def test_occlusion_is_the_mean_fall_of_the_logit_over_the_squares_of_a_pixel(task, images):
    skin = bare_skin(images)
    falls, counts = torch.zeros(3, 32, 32), torch.zeros(32, 32)
    with torch.no_grad():
        logits = task(images)
        for top in range(0, 25, 2):
            for left in range(0, 25, 2):
                hidden = images.clone()
                hidden[:, :, top : top + 8, left : left + 8] = skin
                falls[:, top : top + 8, left : left + 8] += (logits - task(hidden))[:, None, None]
                counts[top : top + 8, left : left + 8] += 1
    torch.testing.assert_close(occlusion(task, images), falls / counts, rtol=1e-3, atol=1e-5)


def test_bare_skin_is_the_color_around_the_lesion():
    images = torch.full((2, 3, 64, 64), 0.8)
    images[1] = 0.6
    images[:, :, 8:60, 6:58] = 0.1
    # The lens darkens corners.
    images[:, :, :4, :20] = 0.0
    torch.testing.assert_close(bare_skin(images)[:, 0, 0, 0], torch.tensor([0.8, 0.6]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "features.3.2"),
        ({"depth": 3}, "features.3.5"),
        ({"depth": 1}, "features.2"),
        ({"conv_channels": [8]}, "features.0"),
    ],
)
def test_scratch_network_is_explained_ahead_of_its_last_pooling(images, settings, expected):
    task = ScratchClassifier(**settings).eval()
    found = default_layer(task, images)
    assert found == expected
    assert isinstance(task.network.get_submodule(found), (nn.ReLU, nn.Sequential))
    assert found in feature_layers(task, torch.rand(1, 3, 64, 64))


def test_backbone_is_explained_at_the_maps_that_it_pools(images):
    task = FinetuneClassifier("test_efficientnet", weights="none").eval()
    wide = nn.functional.interpolate(images, (96, 96))
    name = default_layer(task, wide)
    maps = []
    task.network.get_submodule(name).register_forward_hook(lambda m, i, o: maps.append(o))
    with torch.no_grad():
        features = task.network.backbone((wide - 0.5) / 0.5)
    torch.testing.assert_close(maps[0].mean((2, 3)), features)


def test_layer_that_does_not_exist_is_answered_by_the_list(task, images):
    message = (
        r"layer: expected one that gives feature maps, found 'features.9'; there are features.0, "
        r"features.1, features.2, features, and those within them$"
    )
    with pytest.raises(ValueError, match=message):
        heat_maps(task, images, layer="features.9")
    with pytest.raises(ValueError, match=r"found 'head'; there are features\.0"):
        check_settings(task, image_size=32, method="grad_cam", layer="head")
    check_settings(task, image_size=32, method="grad_cam", layer="features.1.0")


def test_network_of_tokens_is_explained_by_the_other_methods():
    task = FinetuneClassifier("test_vit", weights="none")
    nn.init.normal_(task.network.head.weight)
    images = torch.rand(1, 3, 160, 160)
    with pytest.raises(
        ValueError, match=r"found \(1, \d+, 64\) in .*norm; explain it by occlusion"
    ):
        heat_maps(task, images)
    assert heat_maps(task, images, method="occlusion").abs().max() > 0


def test_wrong_settings_are_named(task, images, monkeypatch):
    with pytest.raises(ValueError, match="expected one of grad_cam, integrated_gradients, occ"):
        heat_maps(task, images, method="lime")
    with pytest.raises(ValueError, match="layer: expected none with occlusion"):
        heat_maps(task, images, method="occlusion", layer="features.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'lightning_melanoma\[explain\]'"):
        heat_maps(task, images)


def share_within(heat, masks):
    """Return the part of each heat map's positive mass that lies within its mask; NaN of none."""
    mass = heat.clamp_min(0)
    return (mass * masks).sum((1, 2)) / mass.sum((1, 2))


@pytest.mark.slow
def test_grad_cam_of_a_trained_model_lies_on_the_lesion(tmp_path):
    folder = tmp_path / "demo"
    synthesize(folder, masks=True)
    pl.seed_everything(0, verbose=False)
    data = MelanomaDataModule(train=str(folder), split="shards", num_folds=4)
    trained = ScratchClassifier()
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(trained, datamodule=data)
    table = data.table("val")
    rows = table.index[table["target"] == 1][:50]
    names = table["image_name"][rows]
    assert len(names) == 50
    images = torch.from_numpy(data.images("val", rows)).movedim(-1, 1).float() / 255
    paths = [folder / "masks" / f"{name}_segmentation.png" for name in names]
    masks = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])) > 0
    # Where nothing speaks for melanoma, nothing on the lesion does.
    found = share_within(heat_maps(trained, images), masks).nan_to_num(0).mean()
    random = share_within(heat_maps(ScratchClassifier(), images), masks).nanmean()
    assert found > 2 * masks.float().mean()
    assert found > 1.5 * random
