"""The command `score`: the probability that each image file shows a melanoma, and what to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from lightning_melanoma.explain.attribution import Method
from lightning_melanoma.records.files import prepare_file, prepare_folder
from lightning_melanoma.scoring.ages import read_ages
from lightning_melanoma.scoring.ensemble import (
    Accelerator,
    load_member,
    run_members,
    scoring_trainer,
)
from lightning_melanoma.scoring.explaining import check_explanations, explain_files
from lightning_melanoma.scoring.files import find_images
from lightning_melanoma.scoring.judging import basis_of, judge_files
from lightning_melanoma.scoring.words import as_text, write_table

_FORMATS = (".csv", ".json")


@dataclass(frozen=True, eq=False)
class Scores:
    """What is said of image files.

    Attributes:
        table: a row a file: `file`, `probability`, `lower` and `upper` (the Venn-Abers interval),
            `views_lower` and `views_upper` (over symmetries of the image), `decision` (`melanoma`,
            `benign` or `refer`), `note`; NA where there is none.
        text: the table and what it goes by, to read.
        exit_status: 1 if a file could not be scored, else 0.
    """

    table: pd.DataFrame
    text: str
    exit_status: int


def score(
    images: Sequence[str | Path] | str | Path,
    ckpt_path: Sequence[str | Path] | str | Path,
    *,
    sensitivity: float = 0.95,
    miss_rate: float | None = None,
    prevalence: float | None = None,
    views: Literal[1, 4, 8] = 4,
    metadata: str | None = None,
    out: str | None = None,
    explain: str | None = None,
    explain_by: Method = "grad_cam",
    layer: str | None = None,
    accelerator: Accelerator = "auto",
) -> Scores:
    """Tell the probability that each image file shows a melanoma. No medical device.

    Args:
        images: JPEG or PNG files, folders or globs.
        ckpt_path: `best.ckpt` of a run; of several, the mean of their log-odds.
        sensitivity: `melanoma` is said from the highest probability on that finds this share of the
            calibration set's melanomas.
        miss_rate: `benign` is only said where at most this share of melanomas is missed, `refer`
            between; without it, what is not melanoma is benign.
        prevalence: share of melanomas in the population that the images are from, where that is
            not the checkpoint's.
        views: symmetries of the image that the range is over; 1 for none.
        metadata: a CSV with `image_name` (a file's name without its suffix) and `age_approx`, for
            checkpoints that use the age.
        out: a .csv or .json file for the table.
        explain: a folder for a picture of each image, with what spoke for melanoma in it.
        explain_by: `grad_cam`, `integrated_gradients` or `occlusion`.
        layer: of the network, that Grad-CAM is taken at; by default the one that tells best where.
        accelerator: `auto`, `cpu`, `cuda` or `xla`.

    Returns:
        The table and its text, and exit status 1 if a file could not be scored.

    Raises:
        FileNotFoundError: a path matches no file, or a checkpoint is not there.
        ValueError: a setting is out of its range, or the checkpoints do not support it.
        OSError: `out` or `explain` cannot be written.
        MisconfigurationException: Lightning's, `accelerator` is not there.
    """
    if out is not None and Path(out).suffix not in _FORMATS:
        raise ValueError(f"out: expected a name that ends with .csv or .json, found {out}")
    members = [load_member(path) for path in _names(ckpt_path, "ckpt_path")]
    if explain is not None:
        check_explanations(members, method=explain_by, layer=layer)
    basis = basis_of(members, sensitivity=sensitivity, miss_rate=miss_rate, prevalence=prevalence)
    files = find_images(_names(images, "images"))
    ages = read_ages(files, metadata, members)
    trainer = scoring_trainer(accelerator)
    # The folder first: `out` may be in it, and must not be it.
    if explain is not None:
        prepare_folder(Path(explain), setting="explain")
    if out is not None:
        prepare_file(Path(out), setting="out")
    said, faults = run_members(members, files, ages, num_views=views, trainer=trainer)
    is_ageless = (ages < 0) & any(member.uses_age for member in members)
    table = judge_files(
        files, faults, basis=basis, said=said, num_views=views, is_ageless=is_ageless
    )
    if out is not None:
        write_table(table, basis, Path(out))
    if explain is not None:
        explain_files(members, table, out_dir=Path(explain), method=explain_by, layer=layer)
    text = as_text(table, basis, num_without_age=int(is_ageless.sum()))
    return Scores(table, text, exit_status=int(bool(faults)))


def _names(paths: Sequence[str | Path] | str | Path | None, setting: str) -> list[str]:
    names = [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths or [])]
    if not names:
        raise ValueError(f"{setting}: expected at least one path, found none; give --{setting}")
    return names
