import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import write_shards

from lightning_melanoma.callbacks.novelty import LesionGate
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.decisions.novelty import CHECKPOINT_KEY, NoveltyGate
from lightning_melanoma.tasks.scratch import ScratchClassifier


def predict(folder, *, num_folds, splits=("val",)):
    """Return the callback behind a prediction of some of 120 records, and their embeddings."""
    write_shards(folder, num_shards=4, num_records=30)
    write_shards(folder, num_shards=1, num_records=5, prefix="test", start=1000)
    torch.manual_seed(0)
    task = ScratchClassifier(conv_channels=[4, 8], deconv_channels=[])
    data = MelanomaDataModule(
        train=str(folder), test=str(folder), image_size=32, batch_size=16, num_folds=num_folds
    )
    data.predict_splits = splits
    callback = LesionGate()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[callback],
    )
    with torch.no_grad():
        trainer.predict(task, datamodule=data, return_predictions=False)
        images = torch.from_numpy(data.images("val", range(len(data.table("val")))))
        embedding = task.eval().views(images.permute(0, 3, 1, 2).float() / 255, 1).embedding
    return callback, [part.numpy() for part in embedding]


def test_a_gate_knows_every_validation_image_once(tmp_path):
    callback, embeddings = predict(tmp_path, num_folds=2, splits=("test", "val"))
    gate = callback.gate
    assert len(gate.distances) == len(embeddings[0]) == 60
    for part, embedding in zip(gate.gaussians, embeddings, strict=True):
        assert part.center == pytest.approx(embedding.mean(axis=0), abs=1e-4)


def test_a_gate_is_kept_in_the_checkpoint_beside_what_is_there(tmp_path):
    callback, embeddings = predict(tmp_path, num_folds=2)
    torch.save({"other": torch.ones(2)}, tmp_path / "best.ckpt")
    callback.keep(tmp_path / "best.ckpt")
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert torch.equal(content["other"], torch.ones(2))
    kept = NoveltyGate.from_entry(content[CHECKPOINT_KEY])
    assert np.array_equal(kept.rarity(embeddings), callback.gate.rarity(embeddings))


def test_too_few_images_to_know_lesions_by_are_said(tmp_path, caplog):
    callback, _ = predict(tmp_path, num_folds=4)
    assert callback.gate is None
    assert "expected at least 40 images of 5 patients to know lesions by, found 30" in caplog.text
    callback.keep(tmp_path / "nowhere.ckpt")
    assert not (tmp_path / "nowhere.ckpt").exists()


def test_a_prediction_without_validation_makes_no_gate(tmp_path):
    callback, _ = predict(tmp_path, num_folds=2, splits=("test",))
    assert callback.gate is None
