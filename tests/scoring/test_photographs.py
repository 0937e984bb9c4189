"""The gate against photographs without a lesion, by a model of the demo data."""

import math
from pathlib import Path

import pytest
import skimage

import lightning_melanoma
from lightning_melanoma.cli import main
from lightning_melanoma.data.datamodule import MelanomaDataModule
from lightning_melanoma.data.synthetic import synthesize

# People, animals, things, pages, microscopy, the sky: all pictures that the package ships.
PHOTOGRAPHS = [
    str(path)
    for path in sorted((Path(skimage.__file__).parent / "data").iterdir())
    if path.suffix in (".jpg", ".png")
]


@pytest.mark.slow
def test_photographs_are_reported_and_lesions_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthesize("demo", num_train=800, num_test=400, image_size=64, prevalence=0.2)
    main(
        [
            "fit",
            *("--data.train", "demo", "--data.test", "demo", "--data.num_folds", "2"),
            *(
                "--data.image_size",
                "64",
                "--trainer.max_epochs",
                "4",
                "--trainer.accelerator",
                "cpu",
            ),
        ]
    )
    checkpoint = "runs/melanoma/version_0/checkpoints/best.ckpt"
    assert len(PHOTOGRAPHS) > 20
    found = lightning_melanoma.score(PHOTOGRAPHS, checkpoint, views=1, accelerator="cpu").table
    is_reported = found["note"].str.startswith("no lesion?")
    assert found.loc[is_reported, "decision"].eq("refer").all()
    assert is_reported.mean() >= 0.9
    module = MelanomaDataModule(train="demo", test="demo", num_folds=2, image_size=64)
    Path("lesions").mkdir()
    for row in range(400):
        data = module.loader("test").source.images.records.image(row)
        Path(f"lesions/{row:03}.jpg").write_bytes(data)
    lesions = lightning_melanoma.score("lesions", checkpoint, views=1, accelerator="cpu").table
    # Images of a patient are alike: it is as if each patient were one image.
    num_patients = [module.table(split)["patient"].nunique() for split in ("val", "test")]
    deviation = math.sqrt(0.05 * 0.95 * sum(1 / number for number in num_patients))
    assert lesions["note"].str.startswith("no lesion?").mean() < 0.05 + 3 * deviation
