from pathlib import Path

import pytest
from PIL import Image

from lightning_melanoma.cli import main
from lightning_melanoma.data.datamodule import MelanomaDataModule


@pytest.fixture
def folder(tmp_path, monkeypatch, demo) -> Path:
    """A working folder with pictures of two folders that share a name, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    pixels = MelanomaDataModule(test=str(demo), image_size=48).images("test", range(3))
    names = ("a/one.png", "a/two.png", "b/one.png")
    for name, image in zip(names, pixels, strict=True):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(name)
    Path("a/notes.txt").write_text("no image")
    return tmp_path


def score(*words, status):
    with pytest.raises(SystemExit) as exit_:
        main(["score", *map(str, words), "--accelerator", "cpu", "--explain", "looked_at"])
    assert exit_.value.code == status


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients", "occlusion"])
def test_every_scored_file_has_a_picture(folder, checkpoint, method):
    score("a", "b", "--ckpt_path", checkpoint, "--explain_by", method, status=1)
    found = sorted(path.name for path in (folder / "looked_at").iterdir())
    assert found == ["one.png", "one_2.png", "two.png"]


def test_several_checkpoints_share_a_picture(folder, runs):
    paths = [runs / f"{name}/version_0/checkpoints/best.ckpt" for name in ("one", "two")]
    score("a/one.png", "--ckpt_path", *paths, status=0)
    assert len(list((folder / "looked_at").iterdir())) == 1


def test_layer_that_does_not_exist_is_answered_by_the_list_and_nothing_is_scored(
    folder, checkpoint, capsys
):
    score("a", "--ckpt_path", checkpoint, "--layer", "conv9", "--out", "s.csv", status=2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        "layer: expected one that gives feature maps, found 'conv9'; there are features.0" in line
    )
    assert not list(folder.glob("s.csv"))
    assert not (folder / "looked_at").exists()
