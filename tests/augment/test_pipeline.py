import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from xla_processes import needs_torch_xla, run_on_xla

from lightning_melanoma.augment.pipeline import BatchAugment
from lightning_melanoma.data.draws import NUM_DRAWS, record_draws

PIXEL_OPS = (
    *("symmetry", "rotation", "zoom", "shift", "shear", "blur", "noise"),
    *("brightness", "contrast", "saturation", "hue", "hair", "vignette", "cutout", "coarse"),
)
MIXING = ("mixup", "cutmix")
OPS = PIXEL_OPS + MIXING
SIDE = 16


def batch(num: int = 8, *, seed: int = 0, side: int = SIDE):
    """Images, targets, valid rows and draws."""
    images = torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(seed))
    draws = torch.from_numpy(record_draws(seed, 0, np.arange(num, dtype=np.uint64)))
    return images, torch.arange(num) % 2.0, torch.ones(num, dtype=torch.bool), draws


def only(op: str, probability: float = 1.0) -> BatchAugment:
    return BatchAugment("none", {f"{op}_probability": probability})


def everything() -> BatchAugment:
    return BatchAugment(
        "strong", {f"{op}_probability": 0.5 for op in OPS if op not in ("blur", "noise")}
    )


def test_no_augmentation_hands_back_what_it_was_given():
    images, targets, valid, draws = batch()
    found = BatchAugment("none")(images, targets, valid, draws)
    assert found[0] is images
    assert found[1] is targets


@pytest.mark.parametrize("preset", ["none", "light", "strong"])
def test_uint8_images_are_augmented_as_their_float32_twins(preset):
    images, *rest = batch()
    images = (255 * images).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    ours = BatchAugment(preset)(images, *rest)[0]
    torch.manual_seed(0)
    theirs = BatchAugment(preset)(images.float() / 255, *rest)[0]
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()


@pytest.mark.slow
@needs_torch_xla
def test_xla_gives_the_cpus_pixels():
    # Float32 sums of three or four terms below 1, in another order.
    run_on_xla(
        """
import torch
from lightning_melanoma.augment.pipeline import BatchAugment
from lightning_melanoma.data.draws import NUM_DRAWS
generator = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (16, 3, 24, 24), dtype=torch.uint8, generator=generator)
draws = torch.rand(16, NUM_DRAWS, generator=generator)
batch = [images, torch.arange(16) % 2.0, torch.ones(16, dtype=torch.bool), draws]
augment = BatchAugment("light")
theirs = augment(*batch)[0]
ours = augment(*[tensor.to("xla") for tensor in batch])[0]
torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-5)
"""
    )


@pytest.mark.parametrize("op", OPS)
def test_every_op_changes_images_but_not_their_shape_or_range(op):
    images, targets, valid, draws = batch()
    torch.manual_seed(0)
    augmented, soft = only(op)(images, targets, valid, draws)
    assert augmented.shape == images.shape
    assert augmented.dtype == soft.dtype == torch.float32
    assert 0 <= augmented.min() <= augmented.max() <= 1
    assert not torch.equal(augmented, images)
    assert torch.equal(soft, targets) == (op not in MIXING)


@pytest.mark.parametrize("op", OPS)
def test_closed_gate_changes_no_bit(op):
    images, targets, valid, draws = batch()
    # Noise and cutmix read their gates from the other end.
    gate = 0.0 if op in ("noise", "cutmix") else 0.99
    augmented, soft = only(op, 0.5)(images, targets, valid, torch.full_like(draws, gate))
    assert torch.equal(augmented, images)
    assert torch.equal(soft, targets)


@pytest.mark.parametrize("op", OPS)
def test_share_of_changed_images_is_the_probability(op):
    num, probability = 1000, 0.3
    images, targets, valid, draws = batch(num, side=8)
    augmented, _ = only(op, probability)(images, targets, valid, draws)
    share = float((augmented != images).flatten(1).any(1).float().mean())
    # One of the 8 symmetries is the identity. Some hairs pass by the image.
    expected = probability * {"symmetry": 7 / 8, "hair": 0.97, "cutmix": 0.98}.get(op, 1)
    # Three standard errors of a share of 1000 images.
    assert share == pytest.approx(expected, abs=0.045)


@pytest.mark.parametrize("pair", [("blur", "noise"), MIXING])
def test_image_has_at_most_one_of_a_pair(pair):
    images, targets, valid, draws = batch(200)
    one, other = (only(op, 0.5)(images, targets, valid, draws)[0] for op in pair)
    changes = [(augmented != images).flatten(1).any(1) for augmented in (one, other)]
    assert not (changes[0] & changes[1]).any()
    assert (changes[0] | changes[1]).float().mean() > 0.9


def test_draws_decide_everything_but_noise():
    augment = BatchAugment("strong", {"noise_probability": 0.0, "hair_probability": 0.5})
    inputs = batch()
    torch.manual_seed(1)
    first = augment(*inputs)[0]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(augment(*inputs)[0], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(*inputs[:3], batch(seed=1)[3])[0], first)


@pytest.mark.parametrize("preset", ["light", "strong"])
def test_row_does_not_depend_on_the_others(preset):
    augment = BatchAugment(preset, {"noise_probability": 0.0, "hair_probability": 0.5})
    inputs = batch()
    together = augment(*inputs)[0]
    alone = torch.cat([augment(*(each[row : row + 1] for each in inputs))[0] for row in range(8)])
    # Matrix products sum in another order.
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_switching_one_op_off_leaves_the_draws_of_the_others():
    images, targets, valid, draws = batch()
    both = BatchAugment("none", {"cutout_probability": 0.5, "symmetry_probability": 0.5})
    mirrored = only("symmetry", 0.5)(images, targets, valid, draws)[0]
    cut = only("cutout", 0.5)(mirrored, targets, valid, draws)[0]
    assert torch.equal(both(images, targets, valid, draws)[0], cut)


def test_no_two_ops_read_the_same_draw():
    images, targets, valid, draws = batch(1)
    draws = draws.repeat(NUM_DRAWS, 1)
    # Row n differs from the first draws in number n only.
    changed = draws.clone()
    changed.fill_diagonal_(0)
    draws, changed = draws * 0.49, changed * 0.49 + 0.5 * torch.eye(NUM_DRAWS)
    images, targets = images.repeat(NUM_DRAWS, 1, 1, 1), targets.repeat(NUM_DRAWS)
    valid = valid.repeat(NUM_DRAWS)
    read = torch.zeros(NUM_DRAWS)
    for op in PIXEL_OPS:
        if op != "noise":
            augment = BatchAugment("none", {f"{op}_probability": 0.5, "hair_count": 8})
            before = augment(images, targets, valid, draws)[0]
            after = augment(images, targets, valid, changed)[0]
            read += (before != after).flatten(1).any(1)
    assert read.max() == 1
    # Of 95 without those of mixing; not every draw of a hair moves a pixel of so small an image.
    assert read.sum() > 50


def test_soft_targets_are_announced():
    assert only("mixup").mixes_targets
    assert only("cutmix", 0.1).mixes_targets
    assert not BatchAugment("strong").mixes_targets


def test_memory_format_is_kept():
    images, *rest = batch()
    last = images.contiguous(memory_format=torch.channels_last)
    augmented = BatchAugment("light")(last, *rest)[0]
    assert augmented.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmented, BatchAugment("light")(images, *rest)[0])


def test_autocast_costs_no_precision():
    augment, inputs = BatchAugment("strong", {"noise_probability": 0.0}), batch()
    with torch.autocast("cpu", torch.bfloat16):
        augmented = augment(*inputs)[0]
    assert augmented.dtype == torch.float32
    assert torch.equal(augmented, augment(*inputs)[0])


def test_augmentation_runs_in_inference_mode():
    with torch.inference_mode():
        images, targets = everything()(*batch())
    assert images.shape == (8, 3, SIDE, SIDE)
    assert targets.shape == (8,)


def test_wrong_number_of_draws_raises():
    images, targets, valid, draws = batch()
    with pytest.raises(ValueError, match=r"draws: expected shape \(8, 128\), found \(8, 3\)"):
        BatchAugment("light")(images, targets, valid, draws[:, :3])


def test_all_ops_trace_to_one_graph_without_gathers():
    augment = everything()
    inputs = batch(4)
    # A fake tensor has no values: tracing fails where one decides.
    graph = make_fx(augment, tracing_mode="fake")(*inputs).graph
    names = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    dynamic = ("gather", "scatter", "index", "nonzero", "_local_scalar", "grid_sampler")
    assert not [name for name in names if any(word in name for word in dynamic)]


def test_traced_graph_gives_the_same_for_other_draws():
    augment = BatchAugment("strong", {"noise_probability": 0.0})
    traced = make_fx(augment)(*batch(4, seed=0))
    other = batch(4, seed=1)
    torch.testing.assert_close(traced(*other), augment(*other))
