"""The README's commands that need no cloud, run as a reader would."""

import re
import shlex
from pathlib import Path

import pytest

from lightning_melanoma.cli import main

ROOT = Path(__file__).parents[1]
PREFIX = "python -m lightning_melanoma "


def commands() -> list[list[str]]:
    """Return the words of each command in a block of the README, without the program's name."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line.removeprefix(PREFIX)) for line in lines if line.startswith(PREFIX)]
    # DIR stands for the reader's own shards.
    return [words for words in found if "DIR" not in words]


@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    assert len(commands()) >= 4
    for words in commands():
        # One epoch shows that the command is right; what it learns, test_cli does.
        quick = ["--trainer.max_epochs", "1", "--data.image_size", "32"]
        main([*words, *(quick if words[0] == "fit" else [])])
    assert (
        len((tmp_path / "runs/melanoma/version_0/submission.csv").read_text().splitlines()) == 513
    )
    assert (tmp_path / "runs/smoke/version_0/submission.csv").is_file()


def test_it_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
