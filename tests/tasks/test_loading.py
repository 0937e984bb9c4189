import pytest
import torch
from pytorch_lightning import Trainer

from lightning_melanoma.tasks.loading import load_classifier, read_checkpoint
from lightning_melanoma.tasks.scratch import ScratchClassifier


@pytest.fixture
def path(tmp_path):
    """The checkpoint of a small model."""
    torch.manual_seed(0)
    task = ScratchClassifier(conv_channels=[4], deconv_channels=[])
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "small.ckpt", weights_only=True)
    return tmp_path / "small.ckpt"


def test_a_checkpoint_says_what_it_is_one_of(path):
    content, model = read_checkpoint(path)
    assert model is ScratchClassifier
    assert content["hyper_parameters"]["conv_channels"] == [4]


def test_a_classifier_is_ready_to_be_used(path):
    classifier = load_classifier(str(path))
    assert isinstance(classifier, ScratchClassifier)
    assert not classifier.training
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    assert torch.equal(classifier(images), classifier(images))


def test_other_files_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found no file"):
        read_checkpoint(tmp_path / "nowhere.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    for name in ("text.ckpt", "empty.ckpt", "other.ckpt", "tensor.ckpt"):
        with pytest.raises(ValueError, match="expected a checkpoint of lightning_melanoma, found"):
            read_checkpoint(tmp_path / name)
