"""Image files and a table in Kaggle's columns to TFRecord shards.

Records get the fields of the competition: ``image`` (JPEG), ``image_name``, ``target`` and what
metadata the table has; text is stored as bytes, whole numbers as int64. A patient is in one shard
only, and the shards have the same share of melanomas.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simplejpeg
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lightning_melanoma.csv_tables import check_unique, read_csv
from lightning_melanoma.data.decode import ImageError, decode_image
from lightning_melanoma.data.folds import patient_folds
from lightning_melanoma.records.example import serialize_example
from lightning_melanoma.records.files import atomic_folder
from lightning_melanoma.records.tfrecord import write_shard

# The quality that the writers of Kaggle's shards used.
_JPEG_QUALITY = 94
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# What `data.train`, `data.val` and `data.test` look for in a folder.
_PREFIXES = ("train", "val", "test")
# A message tells so many values of a column; a data set's diagnoses are fewer.
_NUM_NEAREST = 10
# Table columns that become fields of the records.
_FIELDS = (
    "patient_id",
    "target",
    "sex",
    "age_approx",
    "anatom_site_general_challenge",
    "diagnosis",
    "source",
)


def convert(
    images: str,
    csv: str,
    out: str,
    *,
    image_size: int = 256,
    num_shards: int = 15,
    prefix: str = "train",
    columns: dict[str, str] | None = None,
    melanoma: list[str] | None = None,
) -> None:
    """Write TFRecord shards from image files and a table.

    Args:
        images: folder with a .jpg, .jpeg or .png file for each row, named by its `image_name`.
        csv: table with `image_name` and, where known, `patient_id`, `target`, `sex`, `age_approx`,
            `anatom_site_general_challenge`, `diagnosis`, `source`.
        out: folder for the shards; new or empty.
        image_size: pixels of a side, at least 1; images are squeezed to a square, as Kaggle's are.
        num_shards: how many shards.
        prefix: how the shards' names begin: `train`, `val` or `test`.
        columns: names of columns that are called otherwise, e.g. `{image_name: image_id}`. One may
            serve for several.
        melanoma: values of `diagnosis` that make the target 1, where the table has no `target`.
            Each must be there, and every image must have a diagnosis.

    Raises:
        FileNotFoundError: the folder, the table or an image is not there.
        FileExistsError: `out` holds something.
        ValueError: a setting is out of its range or does not fit the table, the table lacks a
            column, an image has two files, or one cannot be read.
    """
    _check_settings(image_size, prefix, columns or {})
    table = _read_table(csv, columns or {}, melanoma)
    files = _find_images(images, list(table["image_name"]))
    if not 0 < num_shards <= len(table):
        raise ValueError(f"num_shards: expected 1 to {len(table)}, the rows, found {num_shards}")
    shards = _assign(table, num_shards)
    encode = partial(_encode, image_size=image_size)
    with (
        atomic_folder(Path(out)) as folder,
        ThreadPoolExecutor() as pool,
        tqdm(total=len(table), desc="Converting", unit="image") as bar,
    ):
        for shard in range(num_shards):
            rows = np.flatnonzero(shards == shard)
            payloads = []
            for row, image in zip(
                rows, pool.map(encode, [files[row] for row in rows]), strict=True
            ):
                payloads.append(serialize_example(_fields(table.iloc[row]) | {"image": image}))
                bar.update()
            write_shard(folder / f"{prefix}{shard:02d}-{len(rows)}.tfrec", payloads)


def _check_settings(image_size: int, prefix: str, columns: Iterable[str]) -> None:
    if image_size < 1:
        raise ValueError(f"image_size: expected at least 1 pixel, found {image_size}")
    if prefix not in _PREFIXES:
        raise ValueError(f"prefix: expected one of {', '.join(_PREFIXES)}, found {prefix!r}")
    known = ("image_name", *_FIELDS)
    if unknown := [name for name in columns if name not in known]:
        raise ValueError(
            f"columns: expected names out of {', '.join(known)}, found {', '.join(unknown)}; "
            "name first ours, then the table's, as in '{image_name: image_id}'"
        )


def _read_table(path: str, columns: dict[str, str], melanoma: list[str] | None) -> pd.DataFrame:
    if not Path(path).is_file():
        raise FileNotFoundError(f"csv: expected a table, found no file {path}")
    # As text, ids such as 0012 and codes such as 1 stay as they are.
    names = ("image_name", "patient_id", "diagnosis")
    dtypes = {columns.get(name, name): "str" for name in names}
    table = _rename(read_csv(path, dtypes, has_missing_words=True), columns, path)
    table["image_name"] = table["image_name"].astype(str)
    check_unique(table["image_name"], f"csv {path}")
    if melanoma is not None:
        table["target"] = _targets(table, melanoma, path)
    elif "target" in table:
        # Text where its column is the diagnosis, too.
        numbers = pd.to_numeric(table["target"], errors="coerce")
        if not numbers.isin([0, 1]).all():
            wrong = table[~numbers.isin([0, 1])].iloc[0]
            raise ValueError(
                f"csv {path}: expected target 0 or 1, found {wrong['target']} for "
                f"{wrong['image_name']}"
            )
        table["target"] = numbers
    return table


def _rename(table: pd.DataFrame, columns: dict[str, str], path: str) -> pd.DataFrame:
    missing = [name for name in columns.values() if name not in table]
    if missing:
        raise ValueError(
            f"columns: expected columns of {path}, found no {', '.join(missing)}; it has "
            f"{', '.join(table.columns)}"
        )
    named = {ours: table[theirs] for ours, theirs in columns.items()}
    # A column of one of our names that stands for another is no longer its own.
    table = table.drop(columns=list(columns.values())).assign(**named)
    if "image_name" not in table:
        raise ValueError(
            f"csv {path}: expected a column `image_name`, found {', '.join(table.columns)}; "
            "say which it is, as in --columns '{image_name: image_id}'"
        )
    return table


def _targets(table: pd.DataFrame, melanoma: list[str], path: str) -> "pd.Series[int]":
    if "target" in table:
        raise ValueError(
            f"melanoma: expected no `target` in {path}, found one; leave --melanoma out"
        )
    if "diagnosis" not in table:
        raise ValueError(f"melanoma: expected a column `diagnosis` in {path}, found none")
    empty = table["diagnosis"].isna()
    if empty.any():
        raise ValueError(
            f"melanoma: expected a `diagnosis` for each row of {path}, found none for "
            f"{empty.sum()}, the first {table['image_name'][empty].iloc[0]}; fill it in or take "
            "the row out"
        )
    values = sorted(table["diagnosis"].unique())
    for value in melanoma:
        if value not in values:
            nearest = get_close_matches(value, values, n=_NUM_NEAREST, cutoff=0.0)
            raise ValueError(
                f"melanoma: expected values of `diagnosis` in {path}, found {value!r} in no row; "
                f"the nearest of {len(values)} are {', '.join(nearest)}"
            )
    return table["diagnosis"].isin(melanoma).astype(int)


def _find_images(folder: str, names: list[str]) -> list[Path]:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"images: expected a folder, found none at {folder}")
    wanted = set(names)
    known: dict[str, Path] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.stem not in wanted or path.suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        if path.stem in known:
            raise ValueError(
                f"images: expected one file for {path.stem}, found {known[path.stem]} and {path}; "
                f"take one of them out of {folder}"
            )
        known[path.stem] = path
    missing = [name for name in names if name not in known]
    if missing:
        raise FileNotFoundError(
            f"images: expected a file ({', '.join(_IMAGE_SUFFIXES)}) for each of {len(names)} rows "
            f"in {folder}, found none for {len(missing)}, the first {missing[0]}"
        )
    return [known[name] for name in names]


def _assign(table: pd.DataFrame, num_shards: int) -> NDArray[np.int64]:
    patients = pd.Series("", index=table.index)
    if "patient_id" in table:
        # -1 is nobody, as in records.
        patients = table["patient_id"].fillna("").astype(str).replace(["-1", "-1.0"], "")
    strata = table["target"].astype(str) if "target" in table else ["unknown"] * len(table)
    shards = patient_folds(list(patients), list(strata), num_folds=num_shards, seed=0)
    num_filled = len(np.unique(shards))
    if num_filled < num_shards:
        raise ValueError(
            f"num_shards: expected at most {num_filled}, found {num_shards}, since a patient's "
            f"images stay in one; give --num_shards {num_filled}"
        )
    return shards


def _encode(path: Path, image_size: int) -> bytes:
    try:
        pixels = decode_image(path.read_bytes(), image_size)
    except ImageError as error:
        raise ValueError(f"image {path}: {error}; mend it or take its row out") from error
    image: bytes = simplejpeg.encode_jpeg(pixels, quality=_JPEG_QUALITY, colorsubsampling="444")
    return image


def _fields(row: "pd.Series[Any]") -> dict[str, bytes | str | int | float]:
    fields: dict[str, bytes | str | int | float] = {"image_name": row["image_name"]}
    for name in _FIELDS:
        value = row.get(name)
        if value is None or pd.isna(value):
            continue
        is_whole = not isinstance(value, str) and float(value).is_integer()
        fields[name] = int(value) if is_whole else value
    return fields
