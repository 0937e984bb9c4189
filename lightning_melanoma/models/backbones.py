"""timm's networks by name: with ImageNet weights from its hub, a file's, or none.

timm is imported where a network is built, not with this module: it takes seconds, which commands
that build none should not pay.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from torch import nn

from lightning_melanoma.models.weights import load_backbone_weights

# Seconds without a byte from the hub after which it counts as out of reach.
_HUB_TIMEOUT = 20.0


def create_backbone(name: str, weights: str) -> nn.Module:
    """Return timm's network of that name, without a classifier: (B, 3, H, W) to (B, F).

    Args:
        name: in timm, with or without the tag of a set of weights.
        weights: `imagenet` downloads what timm holds for the name (or takes it from the cache),
            `none` draws them at random, anything else is the path of a .pth or .safetensors file.

    Raises:
        FileNotFoundError: the download or the file is out of reach.
        ValueError: timm does not know the name or has no weights for it, or the file does not fit.
    """
    import timm

    _check_name(name)
    if weights != "imagenet":
        model: nn.Module = timm.create_model(name, num_classes=0)
        if weights != "none":
            load_backbone_weights(model, weights, backbone=name)
        return model
    source = timm.models.get_pretrained_cfg(name)
    if source is None or not timm.is_model_pretrained(name):
        raise ValueError(
            f"weights imagenet: timm has none for {name}; choose another backbone, or give "
            "--model.weights /path/to/file.pth (or .safetensors), or 'none'"
        )
    try:
        with _impatient(hub=bool(source.hf_hub_id)):
            return timm.create_model(name, pretrained=True, num_classes=0)
    except OSError as error:
        hub_page = f"https://huggingface.co/{source.hf_hub_id}"
        place = hub_page if source.hf_hub_id else source.url
        raise FileNotFoundError(
            f"weights imagenet: could not download those of {name} ({type(error).__name__}); fetch "
            f"{place} where there is internet and give --model.weights /path/to/file.pth (or "
            ".safetensors), or 'none'"
        ) from error


def _check_name(name: str) -> None:
    import timm

    base, _, tag = name.partition(".")
    known = timm.list_models()
    if base in known:
        if not tag or timm.is_model_pretrained(name):
            return
        known = timm.list_pretrained(f"{base}.*")
    # `xception` is not near to `legacy_xception` by letters.
    near = [other for other in known if base in other][:3] + get_close_matches(name, known, n=3)
    hint = f"the nearest are {', '.join(dict.fromkeys(near))}" if near else "see timm.list_models()"
    raise ValueError(
        f"backbone: expected a name that timm {timm.__version__} knows, found {name!r}; {hint}"
    )


@contextmanager
def _impatient(*, hub: bool) -> Iterator[None]:
    """Let a download without internet fail within seconds, or take what is in the cache.

    Plain URLs are opened without any timeout; the client of the hub has one, but asks again and
    again for most of a minute unless it is told that it is offline.
    """
    import socket

    from huggingface_hub import constants, get_session

    before = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    socket.setdefaulttimeout(_HUB_TIMEOUT)
    if hub and not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT)
        # Of requests, httpx or httpx2, by the version of the client.
        except Exception:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        socket.setdefaulttimeout(before[0])
        constants.HF_HUB_OFFLINE = before[1]
