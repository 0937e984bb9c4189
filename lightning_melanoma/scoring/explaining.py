"""Heat maps of scored files: each is read anew, in the sizes that the checkpoints take."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lightning_melanoma.explain.attribution import Method, check_settings
from lightning_melanoma.explain.overlay import write_explanations
from lightning_melanoma.scoring.ensemble import Member
from lightning_melanoma.scoring.files import ImageFiles

# Few enough for memory and a bar that moves.
_BATCH_SIZE = 16


def check_explanations(members: Sequence[Member], *, method: Method, layer: str | None) -> None:
    """Check ahead of scoring that every checkpoint can be explained so.

    Raises:
        ValueError: Captum is not there, or a model has no such method or layer.
    """
    for member in members:
        check_settings(member.classifier, image_size=member.image_size, method=method, layer=layer)


def explain_files(
    members: Sequence[Member],
    table: pd.DataFrame,
    *,
    out_dir: Path,
    method: Method,
    layer: str | None,
) -> None:
    """Write a picture for each scored file, as `write_explanations` does.

    Args:
        members: that it was scored by.
        table: `file` and `probability`, NA where it could not be scored.
        out_dir: the folder, made when it is missing.
        method: of `heat_maps`.
        layer: likewise.

    Raises:
        OSError: `out_dir` cannot be written.
    """
    scored = table[table["probability"].notna()]
    files, probabilities = scored["file"].tolist(), scored["probability"].to_numpy()
    sizes = sorted({member.image_size for member in members})
    streams = [ImageFiles(files, image_size=size, batch_size=_BATCH_SIZE) for size in sizes]
    # mininterval, in seconds: where stderr is a file, every step is a line of it.
    with tqdm(total=len(files), desc="Explaining", unit="image", mininterval=1) as bar:
        for batches in zip(*streams, strict=True):
            # -1 fills up the last batch.
            rows = batches[0].rows[batches[0].rows >= 0].tolist()
            of_size = dict(zip(sizes, batches, strict=True))
            write_explanations(
                [(m.classifier, of_size[m.image_size].images[: len(rows)]) for m in members],
                names=[files[row] for row in rows],
                probabilities=probabilities[rows],
                out_dir=out_dir,
                method=method,
                layer=layer,
            )
            bar.update(len(rows))
