"""Every file of conf/ and every combination that the docs name builds model, data and trainer."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_melanoma.training import MelanomaCLI

ROOT = Path(__file__).parents[1]
CONFS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml"))


def combinations() -> list[tuple[str, ...]]:
    """Return the files behind `-c` of every command in the docs and in the heads of conf/."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    text = "\n".join(path.read_text() for path in pages)
    # A command goes on behind a backslash, in a comment too.
    lines = re.sub(r"\\\n#? *", " ", text).splitlines()
    found = {tuple(re.findall(r"-c (conf/\S+\.yaml)", line)) for line in lines}
    return sorted(found - {()})


class BuildOnly(MelanomaCLI):
    """Stops when all is built."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def build(*files: str) -> None:
    # Weights come from a hub or a file that a machine may lack.
    has_backbone = any(re.search(r"^ +weights:", Path(f).read_text(), re.M) for f in files)
    words = [word for file in files for word in ("-c", file)]
    words += ["--model.weights", "none"] if has_backbone else []
    cli = BuildOnly(["fit", *words, "--trainer.logger", "false"])
    assert cli.model.network is not None
    assert cli.datamodule.hparams["image_size"] > 0


@pytest.mark.parametrize("files", [(file,) for file in CONFS] + combinations(), ids=" ".join)
def test_builds(monkeypatch, files):
    monkeypatch.chdir(ROOT)
    if "conf/trainer/cuda.yaml" in files and not torch.cuda.is_available():
        with pytest.raises(MisconfigurationException, match="CUDAAccelerator"):
            build(*files)
    elif any("accelerator: xla" in Path(file).read_text() for file in files):
        pytest.importorskip("torch_xla")
        # XLA wants to be the first in its process.
        environment = {**os.environ, "PJRT_DEVICE": "CPU"}
        subprocess.run([sys.executable, __file__, *files], check=True, env=environment)
    else:
        build(*files)


def test_docs_name_combinations():
    assert ("conf/experiment/smoke.yaml",) in combinations()


@pytest.mark.parametrize("file", [file for file in CONFS if "experiment/" in file])
def test_an_experiment_says_how_it_was_run_and_what_came_out(file):
    head = [line for line in (ROOT / file).read_text().splitlines() if line.startswith("#")]
    assert f"-c {file}" in " ".join(head)
    assert "AUROC" in " ".join(head)


@pytest.mark.parametrize("file", CONFS)
def test_a_config_names_no_path_of_its_authors_machine(file):
    assert not re.search(r"(?<![\w.])/\w", re.sub(r"https?://\S+", "", (ROOT / file).read_text()))


if __name__ == "__main__":
    build(*sys.argv[1:])
