"""The subgroups of a table: by sex, age band, site, source and image size, where known."""

import pandas as pd

from lightning_melanoma.predictions import known_ages

#: A group with fewer positives is not scored: an AUROC of nine says next to nothing.
MIN_POSITIVES = 10
# Years: where a band starts. Invasive melanoma is rare before 40 and commonest from 70 on.
_AGE_STARTS = (0, 40, 55, 70)
_UNKNOWN = "unknown"
# Further values are one group; a report is no listing of image sizes.
_MAX_VALUES = 8


def groups_of(metadata: pd.DataFrame) -> "dict[str, pd.Series[str]]":
    """Return the group of each row by each property that tells at least two groups apart.

    Args:
        metadata: the optional columns of a prediction table.

    Returns:
        Properties by name, of the (N,) names of groups.
    """
    properties = {
        "sex": _values(metadata, "sex"),
        "age": _age_bands(metadata),
        "site": _values(metadata, "anatom_site_general_challenge"),
        "source": _values(metadata, "source"),
        "image size": _sizes(metadata),
    }
    return {
        name: groups
        for name, groups in properties.items()
        if groups is not None and groups.nunique() > 1
    }


def _values(metadata: pd.DataFrame, column: str) -> "pd.Series[str] | None":
    if column not in metadata:
        return None
    values = metadata[column].astype("string")
    # Shards of the field have -1 where a text is missing.
    values = values.mask(values.isin(["-1", ""])).fillna(_UNKNOWN)
    # They have numbers for texts, too: a group must not read like a count.
    values = values.where(~values.str.fullmatch(r"\d+"), "code " + values)
    frequent = values.value_counts().index[:_MAX_VALUES]
    return values.where(values.isin([*frequent, _UNKNOWN]), "other")


def _age_bands(metadata: pd.DataFrame) -> "pd.Series[str] | None":
    if "age_approx" not in metadata:
        return None
    ends = [*_AGE_STARTS[1:], None]
    names = [
        f"{start} or older" if end is None else f"{start} to {end - 1}" if start else f"under {end}"
        for start, end in zip(_AGE_STARTS, ends, strict=True)
    ]
    bands = pd.cut(known_ages(metadata), [*_AGE_STARTS, float("inf")], right=False, labels=names)
    return bands.astype("string").fillna(_UNKNOWN)


def _sizes(metadata: pd.DataFrame) -> "pd.Series[str] | None":
    if "width" not in metadata or "height" not in metadata:
        return None
    sizes = metadata["width"].astype("string") + " x " + metadata["height"].astype("string")
    return _values(pd.DataFrame({"size": sizes}), "size")
