import numpy as np
import pytest
from conftest import jpeg
from image_files import encoded, huge_png
from PIL import Image

from lightning_melanoma.scoring.files import ImageFiles, find_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with images at two depths, a text and a hidden file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    for name in ("b.jpg", "a.JPG", "below/c.png", ".hidden.jpg"):
        (tmp_path / name).write_bytes(jpeg(0))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_gives_every_file_below_it_but_the_hidden(folder):
    assert find_images(["."]) == ["a.JPG", "b.jpg", "below/c.png", "notes.txt"]


def test_paths_globs_and_folders_give_each_file_once(folder):
    assert find_images(["b.jpg", "*.jpg", "bel*"]) == ["b.jpg", "below/c.png"]
    assert find_images(["**/*.png"]) == ["below/c.png"]


def test_a_name_with_the_letters_of_a_glob_is_a_file(folder):
    (folder / "a[1].jpg").write_bytes(jpeg(0))
    assert find_images(["a[1].jpg"]) == ["a[1].jpg"]


@pytest.mark.parametrize("path", ["nowhere.jpg", "*.tif", "empty"])
def test_a_path_without_files_raises(folder, path):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="images: expected image files, found none at"):
        find_images(["b.jpg", path])


def test_batches_have_one_shape_and_the_order_of_the_files(tmp_path):
    paths = []
    for number in range(11):
        paths.append(str(tmp_path / f"{number}.jpg"))
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    files = ImageFiles(paths, image_size=16, batch_size=4, num_threads=3)
    batches = list(files)
    assert len(files) == len(batches) == 3
    assert {batch.images.shape for batch in batches} == {(4, 3, 16, 16)}
    rows = np.concatenate([batch.rows for batch in batches])
    assert list(rows) == [*range(11), -1]
    for number in (0, 10):
        batch, place = batches[number // 4], number % 4
        expected = np.asarray(Image.open(paths[number]).resize((16, 16), Image.BILINEAR))
        # libjpeg-turbo scales in the DCT, Pillow behind it: alike for a plain colour.
        assert np.abs(batch.images[place].permute(1, 2, 0).numpy() - expected.astype(int)).max() < 3
    assert files.faults == {}


def test_what_cannot_be_read_is_told_and_the_rest_is_read(tmp_path):
    contents = {
        "whole.jpg": jpeg(0),
        "text.jpg": b"no image",
        "empty.jpg": b"",
        "truncated.jpg": jpeg(1, size=256)[:500],
        "bomb.png": huge_png(),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "last.png").write_bytes(encoded(Image.new("RGBA", (40, 20), 200), "PNG"))
    names = [*contents, "link.jpg", "last.png"]
    files = ImageFiles([str(tmp_path / name) for name in names], image_size=8, batch_size=4)
    rows = np.concatenate([batch.rows for batch in files])
    assert list(rows) == [0, -1, -1, -1, -1, -1, 6, -1]
    assert "found 8 bytes that begin with b'no image'" in files.faults[1]
    assert "found 0 bytes" in files.faults[2]
    assert "expected a whole JPEG, found a damaged one" in files.faults[3]
    assert "expected at most 100,000,000 pixels" in files.faults[4]
    assert files.faults[5] == "expected a file that can be read, found: No such file or directory"
    assert sorted(files.faults) == [1, 2, 3, 4, 5]
