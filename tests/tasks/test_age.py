import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from conftest import fields, jpeg
from sklearn.linear_model import LogisticRegression

from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.records.example import serialize_example
from lightning_melanoma.records.tfrecord import write_shard
from lightning_melanoma.tasks.age import AgeTerm
from lightning_melanoma.tasks.scratch import ScratchClassifier


def data_of(folder, ages, start=0, **settings) -> MelanomaDataModule:
    """Return 4 shards of one picture: old patients have a melanoma, young ones none."""
    picture = jpeg(0)
    for shard in range(4):
        numbers = range(start + 16 * shard, start + 16 * shard + 16)
        changes = [{"image": picture, "target": n % 2, "age_approx": ages[n % 2]} for n in numbers]
        records = [fields(n, **change) for n, change in zip(numbers, changes, strict=True)]
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        write_shard(folder / f"shards/train{shard:02d}-16.tfrec", map(serialize_example, records))
    return MelanomaDataModule(
        train=str(folder / "shards"),
        test=str(folder / "shards/train00*"),
        allow_patient_overlap=True,
        image_size=32,
        batch_size=8,
        **settings,
    )


def task(**settings) -> ScratchClassifier:
    small = {"conv_channels": [4, 8], "deconv_channels": [4], "depth": 1}
    return ScratchClassifier(**{**small, "use_age": True, **settings})


def trainer(folder, **settings) -> pl.Trainer:
    nothing = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        **{"max_epochs": 1, **dict.fromkeys(nothing, False), **settings},
    )


def test_the_term_is_linear_and_nothing_where_the_age_is_unknown():
    term = AgeTerm()
    ages = torch.tensor([30.0, 50.0, 85.0, 0.0, -1.0])
    assert term(ages).tolist() == [0.0] * 5
    with torch.no_grad():
        term.slope.fill_(0.2)
    torch.testing.assert_close(term(ages), torch.tensor([-0.4, 0.0, 0.7, -1.0, 0.0]))


def test_what_age_alone_tells_is_learned_and_predicted(tmp_path):
    data = data_of(tmp_path, ages=(30, 80))
    learner = task(learning_rate=0.02, warmup_epochs=0.0, tta=8)
    trainer(tmp_path, max_epochs=3).fit(learner, data)
    assert learner.age_term.slope > 0.1
    # Every image is the same: only the age tells them apart.
    assert learner.epochs.history[-1]["val_auroc"] == 1.0
    (said,) = trainer(tmp_path).predict(learner, data)[:1]
    old = torch.from_numpy(data.table("test")["age_approx"].to_numpy()[said.rows.numpy()] == 80)
    difference = said.logits[old].mean() - said.logits[~old].mean()
    torch.testing.assert_close(difference, learner.age_term.slope.detach() * 5)
    # Without ages it is the image's part.
    images = torch.from_numpy(data.images("test", [0, 1])).permute(0, 3, 1, 2)
    assert learner.eval()(images)[0] == learner(images)[1]


def test_the_slope_starts_as_age_alone_tells():
    rng = np.random.default_rng(0)
    ages = rng.integers(4, 18, 3000) * 5.0
    targets = rng.random(3000) < 1 / (1 + np.exp(4 - 0.3 * (ages - 50) / 10))
    table = pd.DataFrame({"age_approx": ages, "target": targets.astype(np.int64)})
    unknown = pd.DataFrame({"age_approx": [-1.0, 999.0, np.nan] * 500, "target": [1] * 1500})
    term = AgeTerm()
    term.start(pd.concat([table, unknown], ignore_index=True))
    # With a benign record and a melanoma of 30 years, and the same of 70.
    decades = np.append((ages - 50) / 10, [-2, -2, 2, 2])
    expected = LogisticRegression(C=np.inf, tol=1e-9).fit(
        decades[:, None], np.append(targets, [0, 1, 0, 1])
    )
    assert term.slope.item() == pytest.approx(expected.coef_.item(), abs=1e-4)
    assert term.slope.item() == pytest.approx(0.3, abs=0.12)


@pytest.mark.parametrize(
    ("ages", "targets", "low", "high"),
    [
        # Where age parts the classes there would be no best line, nor with one class or one age.
        ([20, 30, 70, 80], [0, 0, 1, 1], 0.3, 0.7),
        ([80, 20], [1, 0], 0.1, 0.5),
        ([20, 80, 50], [0, 0, 0], -0.1, 0.1),
        ([45, 45], [0, 1], -0.01, 0.01),
        ([60], [1], 0, 0.2),
    ],
)
def test_the_slope_starts_moderate_with_few_records(ages, targets, low, high):
    term = AgeTerm()
    term.start(pd.DataFrame({"age_approx": ages, "target": targets}))
    assert low <= term.slope.item() <= high


def test_extra_records_do_not_tell_where_the_slope_starts(tmp_path):
    data_of(tmp_path / "other", ages=(80, 30), start=100)
    slopes = []
    for extra in (None, str(tmp_path / "other/shards")):
        data = data_of(tmp_path / "own", ages=(30, 80), extra_train=extra)
        learner = task(learning_rate=0.0)
        trainer(tmp_path).fit(learner, data)
        slopes.append(learner.age_term.slope.item())
    assert slopes[0] == slopes[1] > 0.5


def test_a_slope_that_was_trained_does_not_start_again(tmp_path):
    data = data_of(tmp_path, ages=(30, 80))
    learner = task()
    trainer(tmp_path, max_epochs=1).fit(learner, data)
    with torch.no_grad():
        learner.age_term.slope.fill_(-3.0)
    trainer(tmp_path, max_epochs=1).fit(learner, data)
    assert learner.age_term.slope < -2.5


def test_the_slope_has_the_rate_of_the_head_and_no_decay(tmp_path):
    data = data_of(tmp_path, ages=(30, 80))
    learner = task(weight_decay=0.5)
    trained = trainer(tmp_path)
    trained.fit(learner, data)
    *_, group = trained.optimizers[0].param_groups
    assert group["params"] == [learner.age_term.slope]
    assert group["weight_decay"] == 0
    everything = [p for g in trained.optimizers[0].param_groups for p in g["params"]]
    assert len(everything) == len(list(learner.parameters()))


def test_a_model_without_the_term_does_as_if_there_were_no_ages(tmp_path):
    data = data_of(tmp_path, ages=(30, 80))
    plain = task(use_age=False)
    assert plain.age_term is None
    trainer(tmp_path).fit(plain, data)
    assert plain.epochs.history[-1]["val_auroc"] == 0.5


def test_batches_have_the_ages_of_the_table(tmp_path):
    data = data_of(tmp_path, ages=(-1, 45))
    data.setup("predict")
    for batch in data.loader("test"):
        assert batch.ages.dtype == torch.float32
        expected = data.table("test")["age_approx"].to_numpy()[batch.rows.numpy()]
        assert batch.ages.tolist() == expected.tolist()
        assert set(batch.ages.tolist()) <= {-1.0, 45.0}


def test_records_without_an_age_are_counted_or_refused(tmp_path, caplog):
    trainer(tmp_path).fit(task(), data_of(tmp_path, ages=(999, 45)))
    assert "model.use_age: 25 of 50 train records have no age" in caplog.text
    assert "model.use_age: 7 of 14 val records have no age" in caplog.text
    with pytest.raises(ValueError, match="expected an `age_approx` in the training records"):
        trainer(tmp_path).fit(task(), data_of(tmp_path, ages=(None, None)))


def test_mixed_images_are_refused():
    with pytest.raises(ValueError, match=r"model\.use_age: expected an augmentation"):
        task(augment_changes={"mixup_probability": 0.5})


def test_ages_come_from_a_csv_as_well(tmp_path):
    data_of(tmp_path, ages=(None, None))
    names = [f"ISIC_{number:07d}" for number in range(64)]
    ages = np.where(np.arange(64) % 3 == 0, "", "65")
    rows = "\n".join(f"{name},{age}" for name, age in zip(names, ages, strict=True))
    (tmp_path / "train.csv").write_text(f"image_name,age_approx\n{rows}\n")
    data = MelanomaDataModule(
        test=str(tmp_path / "shards"), metadata=str(tmp_path / "train.csv"), image_size=32
    )
    data.setup("predict")
    (batch,) = data.loader("test")
    found = dict(zip(data.table("test")["image_name"][batch.rows.numpy()], batch.ages, strict=True))
    assert [found[name] for name in names[:4]] == [-1, 65, 65, -1]
