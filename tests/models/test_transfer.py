import runpy
import sys

import huggingface_hub.constants
import pytest
import torch
from torch import Tensor, nn

from lightning_melanoma.models import transfer
from lightning_melanoma.models.backbones import create_backbone
from lightning_melanoma.models.transfer import TransferNet

# A small network with batch norms, in place of Xception where the kind does not matter.
SMALL = "lcnet_035"


def build(backbone: str = SMALL, **settings: object) -> TransferNet:
    torch.manual_seed(0)
    return TransferNet(backbone, "none", **settings)


def images(count: int = 4, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {k for k, tensor in module.state_dict().items() if not torch.equal(tensor, before[k])}


def train_one_step(network: TransferNet) -> None:
    groups = network.parameter_groups(0.1, layer_decay=0.9, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    network.train()
    network(images()).square().sum().backward()
    optimizer.step()


# Convolutional with batch norm, with a layer after the pooling, with layer norm.
@pytest.mark.parametrize("backbone", ["legacy_xception", SMALL, "convnext_atto"])
def test_any_backbone_gives_one_logit_an_image_and_a_gradient_to_every_parameter(backbone):
    network = build(backbone)
    logits = network(images(size=71))
    assert logits.shape == (4,)
    logits.sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_default_backbone_is_xception_with_its_own_normalisation():
    network = TransferNet(weights="none")
    assert type(network.backbone).__name__ == "Xception"
    assert network.mean == network.std == (0.5, 0.5, 0.5)
    assert build("resnet18").mean == (0.485, 0.456, 0.406)


def test_the_same_seed_gives_the_same_logits():
    assert torch.equal(build()(images()), build()(images()))


def test_the_logit_of_an_image_does_not_depend_on_its_batch_mates_in_evaluation():
    network = build().eval()
    # Convolutions of other batch sizes sum in another order.
    torch.testing.assert_close(network(images())[:1], network(images()[:1]), rtol=1e-5, atol=1e-6)


def test_head_of_the_embedding_is_the_forward_pass():
    network = build().eval()
    assert network.head.out_features == 1
    assert torch.equal(network.head(network.embed(images())).squeeze(1), network(images()))


def test_no_shape_and_no_branch_depends_on_values():
    # Tensors on this device have shapes and no values: reading one raises.
    assert build("legacy_xception").to("meta")(images().to("meta")).shape == (4,)


def test_frozen_backbone_keeps_parameters_and_statistics_while_the_head_learns():
    network = build()
    network.freeze_backbone()
    before = snapshot(network)
    train_one_step(network)
    assert changed(network, before) == {"head.weight", "head.bias"}


def test_unfrozen_backbone_learns_again_and_updates_its_statistics():
    network = build()
    network.freeze_backbone()
    network.unfreeze_backbone()
    before = snapshot(network)
    train_one_step(network)
    assert changed(network, before) == before.keys()


def test_frozen_batch_norm_keeps_its_statistics_while_its_weights_learn():
    network = build(freeze_batch_norm=True)
    before = snapshot(network)
    train_one_step(network)
    buffers = {name for name, _ in network.named_buffers()}
    learned = changed(network, before)
    assert learned.isdisjoint(buffers)
    assert {"backbone.conv_stem.weight", "head.weight"} <= learned
    assert any("bn" in name for name in learned)


def test_freezing_in_evaluation_mode_leaves_the_network_there():
    network = build().eval()
    network.freeze_backbone()
    network.unfreeze_backbone()
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize(
    "backbone", ["legacy_xception", SMALL, "vit_tiny_patch16_224", "pit_ti_224"]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_parameter_groups_hold_every_parameter_once(backbone, frozen):
    network = build(backbone)
    if frozen:
        network.freeze_backbone()
    groups = network.parameter_groups(1e-3, layer_decay=0.8, weight_decay=0.05)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, network.parameters()))
    assert len({group["name"] for group in groups}) == len(groups)


def test_rates_rise_by_one_factor_a_layer_from_the_stem_to_the_head():
    network = build("legacy_xception")
    rates = {
        group["name"].removesuffix("_no_decay"): group["lr"]
        for group in network.parameter_groups(1e-3, layer_decay=0.5, weight_decay=0.0)
    }
    # Xception: stem, blocks 1 to 12, exit flow.
    names = [f"backbone_{layer:02d}" for layer in range(14)]
    assert list(rates) == [*names, "head"]
    assert list(rates.values()) == pytest.approx([1e-3 * 0.5**k for k in range(14, -1, -1)])


def test_biases_norms_and_what_timm_exempts_have_no_weight_decay():
    network = build("vit_tiny_patch16_224")
    groups = network.parameter_groups(1e-3, layer_decay=0.8, weight_decay=0.05)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in decayed}
    assert {"head.weight", "backbone.blocks.0.attn.qkv.weight"} <= names
    assert not [n for n in names if n.endswith("bias") or "norm" in n]
    assert names.isdisjoint({"backbone.pos_embed", "backbone.cls_token"})
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}


@pytest.mark.parametrize("layer_decay", [0.0, 1.5])
def test_layer_decay_out_of_range_is_refused(layer_decay):
    with pytest.raises(ValueError, match=f"a factor in \\(0, 1\\], found {layer_decay}"):
        build().parameter_groups(1e-3, layer_decay=layer_decay, weight_decay=0.0)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("xception", "legacy_xception"),
        ("resnet_18", "resnet18"),
        ("resnet18.imagenet", "resnet18.a1_in1k"),
        ("qqqq", "see timm.list_models"),
    ],
)
def test_unknown_backbone_is_told_with_the_nearest_names(name, nearest):
    with pytest.raises(ValueError, match=f"backbone: expected .*, found '{name}'; .*{nearest}"):
        create_backbone(name, "none")


def test_backbone_without_published_weights_is_told():
    with pytest.raises(ValueError, match=r"weights imagenet: timm has none for lcnet_035; .*none"):
        create_backbone("lcnet_035", "imagenet")


def test_images_of_another_size_than_a_transformer_takes_are_refused():
    with pytest.raises(ValueError, match=r"expected \(224, 224\) pixels, .* found \(64, 64\)"):
        build("vit_tiny_patch16_224")(images())


# One from a plain URL, one from the hub.
@pytest.mark.parametrize("backbone", ["legacy_xception", "resnet18"])
def test_imagenet_weights_out_of_reach_say_how_to_give_a_file(backbone, monkeypatch, tmp_path):
    # A port where nobody listens stands for a machine without internet.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="could not download") as caught:
        create_backbone(backbone, "imagenet")
    assert f"those of {backbone}" in str(caught.value)
    assert "give --model.weights /path/to/file.pth (or .safetensors), or 'none'" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_the_module_does_not_import_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "TransferNet" in runpy.run_path(transfer.__file__)
