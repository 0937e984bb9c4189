"""How many melanomas there are by side, source, sex, age, site and shard.

Sexes and sites are named as the records name them: codes where they hold codes.
"""

from typing import TypedDict

import pandas as pd

from lightning_melanoma.data.audit_records import Inspection
from lightning_melanoma.predictions import known_ages

# Edges of the age bands, years.
_AGE_EDGES = (0, 20, 40, 60, 80, float("inf"))
_AGE_NAMES = ("0-19", "20-39", "40-59", "60-79", "80 and above")
_UNKNOWN = "unknown"


class PrevalenceEntry(TypedDict):
    """The melanomas among the labelled records that share a value; None where none is."""

    by: str
    value: str
    records: int
    labelled: int
    melanomas: int | None
    prevalence: float | None


def count_melanomas(inspection: Inspection) -> list[PrevalenceEntry]:
    """Return the prevalence on each side, by source, sex, age, site and shard."""
    table = inspection.table
    side = table["is_val"].map({True: "--val", False: "given"})
    columns = {
        **({"side": side} if inspection.num_val else {"all": side}),
        "source": _named(table["source"]),
        "sex": _named(table["sex"]),
        "age": _age_bands(known_ages(table)),
        "site": _named(table["anatom_site_general_challenge"]),
        "shard": table["shard"].map(dict(enumerate(inspection.labels))),
    }
    targets = pd.to_numeric(table["target"], errors="coerce").astype(float)
    return [
        _prevalence_of(by, str(value), targets[rows.index])
        for by, column in columns.items()
        for value, rows in column.groupby(column, sort=True)
    ]


def _prevalence_of(by: str, value: str, targets: "pd.Series[float]") -> PrevalenceEntry:
    known = targets[targets.isin([0, 1])]
    return PrevalenceEntry(
        by=by,
        value=value,
        records=len(targets),
        labelled=len(known),
        melanomas=int(known.sum()) if len(known) else None,
        prevalence=float(known.mean()) if len(known) else None,
    )


def _named(column: "pd.Series[str]") -> "pd.Series[str]":
    # -1 is the code of what is missing, in all shards of this field.
    text = column.map(str)
    return text.where(column.notna() & ~text.isin(["-1", "-1.0", ""]), _UNKNOWN)


def _age_bands(years: "pd.Series[float]") -> "pd.Series[str]":
    bands = pd.cut(years, list(_AGE_EDGES), right=False, labels=list(_AGE_NAMES))
    return bands.astype(object).where(bands.notna(), _UNKNOWN)
