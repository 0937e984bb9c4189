"""The demo data: what it promises to a first `fit`, and to whoever compares two runs on it."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lightning_melanoma.data import synthetic
from lightning_melanoma.data.decode import decode_image
from lightning_melanoma.data.lesions import draw_lesion, draw_picture, draw_severity
from lightning_melanoma.data.skin import draw_skin, draw_view
from lightning_melanoma.data.synthetic import demo_data, synthesize
from lightning_melanoma.metrics import auroc
from lightning_melanoma.records.example import parse_example
from lightning_melanoma.records.tfrecord import read_records

SMALL = {"num_train": 66, "num_test": 20, "num_shards": 4, "num_test_shards": 2, "image_size": 32}


def records(path: Path) -> list[dict[str, object]]:
    with path.open("rb") as stream:
        return [parse_example(record.payload) for record in read_records(stream, path.name)]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "small"
    synthesize(folder, **SMALL)
    return folder


def test_files_are_named_as_kaggles(small):
    assert sorted(path.name for path in small.iterdir()) == [
        "sample_submission.csv",
        "solution.csv",
        "test.csv",
        "test00-10.tfrec",
        "test01-10.tfrec",
        "train.csv",
        "train00-17.tfrec",
        "train01-17.tfrec",
        "train02-16.tfrec",
        "train03-16.tfrec",
    ]


def test_records_have_kaggles_fields_and_the_test_set_no_label(small):
    common = {"image", "image_name", "patient_id", "sex", "age_approx"}
    common |= {"anatom_site_general_challenge"}
    for path in small.glob("*.tfrec"):
        labels = {"target", "diagnosis"} if path.name.startswith("train") else set()
        for fields in records(path):
            assert set(fields) == common | labels
            assert decode_image(fields["image"], 32).shape == (32, 32, 3)


def test_tables_have_kaggles_columns_and_the_order_of_the_records(small):
    train, test = pd.read_csv(small / "train.csv"), pd.read_csv(small / "test.csv")
    metadata = ["image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"]
    assert list(train) == [*metadata, "diagnosis", "benign_malignant", "target"]
    assert list(test) == metadata
    for name in ("sample_submission.csv", "solution.csv"):
        table = pd.read_csv(small / name)
        assert list(table) == ["image_name", "target"]
        assert list(table["image_name"]) == list(test["image_name"])
    for prefix, table in (("train", train), ("test", test)):
        paths = sorted(small.glob(f"{prefix}*.tfrec"))
        found = [fields for path in paths for fields in records(path)]
        assert [fields["image_name"].decode() for fields in found] == list(table["image_name"])
        if prefix == "train":
            assert [fields["target"] for fields in found] == list(table["target"])


def test_no_patient_is_in_two_shards(small):
    patients = [
        {fields["patient_id"] for fields in records(path)} for path in small.glob("*.tfrec")
    ]
    assert sum(len(of) for of in patients) == len(set.union(*patients))


def test_equal_seeds_give_equal_bytes_with_any_number_of_threads(small, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    synthesize(tmp_path / "again", **SMALL)
    synthesize(tmp_path / "other", **SMALL, seed=1)
    assert digests(tmp_path / "again") == digests(small)
    assert not set(digests(tmp_path / "other").values()) & set(digests(small).values())


def test_a_picture_is_the_same_at_any_size():
    def draw(size: int) -> np.ndarray:
        skin = draw_skin(np.random.default_rng(1))
        rng = np.random.default_rng(2)
        view = draw_view(rng, skin)
        lesion = draw_lesion(rng, draw_severity(rng, 1))
        return draw_picture(rng, lesion, skin=skin, view=view, size=size).image.astype(float)

    halved = draw(128).reshape(64, 2, 64, 2, 3).mean((1, 3))
    # Grey levels of 255: the pixel noise and the finest hairs differ, all that is drawn does not.
    assert np.abs(halved - draw(64)).mean() < 5


def test_masks_are_where_the_lesions_are_and_change_nothing_else(small, tmp_path):
    synthesize(tmp_path / "demo", **SMALL, masks=True)
    names = pd.concat([pd.read_csv(small / f"{split}.csv") for split in ("train", "test")])
    masks = {
        path.name.removesuffix("_segmentation.png"): np.asarray(Image.open(path))
        for path in (tmp_path / "demo" / "masks").iterdir()
    }
    assert set(masks) == set(names["image_name"])
    darker = 0
    for path in small.glob("*.tfrec"):
        assert path.read_bytes() == (tmp_path / "demo" / path.name).read_bytes()
        for fields in records(path):
            mask = masks[fields["image_name"].decode()]
            assert mask.shape == (32, 32)
            assert set(np.unique(mask)) == {0, 255}
            blue = decode_image(fields["image"], 32)[..., 2].astype(float)
            # The middle of the frame: the lens may darken its corners.
            ring = np.zeros_like(mask)
            ring[4:28, 4:28] = 1
            darker += blue[mask == 255].mean() < blue[(mask == 0) & (ring == 1)].mean()
    # Pigment takes blue light; a hair or a glint may hide that in one of 86 small pictures.
    assert darker >= 84


def test_severity_tells_melanomas_with_the_stated_overlap():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 4000)
    severities = np.array([draw_severity(rng, target) for target in targets])
    # Phi(2.6 / sqrt(2)) = 0.967; 0.005 is three standard errors at 4,000 of each class.
    assert abs(auroc(targets, severities) - 0.967) < 0.005


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_shards": 0}, "num_shards: expected 1 or more, found 0"),
        ({"num_test": 1}, "num_test: expected at least one image for each of 2 shards, found 1"),
        ({"prevalence": 1.0}, "prevalence: expected a share between 0 and 1, found 1.0"),
        ({"image_size": 8}, "image_size: expected at least 32 pixels, found 8"),
        ({"seed": -1}, "seed: expected 0 or more, found -1"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        synthesize(tmp_path / "demo", **(SMALL | settings))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="expected a new or empty folder"):
        synthesize(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_when_it_is_broken_off(tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_draw", broken)
    (tmp_path / "mounted").mkdir()
    for name in ("new", "mounted"):
        with pytest.raises(KeyboardInterrupt):
            synthesize(tmp_path / name, **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["mounted"]


def test_an_empty_folder_is_filled_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    synthesize(tmp_path / "link", **SMALL)
    assert (tmp_path / "link").is_symlink()
    assert len(list((tmp_path / "real").iterdir())) == 10


@pytest.mark.slow
def test_the_defaults_are_what_a_first_fit_needs(tmp_path):
    folder = demo_data(tmp_path)
    made = folder.stat().st_mtime_ns
    assert demo_data(tmp_path).stat().st_mtime_ns == made
    names = [f"train{shard:02d}-128.tfrec" for shard in range(16)]
    names += [f"test{shard:02d}-128.tfrec" for shard in range(4)]
    assert sorted(path.name for path in folder.glob("*.tfrec")) == sorted(names)
    train, solution = pd.read_csv(folder / "train.csv"), pd.read_csv(folder / "solution.csv")
    assert (len(train), train["target"].sum()) == (2048, 205)
    assert (len(solution), solution["target"].sum()) == (512, 51)
    assert train.groupby("patient_id").size().between(1, 20).all()
    first = records(folder / "train00-128.tfrec")[0]
    assert decode_image(first["image"], 128).shape == (128, 128, 3)
    # The difficulty of the demo data was settled on these bytes: a change of how it is drawn needs
    # a new DEMO_VERSION and a new run of benchmarks/demo_difficulty.py.
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}) == 24
