"""The most confident mistakes of a table: which images they are, and how they look.

Pictures come from shards, by the ids of the table. They are shrunk and encoded anew, so that a page
with all of them is small and holds nothing of the records but the pixels.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from lightning_melanoma.callbacks.pictures import confident_mistakes
from lightning_melanoma.csv_tables import first_named
from lightning_melanoma.data.decode import ImageError, decode_whole
from lightning_melanoma.predictions import known_ages
from lightning_melanoma.records.frames import Records
from lightning_melanoma.records.index import index_shards
from lightning_melanoma.records.storage import find_shards
from lightning_melanoma.report.judgement import Judgement

# Pixels of the longer side: twice what a picture has on the page, for sharp screens.
_PICTURE_SIZE = 360
_QUALITY = 85


class Mistake(NamedTuple):
    """An image that the operating point puts on the wrong side.

    Attributes:
        image_name: its id.
        probability: predicted, of melanoma.
        details: what is known of the patient and the site, in words.
    """

    image_name: str
    probability: float
    details: str


class Mistakes(NamedTuple):
    """The most confident mistakes of a table, the worst first: `callbacks.pictures` tells how many.

    Attributes:
        missed: melanomas that are called benign.
        false_alarms: benign lesions that are called melanoma.
    """

    missed: list[Mistake]
    false_alarms: list[Mistake]


def mistakes_of(judgement: Judgement) -> Mistakes:
    """Return the most confident mistakes at a table's operating point."""
    table = judgement.table
    sides = confident_mistakes(
        table.is_melanoma, table.probabilities, threshold=judgement.threshold
    )
    missed, false_alarms = (
        [
            Mistake(
                table.names[row],
                float(table.probabilities[row]),
                _details(table.metadata.iloc[row].to_dict()),
            )
            for row in rows
        ]
        for rows in sides
    )
    return Mistakes(missed, false_alarms)


def read_pictures(paths: Sequence[str], names: Sequence[str]) -> dict[str, bytes]:
    """Return a small JPEG of each of some images.

    Args:
        paths: of shards, as `find_shards` takes them.
        names: ids of the images; one that is there several times is taken from the first shard.

    Raises:
        ValueError: no record has one of the ids, or its image cannot be read.
        OSError: a shard cannot be read.
    """
    shards = find_shards(paths)
    index = index_shards(shards)
    if index.table.empty:
        raise index.faults[0]
    table = index.table.drop_duplicates("image_name").set_index("image_name")
    missing = [name for name in names if name not in table.index]
    if missing and index.faults:
        raise index.faults[0]
    if missing:
        raise ValueError(
            f"images: expected the shards to have the {len(names)} images to be shown, found no "
            f"record of {first_named(missing)}; name the shards that were predicted"
        )
    records = Records(shards, table.loc[list(names)])
    return {name: _small_jpeg(_decoded(records, row)) for row, name in enumerate(names)}


def _decoded(records: Records, row: int) -> NDArray[np.uint8]:
    try:
        return decode_whole(records.image(row))
    except ImageError as error:
        raise ImageError(f"{records.where(row)}: {error}") from error


def _small_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(pixels)
    # Never enlarges.
    picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE))
    return bytes(simplejpeg.encode_jpeg(np.asarray(picture), quality=_QUALITY))


def _details(metadata: Mapping[Hashable, Any]) -> str:
    words = [f"{age:g} years" for age in known_ages(pd.DataFrame([metadata])).dropna()]
    for name in ("sex", "anatom_site_general_challenge"):
        value = metadata.get(name)
        # Shards may have codes where there are texts, which say nothing here.
        if not pd.isna(value) and not re.fullmatch(r"-?\d*", str(value)):
            words.append(str(value))
    return ", ".join(words)
